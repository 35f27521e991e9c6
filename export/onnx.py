"""ONNX, in the file convention of transformers.js, so that a bundle also loads there.

    onnx/vision_encoder*.onnx          pixel_values, tiles (batch, num_images, 3, H, W), one image's patches (patches,
                                       patch) or one view (image_tokens, ...) of any size -> image_features, and
                                       deepstack_features where there are
    onnx/embed_tokens*.onnx            input_ids -> inputs_embeds
    onnx/decoder_model_merged*.onnx    one graph for prefill (empty past) and decode

An export for several image sizes has a vision graph for each, `vision_encoder_448x448*.onnx`. Positions are baked
into it: it has no pixel_attention_mask and no image_grid_thw, and a caller's are ignored.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.export import NO_OPTIONS, Options, Target, Written, vision_name
from edgekit.export._onnx_delta import linear_attention
from edgekit.export._transformers_js import name_processor
from edgekit.export.onnx_attention import (
    drop_round_trips,
    drop_statistics,
    fits,
    grouped,
    pack_rotary,
    rotary_tables,
)
from edgekit.export.onnx_precision import (
    cache_names,
    calibration_feeds,
    name_shards,
    part_of,
    store,
)
from edgekit.families import Split, VisionPart
from edgekit.families._delta import rule_of
from edgekit.formats.onnx.precisions import EMBEDDING, PRECISIONS
from edgekit.inputs.processor import Inputs
from edgekit.manifest import Component, TensorSpec
from edgekit.precision import by_part, is_mixed

PACKAGES = {name: name for name in ("onnx", "onnxruntime", "onnxscript")}
STEMS = {"token_embedding": "embed_tokens", "text_decoder": "decoder_model_merged"}  # a vision encoder keeps its name


def appends_in_place(split: Split, precision: str) -> bool:
    """Whether the decoder takes one buffer as past and as present: in fp16 the cache is converted at its edges."""
    return fits(split) and precision != "fp16"


def write(
    split: Split, precision: str, folder: Path, calibration: Sequence[Inputs] = (), options: Options = NO_OPTIONS
) -> Written:
    """Write the graphs.

    Args:
        split: The modules, float32.
        precision: One of PRECISIONS, or a mixture of PARTS.
        folder: The bundle's; graphs go to `onnx/` in it.
        calibration: Prompts, where a part's precision is calibrated.
        options: It has none.

    Returns:
        The components by name, and the versions of the tools.
    """
    (folder / "onnx").mkdir()
    name_processor(folder)
    precisions, components, tables = by_part(precision), {}, rotary_tables(split)
    feeds = calibration_feeds(split, calibration) if TARGET.needs_calibration(precision) else {}
    with _quiet():
        for graph in _graphs(split):
            part = part_of(graph.name)
            # A whole precision names every file, so that transformers.js finds all three by its one name.
            suffix = PRECISIONS[precisions[part] if is_mixed(precision) else precision].suffix
            path = folder / "onnx" / f"{STEMS.get(graph.name, graph.name)}{suffix}.onnx"
            model = _trace(graph)
            if part == "text":
                drop_round_trips(model)
                drop_statistics(model)
                if tables is not None:
                    pack_rotary(model, *tables)
            inputs = {value.name: graph.inputs[value.name] for value in model.graph.inputs}
            given = [{name: feed[name] for name in inputs} for feed in feeds.get(graph.name, ())]
            store(model, part, precisions[part], path, given)
            components[graph.name] = Component(
                f"onnx/{path.name}",
                _specs(inputs, graph.shapes),
                _specs(graph.outputs, graph.shapes),
                precisions[part],
            )
    name_shards(folder)
    return components, {package: version(package) for package in PACKAGES.values()}


@dataclass(frozen=True)
class Graph:
    """One graph to trace.

    Attributes:
        name: The component's.
        module: What is traced.
        example: Inputs of its forward, by argument.
        inputs, outputs: dtype of each tensor of the graph, in order.
        shapes: Of those tensors; a name is a free size.
    """

    name: str
    module: Any
    example: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    shapes: dict[str, list[Any]]


# Examples are above 1 on every free axis: torch.export takes a size of 0 or 1 for a constant.
BATCH, TOKENS, PAST = 2, 5, 3
PAST_KEY, FEATURES = "past", "features"
"""Arguments of a decoder that take several inputs of its graph."""


def _graphs(split: Split) -> Iterator[Graph]:
    for bucket, part in split.vision.items():
        yield _vision_graph(vision_name(bucket), part, split)
    yield _embedding_graph(split)
    with rule_of(split.text, linear_attention):
        if not fits(split):
            yield _decoder_graph(split, _explicit(split))
            return
        with grouped(split) as decoder:
            yield _decoder_graph(split, decoder)


def _explicit(split: Split) -> Any:
    """`Split.text_decoder` with its cache as one argument, as `grouped` has it."""
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = split.text_decoder

        def forward(
            self,
            inputs_embeds: Any,
            attention_mask: Any,
            position_ids: Any,
            past: list[Any],
            features: Sequence[Any] = (),
        ) -> Any:
            return self.decoder(inputs_embeds, attention_mask, position_ids, *features, *past)

    return Decoder()


def _vision_graph(name: str, part: VisionPart, split: Split) -> Graph:
    import torch
    from torch import nn

    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = part.module

        def forward(self, pixel_values: Any) -> Any:
            return self.encoder(pixel_values.flatten(0, 1) if part.grid is None else pixel_values)

    if part.grid is None:
        pixels: list[Any] = ["batch_size", "num_images", *part.pixels[1:]]
        features: list[Any] = ["batch_size * num_images", part.tokens, split.width]
    elif part.of_any_view:
        pixels, features = ["image_tokens", *part.pixels[1:]], ["image_tokens", split.width]
    else:
        pixels, features = list(part.pixels), [part.tokens, split.width]
    further = {one.feature: list(one.encoded(part.tokens)) for one in split.features}
    return Graph(
        name,
        Vision(),
        {"pixel_values": torch.randn([BATCH if isinstance(size, str) else size for size in pixels])},
        {"pixel_values": "float32"},
        dict.fromkeys(("image_features", *further), "float32"),
        {"pixel_values": pixels, "image_features": features, **further},
    )


def _embedding_graph(split: Split) -> Graph:
    import torch
    from torch import nn

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = split.token_embedding

        def forward(self, input_ids: Any) -> Any:
            return self.embedding(input_ids)

    free = ["batch_size", "sequence_length"]
    return Graph(
        "token_embedding",
        Embedding(),
        {"input_ids": torch.zeros(BATCH, TOKENS, dtype=torch.int64)},
        {"input_ids": "int64"},
        {"inputs_embeds": "float32"},
        {"input_ids": free, "inputs_embeds": [*free, split.width]},
    )


def _decoder_graph(split: Split, decoder: Any) -> Graph:
    import torch

    extra = {one.name: list(one.sized("batch_size", "sequence_length")) for one in split.extra_inputs}
    places = split.extra_inputs[0].sized(BATCH, TOKENS)
    tensors = [(*cache_names(tensor), tensor.shape) for tensor in split.states]
    example: dict[str, Any] = {
        "inputs_embeds": torch.randn(BATCH, TOKENS, split.width),
        "attention_mask": torch.ones(BATCH, PAST + TOKENS, dtype=torch.int64),
        "position_ids": torch.arange(PAST, PAST + TOKENS).expand(places).contiguous(),
        PAST_KEY: [torch.randn(BATCH, *(size or PAST for size in shape)) for _, _, shape in tensors],
    }
    inputs = {"inputs_embeds": "float32", "attention_mask": "int64", "position_ids": "int64"}
    inputs |= {past: "float32" for past, _, _ in tensors}
    if split.features:
        example[FEATURES] = [torch.randn(one.sized(BATCH, TOKENS)) for one in split.features]
        inputs |= {one.name: one.dtype for one in split.features}
    # The names of free sizes matter: transformers.js shapes an empty cache by them (batch_size is the batch, others 0).
    free = ["batch_size", "sequence_length"]
    cache = {past: [size or "past_sequence_length" for size in shape] for past, _, shape in tensors}
    grown = "past_sequence_length + sequence_length"
    cache |= {present: [size or grown for size in shape] for _, present, shape in tensors}
    return Graph(
        "text_decoder",
        decoder,
        example,
        inputs,
        {"logits": "float32", **{present: "float32" for _, present, _ in tensors}},
        {
            "inputs_embeds": [*free, split.width],
            "attention_mask": ["batch_size", "past_sequence_length + sequence_length"],
            **extra,
            "logits": [*free, split.vocab_size],
            **{name: ["batch_size", *shape] for name, shape in cache.items()},
        },
    )


def _trace(graph: Graph) -> Any:
    """The graph as an onnx_ir model, with the convention's names and readable free sizes."""
    import onnx_ir
    from torch.export import Dim
    from transformers.exporters import OnnxConfig, OnnxExporter

    def free(name: str) -> dict[int, Any]:
        shape = graph.shapes[name]
        return {axis: Dim.DYNAMIC for axis, size in enumerate(shape) if isinstance(size, str)}

    several = {  # arguments that are lists of the graph's inputs
        PAST_KEY: [name for name in graph.inputs if name.startswith("past_")],
        FEATURES: [name for name in graph.inputs if name not in graph.example and not name.startswith("past_")],
    }
    dynamic: dict[str, Any] = {
        name: [free(one) for one in several[name]] if name in several else free(name) for name in graph.example
    }
    # Dynamic quantisation finds MatMul in the plain vision graph; the fused one hides it inside Attention.
    fusions = "cpu" if graph.name == "text_decoder" else None
    config = OnnxConfig(dynamic_shapes=dynamic, ort_fusions=fusions)
    model = OnnxExporter().export(graph.module.eval(), graph.example, config).program
    _gemm_to_matmul(model.graph)
    for values, wanted in ((model.graph.inputs, graph.inputs), (model.graph.outputs, graph.outputs)):
        for value, name in zip(values, wanted, strict=True):
            value.name = name
            value.shape = onnx_ir.Shape(graph.shapes[name])
    return model


def _gemm_to_matmul(graph: Any) -> None:
    """Write each linear layer over two axes as those over three are: MatMul, and Add where there is a bias.

    MatMulNBitsQuantizer passes over Gemm, and quantize_dynamic turns its weights round without their declared shape,
    which shape inference then refuses.
    """
    import onnx_ir

    for node in [node for node in graph if node.op_type == "Gemm" and node.inputs[1].is_initializer()]:
        options = {name: attribute.value for name, attribute in node.attributes.items()}
        if options.get("transA") or {options.get("alpha", 1.0), options.get("beta", 1.0)} != {1.0}:
            continue
        rows, given, *bias = node.inputs
        array = given.const_value.numpy()
        turned = onnx_ir.tensor(np.ascontiguousarray(array.T if options.get("transB") else array))
        weight = onnx_ir.Value(name=f"{node.outputs[0].name}.weight", shape=turned.shape, const_value=turned)
        weight.dtype = turned.dtype
        graph.register_initializer(weight)
        added = [onnx_ir.node("MatMul", [rows, weight])]
        if bias:
            added.append(onnx_ir.node("Add", [added[0].outputs[0], bias[0]]))
        onnx_ir.convenience.replace_nodes_and_values(graph, node, [node], added, node.outputs, added[-1].outputs)
        if not given.uses():
            del graph.initializers[given.name]


def _specs(names: dict[str, str], shapes: dict[str, list[Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, tuple(shapes[name])) for name, dtype in names.items())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' chatter (they print progress to stdout, which belongs to results)."""
    import contextlib
    import io

    nbits = "onnxruntime.quantization.matmul_nbits_quantizer"
    names = ("torch.onnx", "transformers", "onnxscript", "root", "torch.export", nbits)
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Some of them set up the whole program's logging when they are imported, unless they find it set up.
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        logging.getLogger().removeHandler(silent)


TARGET = Target(
    name="onnx",
    precisions=PRECISIONS,
    extra="onnx",
    packages=PACKAGES,
    hosts=("Linux", "Darwin"),
    runtimes=("onnxruntime",),
    write=write,
    parts={"vision": PRECISIONS, "embedding": EMBEDDING, "text": PRECISIONS},
    knows=frozenset({"blocks", "conv", "pack", "recurrent", "views"}),
    appends_in_place=appends_in_place,
)
