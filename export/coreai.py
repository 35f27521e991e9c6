"""Core AI, Apple's successor of Core ML: the bundle layout of apple/coreai-models, for iOS 27 and macOS 27.

    model.aimodel      the decoder: inputs_embeds (1, T, D), position_ids (1, P+T) -> logits (1, T, V); the states
                       k_cache, v_cache (layers, 1, H, S, D_head) are the caller's and are changed in place
    embed.aimodel      input_ids (1, T) -> embeddings (1, T, D)
    vision.aimodel     pixel_values (1, 3, H, W), one tile -> image_features (1, N, D); vision_448x448.aimodel and so on
                       for families of free image sizes, patches (P, patch) of one image -> (N, D)
    tokenizer/         as Apple's engine looks for it
    metadata.json      metadata_version 0.2, kind vlm

position_ids counts all tokens, those in the states too: its length less T is where the new ones are written. Families
with positions of several axes take `rotary_ids` (A, 1, T) beside it, and those with further features take these, which
Apple's engine does not pass: their bundles say kind edgekit-vlm.
"""

from __future__ import annotations

import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import schema
from edgekit.checkpoint.folder import load_model
from edgekit.errors import BundleError
from edgekit.export import NO_OPTIONS, Options, Target, Written, vision_name
from edgekit.export._context import context_of
from edgekit.export._coreai_modules import compressed, decoder, half_outputs, plain_embedding
from edgekit.families import Split, VisionPart, family_of, read_optional_json
from edgekit.files import scratch, write_json
from edgekit.formats.coreai.assets import PROGRAM, ROTARY, STATES
from edgekit.inputs.images import from_unit
from edgekit.inputs.processor import Inputs
from edgekit.manifest import Component, TensorSpec
from edgekit.precision import FP16, FP32, INT4, INT8, PAL4, PAL6, PAL8, TargetPrecision, by_name
from edgekit.system.isolated import Isolated, ProcessDied

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = by_name(
    TargetPrecision(FP32, "float32, for comparison: Apple's engine takes float16 logits only"),
    TargetPrecision(FP16, "float16; the vision encoder float32 with float16 outputs"),
    TargetPrecision(INT8, "w8: int8 weights per channel in linear layers; the rest as fp16"),
    TargetPrecision(
        INT4,
        "w4_per_block: 4-bit weights in blocks of 32 in linear layers (int8 where the width is no multiple); the rest "
        "float16",
    ),
    TargetPrecision(PAL8, "palettised: 256 values a tensor in linear layers; the rest as fp16"),
    TargetPrecision(PAL6, "palettised: 64 values for each 16 rows in linear layers; the rest as fp16"),
    TargetPrecision(PAL4, "palettised: 16 values for each 16 rows in linear layers; the rest as fp16"),
)
PACKAGES = {"coreai": "coreai-core", "coreai_torch": "coreai-torch", "coreai_opt": "coreai-opt"}
CONTEXT = 2048  # tokens the states hold, unless the model knows fewer positions
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
ASSETS = {"text_decoder": "model.aimodel", "token_embedding": "embed.aimodel"}


@dataclass(frozen=True)
class Program:
    """One asset.

    Attributes:
        name: The component's.
        module: What is traced.
        example: Inputs of its forward, the states last.
        inputs, outputs: Names, types and shapes; a name among the sizes is a free size.
        states: The example's last tensors, which a run changes in place.
    """

    name: str
    module: Any
    example: tuple[Any, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...] = ()


def write(
    split: Split, precision: str, folder: Path, calibration: Sequence[Inputs] = (), options: Options = NO_OPTIONS
) -> Written:
    """Write the assets, the tokenizer and metadata.json, in a process of its own: Core AI's writer ends the process
    that it runs in where the disk is full.

    Args:
        split: The modules, float32, with the model they were taken from; its folder is read anew.
        precision: One of PRECISIONS.
        folder: The bundle's.
        calibration: No precision of it needs any.
        options: It has none.

    Returns:
        The components by name, each the program in its asset, and the versions of the tools.

    Raises:
        BundleError: that process ended; its last words are in it.
    """
    source: Any = split.source
    with Isolated(quiet=True) as isolated:
        try:
            made = isolated.call(
                write_from, checkpoint=str(source.name_or_path), sizes=split.sizes, precision=precision,
                folder=str(folder),
            )  # fmt: skip
        except ProcessDied as error:
            raise BundleError(f"Core AI does not write {folder}: {error.what}") from error
    problems: list[str] = []
    components = {name: schema.read(Component, value, problems, name) for name, value in made.items()}
    assert not problems, problems  # they are our own
    whole = {name: component for name, component in components.items() if component is not None}
    return whole, {name: version(name) for name in PACKAGES.values()}


def write_from(checkpoint: str, sizes: list[list[int]] | None, precision: str, folder: str) -> dict[str, Any]:
    """What `write` has done, in the process that calls this.

    Args:
        checkpoint: Folder of the model.
        sizes: Image sizes, where its family bakes them.
        precision, folder: As for `write`.

    Returns:
        The components, as JSON values by name.
    """
    place, model = Path(folder), load_model(Path(checkpoint))
    split = family_of(str(model.config.model_type)).split(
        model, None if sizes is None else [(width, height) for width, height in sizes]
    )
    with scratch(place), quiet():
        return {name: schema.to_json(component) for name, component in write_here(split, precision, place).items()}


def write_here(split: Split, precision: str, folder: Path) -> dict[str, Component]:
    """Write a bundle's assets, tokenizer and metadata.json in this process; the components by name."""
    components = {}
    for program in programs(split, precision, context_of(split, CONTEXT)):
        asset = folder / asset_name(program.name)
        _convert(program, context_of(split, CONTEXT)).save_asset(asset)
        given = (*program.inputs, *program.states)
        own = "fp16" if program.name == "token_embedding" and precision != "fp32" else precision
        components[program.name] = Component(f"{asset.name}/{PROGRAM}", given, program.outputs, own)
    _write_tokenizer(folder)
    write_json(folder / "metadata.json", metadata(split, folder))
    return components


def asset_name(component: str) -> str:
    """A component's .aimodel in the bundle."""
    return ASSETS.get(component, component.replace("vision_encoder", "vision") + ".aimodel")


def programs(split: Split, precision: str, context: int) -> list[Program]:
    """The assets' modules in their precision.

    Args:
        split: The modules, float32; they stay as they are.
        precision: One of PRECISIONS.
        context: Tokens the states hold.
    """
    return [
        *(_vision(vision_name(bucket), part, split, precision) for bucket, part in split.vision.items()),
        _embedding(split, precision),
        _decoder(split, precision, context),
    ]


def _real(precision: str) -> str:
    return "float32" if precision == "fp32" else "float16"


def _vision(name: str, part: VisionPart, split: Split, precision: str) -> Program:
    import torch

    dtype = _real(precision)
    shape = tuple(1 if size is None else size for size in part.pixels)
    outputs = [TensorSpec("image_features", dtype, (*shape[:-3], part.tokens, split.width))]
    outputs += [TensorSpec(one.feature, dtype, one.encoded(part.tokens)) for one in split.features]
    example = (torch.randn(shape),)
    module: nn.Module = part.module
    if precision != "fp32":
        # Apple's runtime is slower and less exact with float16 arithmetic here, so only the outputs are.
        module = half_outputs(compressed(module, example, precision))
    return Program(name, module, example, (TensorSpec("pixel_values", "float32", shape),), tuple(outputs))


def _embedding(split: Split, precision: str) -> Program:
    import torch

    dtype = _real(precision)
    return Program(
        "token_embedding",
        plain_embedding(split.token_embedding, getattr(torch, dtype)),
        (torch.zeros(1, 5, dtype=torch.int32),),
        (TensorSpec("input_ids", "int32", (1, "tokens")),),
        (TensorSpec("embeddings", dtype, (1, "tokens", split.width)),),
    )


def _decoder(split: Split, precision: str, context: int) -> Program:
    import torch

    tokens, past, dtype = 5, 3, _real(precision)  # above 1: torch.export takes a size of 0 or 1 for a constant
    kind = getattr(torch, dtype)
    example = [
        torch.randn(1, tokens, split.width, dtype=kind),
        torch.arange(past + tokens, dtype=torch.int32).unsqueeze(0),
    ]
    inputs = [
        TensorSpec("inputs_embeds", dtype, (1, "tokens", split.width)),
        TensorSpec("position_ids", "int32", (1, "past + tokens")),
    ]
    positions = split.extra_inputs[0]
    if split.position_axes > 1:
        example.append(torch.arange(tokens, dtype=torch.int32).expand(positions.sized(1, tokens)).contiguous())
        inputs.append(TensorSpec(ROTARY, "int32", positions.sized(1, "tokens")))
    for one in split.features:
        example.append(torch.zeros(one.sized(1, tokens), dtype=kind))
        inputs.append(TensorSpec(one.name, dtype, one.sized(1, "tokens")))
    shape = (split.layers, 1, split.kv_heads, context, split.head_dim)
    example += [torch.zeros(shape, dtype=kind) for _ in STATES]
    module = compressed(decoder(split, kind), tuple(example), precision)
    logits = TensorSpec("logits", dtype, (1, "tokens", split.vocab_size))
    states = tuple(TensorSpec(name, dtype, shape) for name in STATES)
    return Program("text_decoder", module, tuple(example), tuple(inputs), (logits,), states)


def _convert(program: Program, context: int) -> Any:
    """A program as Core AI has it, without the stack traces that the converter writes into it by default."""
    import torch
    from coreai_torch import TorchConverter, get_decomp_table
    from torch.export import Dim

    # One place of the states is never used: whether the part that is read is the whole of them would be a question of
    # layout, which torch.export refuses where several heads are copied (Qwen3-VL).
    most = context - 1
    names = {"tokens": Dim("tokens", min=1, max=most), "past + tokens": Dim("length", min=1, max=most)}
    given = [
        {axis: names[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} or None
        for spec in program.inputs
    ]
    shapes: Any = ((*given, *(None for _ in program.states)),)
    with torch.no_grad():
        traced = torch.export.export(_flat(program.module), program.example, dynamic_shapes=shapes, strict=False)
        traced = traced.run_decompositions(get_decomp_table())
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    converter.add_exported_program(
        traced,
        input_names=[spec.name for spec in program.inputs],
        output_names=[spec.name for spec in program.outputs],
        state_names=[spec.name for spec in program.states],
    )
    return converter.to_coreai()


def _flat(module: nn.Module) -> nn.Module:
    from torch import nn

    class Flat(nn.Module):
        """Any module behind one forward(*tensors), so that all are traced alike."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> Any:
            return self.module(*tensors)

    return Flat().eval()


def _write_tokenizer(folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    for name in TOKENIZER:
        if (folder / name).exists():
            shutil.copyfile(folder / name, folder / "tokenizer" / name)


def metadata(split: Split, folder: Path) -> dict[str, Any]:
    """metadata.json as apple/coreai-models 0.2 reads it.

    Args:
        split: Of the model.
        folder: With the checkpoint's JSON files.
    """
    config = read_optional_json(folder / "config.json")
    mean, std = from_unit(family_of(str(config["model_type"])).read_preprocessing(folder))
    plain = split.position_axes == 1 and not split.features and split.pack is None
    assets = {"main": ASSETS["text_decoder"], "embedding": ASSETS["token_embedding"]}
    for bucket in split.vision:
        assets["vision" + (f"_{bucket}" if bucket else "")] = asset_name(vision_name(bucket))
    vision: dict[str, Any] = {"image_token_id": split.image_token_id}
    if plain and list(split.vision) == [""]:
        part = split.vision[""]
        patch = config.get("vision_config", {}).get("patch_size", 0)
        vision |= {
            "image_size": part.pixels[-1],
            "patch_size": patch[0] if isinstance(patch, list) else patch,
            "image_token_count": part.tokens,
            "image_mean": mean,
            "image_std": std,
            "rescale_factor": 1.0,  # Apple's own exporter: their preprocessor starts from values in [0, 1]
            "image_strategy": "stretch",
        }
    return {
        "metadata_version": "0.2",
        "kind": "vlm" if plain else "edgekit-vlm",
        "name": str(config.get("model_type", "student")),
        "assets": assets,
        "language": {
            "tokenizer": "tokenizer",
            "vocab_size": split.vocab_size,
            "max_context_length": context_of(split, CONTEXT) - 1,
            "embedded_tokenizer": True,
            "function_map": {"main": ["main"]},
        },
        "vision": vision,
        "source": {"model_definition": "torch"},
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the converter's chatter; it prints to stdout, which belongs to results."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


TARGET = Target(
    name="coreai",
    precisions=PRECISIONS,
    extra="coreai",
    packages=PACKAGES,
    hosts=("Linux", "Darwin"),
    runtimes=("coreai",),
    write=write,
    knows=frozenset({"blocks", "pack"}),
    lacks={
        "views": "Its vision encoder takes one shape here.",
        "conv": "Its decoder has two states, k_cache and v_cache, of one shape for all layers; this target writes no "
        "third one yet.",
        "recurrent": "It writes no third state beside k_cache and v_cache yet, and no loop over tokens.",
    },
)
