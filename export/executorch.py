"""ExecuTorch: one model.pte for XNNPACK, with the method names of ExecuTorch's own runners.

    vision_encoder     pixel_values (1, 3, H, W), one tile -> (1, N, D); vision_encoder_448x448 and so on for families
                       of free image sizes, patches (P, patch) of one image -> (N, D); or one view (N, ...) of any N
    token_embedding    input_ids (1, T) -> (1, T, D)
    text_decoder       inputs_embeds (1, T, D), start_pos (1,) -> logits (1, 1, V) of the last token; the cache is
                       inside; one method for prefill and decode
    get_max_seq_len, get_eos_ids, ...    what the runners ask for

Families with positions of several axes, or features that go into the decoder beside the embeddings, pass these too,
which ExecuTorch's C++ runner cannot.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.export import NO_OPTIONS, Options, Target, Written, vision_name
from edgekit.export._context import context_of
from edgekit.export._executorch_backend import PLAIN, Backend
from edgekit.export._executorch_coreml import BACKEND as COREML
from edgekit.export._executorch_decoder import cached_decoder
from edgekit.export._executorch_mlx import BACKEND as MLX
from edgekit.export._executorch_precision import int8_rows, static
from edgekit.export._executorch_vulkan import BACKEND as VULKAN
from edgekit.export._executorch_xnnpack import BACKEND as XNNPACK
from edgekit.families import Split, VisionPart, read_optional_json
from edgekit.families.merging import runs_of
from edgekit.formats.executorch.delegates import FILE, details
from edgekit.formats.executorch.program import load_custom_ops
from edgekit.inputs.processor import Inputs
from edgekit.manifest import Component, TensorSpec
from edgekit.precision import FP32, INT4, INT8, INT8_STATIC, TargetPrecision, by_name


@dataclass(frozen=True)
class ExecutorchPrecision(TargetPrecision):
    """A precision of the target executorch.

    Attributes:
        parts: What vision, embedding and text become. Four bits are the decoder's alone.
    """

    parts: tuple[str, str, str] = ("fp32", "fp32", "fp32")


PRECISIONS = by_name(
    ExecutorchPrecision(FP32, "float32"),
    ExecutorchPrecision(
        INT8,
        "8da8w: dynamic int8 inputs per token, int8 weights per channel; embeddings int8, a scale per row",
        parts=("int8", "int8", "int8"),
    ),
    ExecutorchPrecision(
        INT8_STATIC,
        "vision encoder by PT2E: int8 inputs by calibration, int8 weights per channel, the patch convolution too; "
        "decoder and embeddings as int8",
        calibrated=True,
        parts=("int8-static", "int8", "int8"),
    ),
    ExecutorchPrecision(
        INT4,
        "8da4w: dynamic int8 inputs per token, 4-bit weights in groups of 32 in the decoder, int8 per channel in the "
        "vision encoder; embeddings int8, a scale per row",
        parts=("int8", "int8", "int4"),
    ),
)
BACKENDS = {backend.name: backend for backend in (XNNPACK, VULKAN, COREML, MLX)}
PACKAGES = {name: name for name in ("executorch", "torchao")}
CONTEXT = 2048  # tokens the cache holds, unless the model knows fewer positions
TILES = 32  # images or tiles of each size that static quantisation sees, at most: its histograms are slow to fill


@dataclass(frozen=True)
class Method:
    """One method of the program.

    Attributes:
        name: Of the method and the component.
        module: What is traced.
        example: Inputs of its forward.
        inputs, outputs: Names, types and shapes; a name among the sizes is a free size.
        precision: Its part's.
        most: Of its free size; as many tokens as the cache holds when None.
    """

    name: str
    module: Any
    example: tuple[Any, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    most: int | None = None


def write(
    split: Split, precision: str, folder: Path, calibration: Sequence[Inputs] = (), options: Options = NO_OPTIONS
) -> Written:
    """Write model.pte.

    Args:
        split: The modules, float32.
        precision: One of PRECISIONS.
        folder: The bundle's.
        calibration: Prompts, for a precision that is calibrated.
        options: `backend`.

    Returns:
        The components by name, all in one file, and the versions of the tools.

    Raises:
        EdgekitError: a precision that is calibrated, and no images.
    """
    backend = chosen(options)
    backend.check_needs(split)
    with quiet():
        _import_tools()
        made = methods(split, precision, context_of(split, CONTEXT), _images(split, calibration), backend)
        program = lower(made, constants(split, folder), backend).to_executorch()
        with (folder / FILE).open("wb") as stream:
            program.write_to_file(stream)
    return (
        {method.name: Component(FILE, method.inputs, method.outputs, method.precision) for method in made},
        {package: version(package) for package in PACKAGES.values()},
    )


def chosen(options: Options) -> Backend:
    """The back-end that `--option backend=` names."""
    return BACKENDS[options.get("backend", XNNPACK.name)]


def plan(precision: str, options: Options) -> None:
    """Refuse what a back-end is not lowered in.

    Raises:
        UnsupportedError: it has no such precision.
        MissingExtraError: a package that lowers for it is not installed.
    """
    chosen(options).check(precision)


def _import_tools() -> None:
    load_custom_ops()
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  (what tracing must know of them)


def constants(split: Split, folder: Path) -> dict[str, Any]:
    """The constant methods that ExecuTorch's runners read.

    Args:
        split: Of the model.
        folder: With config.json, for the token that opens a prompt.
    """
    config = read_optional_json(folder / "config.json")
    bos = config.get("text_config", config).get("bos_token_id", config.get("bos_token_id"))
    return {
        "get_max_seq_len": context_of(split, CONTEXT),
        "get_max_context_len": context_of(split, CONTEXT),
        "get_vocab_size": split.vocab_size,
        "get_bos_id": bos if isinstance(bos, int) else 0,
        "get_eos_ids": split.eos_token_ids,
        "get_n_layers": split.layers,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    }


def methods(
    split: Split,
    precision: str,
    context: int,
    images: Mapping[str, Sequence[Any]] | None = None,
    backend: Backend = XNNPACK,
) -> list[Method]:
    """The program's methods, their modules written as a back-end takes them and their weights quantised.

    Args:
        split: The modules, float32; they stay as they are.
        precision: One of PRECISIONS.
        context: Tokens the cache holds.
        images: Bucket -> inputs of its encoder, for a precision that is calibrated.
        backend: Which.
    """
    vision, embedding, text = PRECISIONS[precision].parts
    shown = images or {}
    return [
        *(
            _vision(vision_name(bucket), part, split, vision, shown.get(bucket, ()), backend)
            for bucket, part in split.vision.items()
        ),
        _embedding(split, embedding),
        _decoder(split, text, context, backend),
    ]


def _images(split: Split, prompts: Sequence[Inputs]) -> dict[str, list[Any]]:
    """What each bucket's encoder is given on some prompts, a run at a time, TILES runs at most."""
    import torch

    found: dict[str, list[Any]] = {}
    for prompt in prompts:
        if prompt.pixels is not None:
            for name, values in runs_of(split, prompt.pixels):
                runs = [tile[None] for tile in values] if split.vision[name].grid is None else [values]
                found.setdefault(name, []).extend(torch.from_numpy(np.ascontiguousarray(run)) for run in runs)
    return {name: runs[:TILES] for name, runs in found.items()}


def _vision(
    name: str,
    part: VisionPart,
    split: Split,
    precision: str,
    images: Sequence[Any],
    backend: Backend = XNNPACK,
) -> Method:
    import torch

    # One tile a run: XNNPACK plans a fixed shape, and the runners give one image at a time.
    tokens: Any = "image_tokens" if part.of_any_view else part.tokens
    shape: tuple[Any, ...] = (tokens, *part.one_run[1:]) if part.of_any_view else part.one_run
    batch = () if part.of_any_view else shape[:-3]
    outputs = [TensorSpec("image_features", "float32", (*batch, tokens, split.width))]
    outputs += [TensorSpec(one.feature, one.dtype, one.encoded(part.tokens)) for one in split.features]
    module, example = backend.written(part.module, PLAIN), (torch.randn(part.one_run),)
    most = part.tokens if part.of_any_view else None
    if precision == "int8-static":
        module = static(name, module, example, images, most)
    else:
        backend.quantise(module, precision)
    pixels = TensorSpec("pixel_values", "float32", shape)
    return Method(name, module, example, (pixels,), tuple(outputs), precision, most)


def _embedding(split: Split, precision: str) -> Method:
    import torch
    from torch import nn

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = split.token_embedding

        def forward(self, input_ids: Any) -> Any:
            return self.embedding(input_ids)

    return Method(
        "token_embedding",
        int8_rows(split) if precision == "int8" else Embedding().eval(),
        (torch.zeros(1, 5, dtype=torch.int64),),
        (TensorSpec("input_ids", "int64", (1, "tokens")),),
        (TensorSpec("inputs_embeds", "float32", (1, "tokens", split.width)),),
        precision,
    )


def _decoder(split: Split, precision: str, context: int, backend: Backend) -> Method:
    import torch

    tokens = 5  # above 1: torch.export takes a size of 0 or 1 for a constant
    module = cached_decoder(split, context, backend)
    backend.quantise(module, precision)
    example = [torch.randn(1, tokens, split.width), torch.tensor([3])]
    inputs = [
        TensorSpec("inputs_embeds", "float32", (1, "tokens", split.width)),
        TensorSpec("start_pos", "int64", (1,)),
    ]
    positions = split.extra_inputs[0]
    if split.position_axes > 1:  # of one axis they are counted from start_pos
        example.append(torch.arange(tokens).expand(positions.sized(1, tokens)).contiguous())
        inputs.append(TensorSpec(positions.name, positions.dtype, positions.sized(1, "tokens")))
    for one in split.features:
        example.append(torch.zeros(one.sized(1, tokens)))
        inputs.append(TensorSpec(one.name, one.dtype, one.sized(1, "tokens")))
    logits = TensorSpec("logits", "float32", (1, 1, split.vocab_size))
    return Method("text_decoder", module, tuple(example), tuple(inputs), (logits,), precision)


def lower(made: list[Method], constant_methods: dict[str, Any], backend: Backend = XNNPACK) -> Any:
    """Trace the methods and hand to a back-end what it takes; the embedding is a look-up in every one of them.

    Args:
        made: From `methods`, for the same back-end.
        constant_methods: From `constants`.
        backend: Which.

    Returns:
        An EdgeProgramManager.
    """
    import torch

    traced = {}
    for method in made:
        with torch.no_grad(), backend.traced(method.module):
            traced[method.name] = _trace(method, constant_methods["get_max_seq_len"])
    return backend.lower(traced, [name for name in traced if name != "token_embedding"], constant_methods)


def _trace(method: Method, context: int) -> Any:
    import torch
    from torch.export import Dim

    tokens = Dim("tokens", min=1, max=context if method.most is None else method.most)
    free = tuple(
        {axis: tokens for axis, size in enumerate(spec.shape) if isinstance(size, str)} or None
        for spec in method.inputs
    )
    shapes: Any = free
    if len(free) > 2:  # forward(inputs_embeds, start_pos, *more)
        shapes = (*free[:2], free[2:])
    return torch.export.export(method.module, method.example, dynamic_shapes=shapes, strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporters' chatter."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


TARGET = Target(
    name="executorch",
    precisions=PRECISIONS,
    extra="executorch",
    packages=PACKAGES,
    hosts=("Linux", "Darwin"),
    runtimes=("executorch",),
    write=write,
    knows=frozenset({"blocks", "conv", "pack", "recurrent", "views"}),
    options={"backend": tuple(BACKENDS)},
    plan=plan,
    details=details,
)
