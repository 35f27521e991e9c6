"""Core ML: ML Programs for iPhone, iPad and Mac, in one multifunction package or in several.

    vision_encoder     pixel_values (1, 3, H, W), one tile -> image_features (1, N, D); vision_encoder_448x448 and so on
                       for families of free image sizes, patches (P, patch) of one image -> (N, D)
    token_embedding    input_ids (1, T) -> inputs_embeds (1, T, D)
    prefill, decode    inputs_embeds (1, T, D), attention_mask (1, 1, T, S), position_ids (1, T) or (3, 1, T), and where
                       the options or the model want them start (1,), deepstack_embeds (L, 1, T, D), past_key_0 ... ->
                       logits (1, 1, V) of the last token, and present_key_0 ... where past_key_0 ... were given

Both functions of the decoder share one set of weights, and states of the same names. Separate packages have one
function for both: text_decoder.mlpackage.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import __version__
from edgekit.console import progress
from edgekit.errors import EdgekitError
from edgekit.export import NO_OPTIONS, Options, Target, Written
from edgekit.export._context import context_of
from edgekit.export._coreml_metadata import describe, label
from edgekit.export._coreml_modules import switch
from edgekit.export._coreml_precision import CALIBRATED_SUFFIX, GROUP, compress
from edgekit.export._coreml_programs import Plan, Program, programs
from edgekit.export._grids import BLOCK, Grids
from edgekit.export._moments import Moments, measure
from edgekit.export.coreml_patches import patched
from edgekit.families import Split
from edgekit.formats.coreml.programs import CONTEXT, FUNCTIONS, LENGTHS
from edgekit.inputs.processor import Inputs
from edgekit.manifest import Component, TensorSpec
from edgekit.precision import (
    FP16,
    FP32,
    INT4,
    INT4_CALIBRATED,
    INT8,
    PAL4,
    PAL4_CALIBRATED,
    PAL6,
    PAL6_CALIBRATED,
    TargetPrecision,
    by_name,
    by_part,
    is_mixed,
)

BLOCKS = f"linear layers int4 in blocks of {BLOCK} inputs, symmetric; embeddings int8; arithmetic Float16"
PALETTE = (
    f"linear layers as {{}}-bit palettes, one for {GROUP} outputs (iOS 17: one a layer); embeddings int8; "
    "arithmetic Float16"
)
SHOWN = "{}; chosen for the inputs of calibration prompts"
PRECISIONS = by_name(
    TargetPrecision(FP16, "Float16 weights and arithmetic"),
    TargetPrecision(
        FP32, "Float32 weights and arithmetic; the cache goes in and out, because states are Float16: for checks"
    ),
    TargetPrecision(
        INT8, "linear layers int8 per output channel, symmetric; embeddings int8 per token; arithmetic Float16"
    ),
    TargetPrecision(INT4, BLOCKS),
    TargetPrecision(PAL4, PALETTE.format(4)),
    TargetPrecision(PAL6, PALETTE.format(6)),
    TargetPrecision(INT4_CALIBRATED, SHOWN.format(BLOCKS), calibrated=True),
    TargetPrecision(PAL4_CALIBRATED, SHOWN.format(PALETTE.format(4)), calibrated=True),
    TargetPrecision(PAL6_CALIBRATED, SHOWN.format(PALETTE.format(6)), calibrated=True),
)
EMBEDDING = by_name(
    TargetPrecision(FP16, "Float16"),
    TargetPrecision(FP32, "Float32"),
    TargetPrecision(INT8, "int8 per token, symmetric"),
)
PACKAGES = {"coremltools": "coremltools"}
OPTIONS: dict[str, tuple[str, ...] | str] = {
    "ios": ("18", "17"),
    "layout": ("multifunction", "separate"),
    "cache": ("states", "explicit"),
    "lengths": ("range", "buckets"),
    "context": "2048",
    "author": f"exported by edgekit {__version__}",
    "licence": "not stated: --option licence=... says it",
}
"""Name -> its choices, the default first, or the default of a free text."""
BUCKETS = (16, 64, 256)  # lengths of a prefill, where they are listed
PACKAGE = "model.mlpackage"


def plan(precision: str, options: Mapping[str, str]) -> Plan:
    """Check that precision and options go together, before anything is loaded.

    Args:
        precision: One of PRECISIONS, or a mixture of PARTS.
        options: Those given; the others have their defaults.

    Raises:
        EdgekitError: they do not.
    """
    precisions = by_part(precision)
    if not is_mixed(precision):  # by_part leaves the table alone where it is one for linear layers
        precisions["embedding"] = precision if precision in EMBEDDING else "int8"
    chosen = {name: value if isinstance(value, str) else value[0] for name, value in OPTIONS.items()}
    old = options.get("ios", chosen["ios"]) == "17"
    if old:
        chosen |= {"layout": "separate", "cache": "explicit"}
    if precisions["text"] == "fp32":
        chosen["cache"] = "explicit"
    chosen |= options
    _refuse(old and chosen["layout"] == "multifunction", "ios=17", "multifunction packages are new in iOS 18")
    _refuse(old and chosen["cache"] == "states", "ios=17", "states are new in iOS 18")
    blocks = any(one.removesuffix(CALIBRATED_SUFFIX) == "int4" for one in precisions.values())
    _refuse(old and blocks, "ios=17", "int4 blocks are new in iOS 18; pal4 is as small")
    _refuse(
        precisions["text"] == "fp32" and chosen["cache"] == "states", "cache=states", "Core ML keeps states in Float16"
    )
    buckets = chosen["lengths"] == "buckets"
    _refuse(buckets and chosen["cache"] == "explicit", "lengths=buckets", "a cache that goes in and out has any length")
    if not chosen["context"].isdecimal() or not 2 <= int(chosen["context"]) <= 1 << 20:
        raise EdgekitError(f"--option context={chosen['context']}: not a number of tokens.", fix="Say 2048, or so.")
    context = int(chosen["context"])
    shared = chosen["layout"] == "multifunction"
    lengths = tuple(size for size in BUCKETS if size < context) if buckets else ()
    return Plan(
        precisions, 17 if old else 18, shared, chosen["cache"] == "states",
        lengths if shared or not buckets else (1, *lengths), context,
        {"author": chosen["author"], "license": chosen["licence"]},
    )  # fmt: skip


def _refuse(wrong: bool, option: str, why: str) -> None:
    if wrong:
        raise EdgekitError(
            f"--option {option} does not go with the rest of this export.",
            why=f"{why[0].upper()}{why[1:]}.",
            fix="Leave one of them out; docs/coreml.md has a table of what goes together.",
        )


def write(
    split: Split, precision: str, folder: Path, calibration: Sequence[Inputs] = (), options: Options = NO_OPTIONS
) -> Written:
    """Write the packages.

    Args:
        split: The modules, float32.
        precision: One of PRECISIONS, or a mixture of PARTS.
        folder: The bundle's.
        calibration: Prompts, for a precision that is calibrated.
        options: Of OPTIONS.

    Returns:
        The components by name, and the versions of the tools.

    Raises:
        EdgekitError: options that do not go together; or a precision that is calibrated, and no prompts.
    """
    chosen = _within(plan(precision, options), split)
    moments = _moments(split, chosen, calibration)
    with progress() as bar, quiet(), tempfile.TemporaryDirectory() as aside:
        import coremltools as ct

        made, grids = list(programs(split, chosen)), Grids(moments, bar)
        files = {}
        for program in made:
            package = (Path(aside) if chosen.shared else folder) / f"{program.name}.mlpackage"
            convert(program, chosen, grids).save(str(package))
            files[program.name] = package
        if chosen.shared:
            together = ct.utils.MultiFunctionDescriptor()
            for name, package in files.items():
                together.add_function(str(package), "main", FUNCTIONS.get(name, name))
            together.default_function_name = FUNCTIONS["text_decoder"]
            ct.utils.save_multifunction(together, str(folder / PACKAGE))
    settings = {
        CONTEXT: str(chosen.context),
        LENGTHS: ",".join(map(str, chosen.lengths)),
        "edgekit.precision": ", ".join(f"{part} {one}" for part, one in chosen.precisions.items()),
    }
    labels = (chosen.labels["author"], chosen.labels["license"])
    about = {program.name: program.about for program in made}
    if chosen.shared:
        functions = {FUNCTIONS.get(name, name): what for name, what in about.items()}
        describe(folder / PACKAGE, functions, settings, *labels)
    else:
        for name, package in files.items():
            describe(package, {name: about[name]}, settings, *labels)
    return (
        {
            program.name: Component(
                f"{PACKAGE if chosen.shared else f'{program.name}.mlpackage'}/Manifest.json",
                program.inputs,
                program.outputs,
                chosen.precisions[program.part],
            )
            for program in made
        },
        {package: version(package) for package in PACKAGES.values()},
    )


def _moments(split: Split, chosen: Plan, calibration: Sequence[Inputs]) -> Moments:
    """What calibration is told, where a part's precision wants it."""
    wanted = {part: one for part, one in chosen.precisions.items() if one in PRECISIONS and PRECISIONS[one].calibrated}
    return measure(split, calibration, wanted) if wanted else Moments()


def _within(chosen: Plan, split: Split) -> Plan:
    """The plan with no more context than the model knows positions."""
    context = context_of(split, chosen.context)
    text: Any = split.text
    limit = switch(getattr(text.text_model, "rotary_emb", None), context)
    _refuse(
        bool(chosen.lengths) and limit is not None, "lengths=buckets",
        f"this model rotates a text of more than {limit} tokens by other angles, and a prompt in pieces is not yet "
        "known to be one",
    )  # fmt: skip
    _refuse(
        bool(chosen.lengths) and split.blocks, "lengths=buckets",
        "the tokens of an image see each other in this model, and a prompt in pieces could part them",
    )  # fmt: skip
    _refuse(
        bool(chosen.lengths) and not all(state.rewinds for state in split.states), "lengths=buckets",
        "a prompt in such pieces ends in padding, and this model's states could not forget it",
    )  # fmt: skip
    return replace(chosen, context=context, lengths=tuple(size for size in chosen.lengths if size < context))


def convert(program: Program, chosen: Plan, grids: Grids | None = None) -> Any:
    """Trace and convert one function, its weights compressed; coremltools' model, not yet saved.

    Args:
        program: From `programs`.
        chosen: The plan.
        grids: Of this export; uncalibrated ones where there are none.
    """
    import coremltools as ct
    import torch

    with torch.no_grad(), patched():
        trace: Any = torch.jit.trace
        traced = trace(program.module, program.example, check_trace=False)
        free = {name: ct.RangeDim(1, chosen.context, default=1) for name in ("tokens", "total", "past")}
        if program.most is not None:
            free["image_tokens"] = ct.RangeDim(1, program.most, default=program.most)
        options: dict[str, Any] = {}
        if program.states:
            options["states"] = [
                ct.StateType(ct.TensorType(shape=shape, dtype=np.float16), name=name)
                for name, shape in program.states.items()
            ]
        precision = chosen.precisions[program.part]
        converted = ct.convert(
            traced,
            inputs=[
                ct.TensorType(spec.name, shape=_shape(spec, free, chosen, program), dtype=np.dtype(spec.dtype).type)
                for spec in program.inputs
            ],
            outputs=[ct.TensorType(spec.name, dtype=np.dtype(spec.dtype).type) for spec in program.outputs],
            minimum_deployment_target=getattr(ct.target, f"iOS{chosen.ios}"),
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
            skip_model_load=True,
            **options,
        )
        operation = "gather" if program.part == "embedding" else "linear"
        return compress(converted, precision, operation, grids or Grids(), grouped=chosen.ios >= 18, label=program.name)


def _shape(spec: TensorSpec, free: Mapping[str, Any], chosen: Plan, program: Program) -> Any:
    import coremltools as ct

    if "tokens" in spec.shape and chosen.lengths and program.part == "text":
        return ct.EnumeratedShapes(
            [[size if axis == "tokens" else axis for axis in spec.shape] for size in chosen.lengths]
        )
    return tuple(free[axis] if isinstance(axis, str) else axis for axis in spec.shape)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the converter's chatter: progress bars, and warnings of versions it was not tried with."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


TARGET = Target(
    name="coreml",
    precisions=PRECISIONS,
    extra="coreml",
    packages=PACKAGES,
    hosts=("Linux", "Darwin"),
    runtimes=("coreml",),
    write=write,
    parts={"vision": PRECISIONS, "embedding": EMBEDDING, "text": PRECISIONS},
    options=OPTIONS,
    plan=plan,
    label=label,
    knows=frozenset({"blocks", "conv", "pack", "views"}),
    lacks={"recurrent": "Each token changes it in turn; this target writes no such loop yet."},
)
