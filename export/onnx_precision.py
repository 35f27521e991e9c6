"""What the weights of an ONNX graph become, and the files they are written to.

    fp32         as traced
    fp16         weights and maths, float32 at the graph's edges
    int8         MatMul, weights per channel; inputs are rounded by scales found as they come (dynamic)
    int8-static  MatMul, weights per channel; inputs are rounded by scales seen in calibration
    int4         MatMulNBits; of an embedding table there is int8 at most, a scale per row

A graph above what one protobuf file can hold keeps its weights beside it, in `<file>.onnx_data`, `<file>.onnx_data_1`
and so on, each below the same bound: what transformers.js and ONNX Runtime look for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError
from edgekit.export import vision_name
from edgekit.export.parity import TorchModules, empty_cache, encode_images, follow
from edgekit.families import Split, read_optional_json
from edgekit.families.decoding import Given, Run, State, filled
from edgekit.families.merging import merge_images, runs_of
from edgekit.files import write_json
from edgekit.formats.onnx.precisions import scheme_of
from edgekit.inputs.processor import Inputs

ONE_FILE = 2**31 - 2**20  # protobuf's bound, with room for the graph itself
OUTSIDE = 1024  # bytes; smaller tensors stay in the graph
STACK_TRACE = "pkg.torch.onnx.stack_trace"  # of each node: source lines with the paths of the machine that exported it
ANSWER = 8  # tokens of the reference's own answer that calibration sees behind each prompt
# Inputs are rounded to int8 too. Measured on a layer of 960 x 2560, one AVX-512 thread: 36 us a token against 114 us at
# level 0, 1.6 ms against 4.5 ms for 64 tokens, and the same relative error of the product, 0.0495: int4's own.
ACCURACY_LEVEL = 4

Feeds = Sequence[Mapping[str, Any]]


def cache_names(tensor: State) -> tuple[str, str]:
    """What a tensor of the cache is called going in and coming out: past_key_values.3.key, present.3.key."""
    if tensor.kind in ("key", "value"):
        return f"past_key_values.{tensor.layer}.{tensor.kind}", f"present.{tensor.layer}.{tensor.kind}"
    return f"past_{tensor.kind}.{tensor.layer}", f"present_{tensor.kind}.{tensor.layer}"


def part_of(component: str) -> str:
    """vision, embedding or text: which part of a mixture a component is."""
    return {"token_embedding": "embedding", "text_decoder": "text"}.get(component, "vision")


def store(model: Any, part: str, precision: str, path: Path, feeds: Feeds = ()) -> None:
    """Convert a graph to a precision and write it.

    Args:
        model: onnx_ir's, float32; it may be changed.
        part: vision, embedding or text.
        precision: One of `edgekit.formats.onnx.precisions.PRECISIONS`, or of EMBEDDING for that part.
        path: The graph's file; its weights lie beside it where they do not fit.
        feeds: Inputs of the graph, for a precision that is calibrated.

    Raises:
        EdgekitError: a precision that is calibrated, and no feeds.
    """
    convert: dict[str, Callable[[], Any]] = {
        "fp32": lambda: model,
        "fp16": lambda: _half(model),
        "int8": lambda: _rows(model) if part == "embedding" else _by_file(model, _dynamic),
        "int8-static": lambda: _by_file(model, lambda plain, made: _static(plain, made, feeds)),
        "int4": lambda: _blocks(model),
    }
    save(convert[precision](), path)


def calibration_feeds(split: Split, prompts: Sequence[Inputs]) -> dict[str, list[dict[str, Any]]]:
    """What each component is fed on some prompts and the reference's own answers to them.

    Args:
        split: The PyTorch modules.
        prompts: May be empty.

    Returns:
        Component -> its inputs, once for each prompt, or for each run of a vision encoder.
    """
    parts = TorchModules(split)
    feeds: dict[str, list[dict[str, Any]]] = {}
    for prompt in prompts:
        answer = follow(parts, split, prompt, None, ANSWER)[1]
        ids = np.concatenate([prompt.ids, np.array([answer], dtype=np.int64)], axis=1)
        embeds = parts.embed(ids)
        extra: Given = {}
        if prompt.pixels is not None:
            for name, values in runs_of(split, prompt.pixels):
                given = values[None] if split.vision[name].grid is None else values
                feeds.setdefault(vision_name(name), []).append({"pixel_values": given})
            encoded = encode_images(parts, split, prompt.pixels)
            # Of the prompt alone: an image token in an answer, as random weights may give one, has no image.
            merged = merge_images(embeds[:, : prompt.ids.shape[1]], prompt.ids, encoded.embeds, split.image_token_id)
            embeds = np.concatenate([merged, embeds[:, prompt.ids.shape[1] :]], axis=1)
            extra = encoded.extra
        feeds.setdefault("text_decoder", []).append(_decoder_feed(split, prompt, ids, embeds, extra))
    return feeds


def _decoder_feed(split: Split, prompt: Inputs, ids: Any, embeds: Any, extra: Given) -> dict[str, Any]:
    """Prompt and answer in one run, no past: causal attention makes it the same as token by token."""
    after = prompt.positions.max() + 1 + np.arange(ids.shape[1] - prompt.ids.shape[1])
    behind = np.broadcast_to(after, (*prompt.positions.shape[:-1], after.size))
    # An image token in an answer has no image: there its features are those of any word.
    words = np.concatenate([prompt.ids, np.full((1, after.size), -1)], axis=1)
    run = Run(words, np.concatenate([prompt.positions, behind], axis=-1), split.image_token_id, extra)
    feed = {
        "inputs_embeds": embeds,
        "attention_mask": np.ones_like(ids),
        **filled(split.extra_inputs, run),
    }
    names = [past for past, _ in map(cache_names, split.states)]
    return feed | dict(zip(names, empty_cache(split), strict=True))


def name_shards(folder: Path) -> None:
    """Tell transformers.js, in config.json, which graphs have files of weights beside them, and how many."""
    shards = {
        graph.name: len(list(graph.parent.glob(f"{graph.name}_data*"))) for graph in (folder / "onnx").glob("*.onnx")
    }
    counted = {name: count for name, count in sorted(shards.items()) if count}
    if counted:
        config = read_optional_json(folder / "config.json")
        settings = config.get("transformers.js_config", {}) | {"use_external_data_format": counted}
        write_json(folder / "config.json", {**config, "transformers.js_config": settings})


def save(model: Any, path: Path, *, beside: bool = False) -> list[Path]:
    """Write an onnx_ir model: one file, or a graph and files of weights below ONE_FILE each; without STACK_TRACE.

    Args:
        model: Its weights may be replaced by references to those files.
        path: The graph's file.
        beside: Put weights into files of their own even where one file could hold all.

    Returns:
        The files of weights; none where one file holds all.
    """
    import onnx_ir
    from onnx_ir.external_data import convert_tensors_to_external

    for node in (*model.graph.all_nodes(), *(node for one in model.functions.values() for node in one.all_nodes())):
        node.metadata_props.pop(STACK_TRACE, None)
    values = [value for value in model.graph.initializers.values() if value.const_value is not None]
    inside = [value for value in values if not isinstance(value.const_value, onnx_ir.ExternalTensor)]
    if not beside and sum(value.const_value.nbytes for value in inside) < ONE_FILE:
        onnx_ir.save(model, path)
        return []
    files = []
    for number, shard in enumerate(_shards([value for value in inside if value.const_value.nbytes > OUTSIDE])):
        name = f"{path.name}_data" + (f"_{number}" if number else "")
        moved = convert_tensors_to_external([value.const_value for value in shard], path.parent, name)
        for value, tensor in zip(shard, moved, strict=True):
            value.const_value = tensor
        files.append(path.parent / name)
    onnx_ir.save(model, path)
    return files


def _shards(values: Sequence[Any]) -> Iterator[list[Any]]:
    """Runs of tensors below ONE_FILE bytes; one that is larger stands alone."""
    shard: list[Any] = []
    size = 0
    for value in values:
        if shard and size + value.const_value.nbytes >= ONE_FILE:
            yield shard
            shard, size = [], 0
        shard.append(value)
        size += value.const_value.nbytes
    if shard:
        yield shard


def _half(model: Any) -> Any:
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = onnx_ir.serde.serialize_model(model)
    return onnx_ir.serde.deserialize_model(
        convert_float_to_float16(proto, keep_io_types=True, disable_shape_infer=True)
    )


def _blocks(model: Any) -> Any:
    import onnx_ir
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    scheme = scheme_of("int4")
    quantiser = MatMulNBitsQuantizer(
        onnx_ir.serde.serialize_model(model),
        bits=scheme.bits,
        block_size=scheme.block,
        is_symmetric=scheme.symmetric,
        accuracy_level=ACCURACY_LEVEL,
    )
    quantiser.process()
    return onnx_ir.serde.deserialize_model(quantiser.model.model)


def _by_file(model: Any, quantise: Callable[[Path, Path], None]) -> Any:
    """For quantisers that read and write files; every tensor comes back into memory before the files go."""
    import onnx
    import onnx_ir

    with tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder) / "plain.onnx", Path(folder) / "made.onnx"
        save(model, plain)
        quantise(plain, made)
        return onnx_ir.serde.deserialize_model(onnx.load(made))


def _dynamic(plain: Path, made: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # No DefaultTensorType surprises: the graph knows its types, so the quantiser's own inference is enough.
    quantize_dynamic(
        plain,
        made,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=_is_split(plain),
    )


def _static(plain: Path, made: Path, feeds: Feeds) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if not feeds:
        raise EdgekitError(
            f"{made.stem}: int8-static needs questions to calibrate with, and there are none.",
            fix="Name some:  edgekit export ... --calibration-data SPEC --calibrate 64",
        )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> Any:
            """The next inputs; None at the end."""
            return next(self.rest, None)

    quantize_static(
        plain,
        made,
        Reader(),
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=_is_split(plain),
        extra_options={"MatMulConstBOnly": True},
    )


def _is_split(path: Path) -> bool:
    return (path.parent / f"{path.name}_data").exists()


def _rows(model: Any) -> Any:
    """The graph that looks rows up in an int8 table, symmetric, and scales each by its own float32."""
    import onnx_ir

    (table,) = (v.const_value for v in model.graph.initializers.values() if v.const_value.dtype.name == "FLOAT")
    weights = np.asarray(table.numpy(), dtype=np.float32)
    scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / np.float32(127)
    tensors = {"table": np.rint(weights / scales).astype(np.int8), "scales": scales.astype(np.float32)}
    ids, embeds = (
        onnx_ir.Value(name=v.name, type=v.type, shape=v.shape) for v in (*model.graph.inputs, *model.graph.outputs)
    )
    held = {
        name: onnx_ir.Value(name=name, const_value=onnx_ir.tensor(array, name=name)) for name, array in tensors.items()
    }
    for name, array in tensors.items():
        held[name].type = onnx_ir.TensorType(onnx_ir.DataType.INT8 if name == "table" else onnx_ir.DataType.FLOAT)
        held[name].shape = onnx_ir.Shape(array.shape)
    rows = onnx_ir.node("Gather", [held["table"], ids], attributes={"axis": 0})
    scale = onnx_ir.node("Gather", [held["scales"], ids], attributes={"axis": 0})
    cast = onnx_ir.node("Cast", [rows.outputs[0]], attributes={"to": onnx_ir.DataType.FLOAT.value})
    product = onnx_ir.node("Mul", [cast.outputs[0], scale.outputs[0]], outputs=[embeds])
    graph = onnx_ir.Graph(
        [ids],
        [embeds],
        nodes=[rows, scale, cast, product],
        initializers=list(held.values()),
        opset_imports=model.graph.opset_imports,
        name="embedding",
    )
    return onnx_ir.Model(graph, ir_version=model.ir_version)
