"""Inside ONNX graphs."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, MissingExtraError
from edgekit.formats import Held, Part, Reader, Role, State, is_encoder
from edgekit.formats.onnx import HEAD
from edgekit.manifest import Component

# Where the quantised operators keep a weight and what belongs to it.
WEIGHT_AT = {
    "MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "MatMulNBits": 1, "MatMulInteger": 1, "ConvInteger": 1,
    "QLinearMatMul": 3, "QLinearConv": 3, "DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1, "FusedMatMul": 1,
    "GemmFloat8": 1, "QGemm": 3,
}  # fmt: skip
BESIDE = {
    "MatMulNBits": (2, 3, 4), "MatMulInteger": (2, 3), "ConvInteger": (2, 3), "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearConv": (1, 2, 4, 5, 6, 7), "DynamicQuantizeMatMul": (2, 3), "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DequantizeLinear": (1, 2), "QuantizeLinear": (1, 2), "QGemm": (1, 2, 4, 5, 7, 8),
}  # fmt: skip
TABLES = {"GroupQueryAttention": (7, 8), "RotaryEmbedding": (2, 3)}  # cosines and sines, by position
FLOATS = ("float32", "float16", "bfloat16", "float64")
VIEW = "image_tokens"
"""The free size of a view."""
FREE = ("sequence_length", "batch_size", "num_images")


def read(bundle: Bundle) -> dict[str, Part]:
    """The parts of a bundle of target onnx.

    Raises:
        MissingExtraError: onnx is not installed.
        BundleError: a file is no graph, or its shapes do not fit together.
    """
    return {
        name: _part(
            bundle.path(part.file), name, part, part.precision or bundle.manifest.precision.common,
            bundle.manifest.view_tokens(name) or 1,
        )
        for name, part in bundle.manifest.components.items()
    }  # fmt: skip


@dataclass(frozen=True)
class Weight:
    """A weight as its graph uses it.

    Attributes:
        name: Of the tensor.
        node: The operation that takes it.
        numbers: How many parameters.
        columns: Outputs of one row of a product.
    """

    name: str
    node: Any
    numbers: int
    columns: int


def _part(path: Path, name: str, component: Component, precision: str, view: int) -> Part:
    model = _open(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    users: dict[str, list[tuple[Any, int]]] = {}
    for node in model.graph.node:
        for at, given in enumerate(node.input):
            users.setdefault(given, []).append((node, at))
    weights = list(_weights(model, tensors))
    shapes = _shapes(model, path, view) if is_encoder(name) else {}
    states = tuple(
        State(spec.name, spec.dtype, tuple(1 if size in FREE else size for size in spec.shape))
        for spec in component.inputs
        if spec.name.startswith("past_")
    )
    return Part(
        dict(Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")),
        tuple(_held(path.name, tensors, users, {weight.name: weight for weight in weights}, name)),
        # A token is one row of every product of a decoder.
        sum(weight.numbers * _rows(weight, shapes) for weight in weights),
        _between_activations(model, tensors, shapes) if shapes else 0,
        apart=_in_float(model, tensors, weights) if precision.startswith("int") else {},
        states=states,
    )


def _open(path: Path) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "google"):
            raise
        raise MissingExtraError("look into ONNX graphs", "onnx", "onnx") from error
    try:
        return onnx.load(str(path), format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise BundleError(f"{path} is no ONNX graph, or damaged.", why=str(error), fix="Export it again.") from error


def _weights(model: Any, tensors: Mapping[str, Any]) -> Iterator[Weight]:
    made = {out: node for node in model.graph.node for out in node.output}
    for node in model.graph.node:
        at = WEIGHT_AT.get(node.op_type)
        if at is None or at >= len(node.input):
            continue
        name = node.input[at]
        source = made.get(name)
        if source is not None and source.op_type == "DequantizeLinear":
            name = source.input[0]
        if name not in tensors:
            continue
        if node.op_type == "MatMulNBits":
            sizes = {item.name: item.i for item in node.attribute}
            yield Weight(name, node, sizes["K"] * sizes["N"], sizes["N"])
            continue
        dims = list(tensors[name].dims)
        whole = math.prod(dims)
        turned = any(item.name == "transB" and item.i for item in node.attribute)
        yield Weight(name, node, whole, dims[0] if "Conv" in node.op_type or turned else dims[-1])


def _held(
    file: str,
    tensors: Mapping[str, Any],
    users: Mapping[str, list[tuple[Any, int]]],
    weights: Mapping[str, Weight],
    component: str,
) -> Iterator[Held]:
    for name, tensor in tensors.items():
        kind, dims = _kind(tensor), list(tensor.dims)
        taken = users.get(name, [])
        numbers, role, rows = math.prod(dims), "other", 0
        size = _bytes(tensor)
        if name in weights:
            numbers, role = weights[name].numbers, "product"
            if weights[name].node.op_type == "MatMulNBits":
                kind = f"int{8 * size // numbers}"
        elif any(at in TABLES.get(node.op_type, ()) for node, at in taken):
            role, rows = "constant", dims[0]
        elif _is_beside(name, taken, dims, tensors):
            numbers = 0
            rows = dims[0] if any(node.op_type == "Gather" for node, _ in taken) else 0
        elif not is_encoder(component) and any(_looks_up(node, at, dims) for node, at in taken):
            role, rows = ("table" if component == "token_embedding" else "constant"), dims[0]
        elif kind not in FLOATS or not dims or numbers == 1:
            numbers, role = 0, "constant"  # shapes, axes and single numbers
        yield Held(f"{file}:{name}", numbers, size, kind, _as_role(role), rows)


def _as_role(word: str) -> Role:
    roles: dict[str, Role] = {"product": "product", "table": "table", "constant": "constant"}
    return roles.get(word, "other")


def _looks_up(node: Any, at: int, dims: list[int]) -> bool:
    return node.op_type == "Gather" and at == 0 and len(dims) > 1


def _is_beside(name: str, taken: list[tuple[Any, int]], dims: list[int], tensors: Mapping[str, Any]) -> bool:
    """Whether a tensor is the scale or zero point of another one."""
    if any(at in BESIDE.get(node.op_type, ()) for node, at in taken):
        return True
    if name.endswith(("_scale", "_zero_point")) and f"{name.rpartition('_scale')[0]}_quantized" in tensors:
        return True
    # edgekit's own int8 table: rows of whole numbers, and a column of scales.
    return len(dims) == 2 and dims[1] == 1 and any(_looks_up(node, at, dims) for node, at in taken)


def _kind(tensor: Any) -> str:
    import onnx

    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return "bfloat16"
    found: str = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    return {"float": "float32", "double": "float64"}.get(found, found)


def _bytes(tensor: Any) -> int:
    from edgekit.formats.counting import size_of

    return size_of(_kind(tensor), tuple(tensor.dims))


def _shapes(model: Any, path: Path, view: int) -> dict[str, list[int]]:
    """The shape of every tensor of a vision encoder for one image or tile, or a view of so many tokens."""
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # they hold the free sizes
    for value in (*fixed.graph.input, *fixed.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_value = view if size.dim_param == VIEW else 1
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        found = SymbolicShapeInference.infer_shapes(fixed, auto_merge=True)
    except Exception as error:  # of many types, its own among them
        raise BundleError(f"The shapes in {path} do not fit together.", why=str(error)[:300]) from error
    finally:
        logging.disable(level)
    graph = found.graph
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _rows(weight: Weight, shapes: Mapping[str, list[int]]) -> int:
    """How often a run of the graph uses each number of a weight."""
    if not shapes:
        return 1
    return math.prod(shapes[weight.node.output[0]]) // weight.columns


def _between_activations(model: Any, tensors: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> int:
    """Multiply-adds of attention in a vision encoder."""
    total = 0
    for node in model.graph.node:
        if node.op_type in ("MatMul", "FusedMatMul") and not set(node.input) & tensors.keys():
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "MultiHeadAttention":
            batch, tokens, width = shapes[node.input[0]]
            total += 2 * batch * tokens * shapes[node.input[1]][1] * width
    return total


def _in_float(model: Any, tensors: Mapping[str, Any], weights: list[Weight]) -> dict[str, int]:
    """Products and look-ups in floating point."""
    counted: Counter[str] = Counter()
    for weight in weights:
        if (kind := _kind(tensors[weight.name])) in FLOATS:
            counted[f"{weight.node.op_type} with {kind} weights"] += 1
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tensors and len(tensors[node.input[0]].dims) > 1:
            table = tensors[node.input[0]]
            if _kind(table) in FLOATS and table.dims[-1] > 1:
                counted[f"Gather from a {_kind(table)} table"] += 1
        elif node.op_type in ("MatMul", "FusedMatMul") and not set(node.input) & tensors.keys():
            counted[f"{node.op_type} of activations"] += 1
        elif node.op_type in TABLES and "Attention" in node.op_type:
            counted[node.op_type] += 1
    return dict(counted)


def _told(bundle: Bundle) -> tuple[str, ...]:
    """Why a decoder's attention is plain, where it is for its heads' width."""
    width = bundle.manifest.cache.head_dim
    if width % HEAD == 0:
        return ()
    return (
        f"plain attention, and a cache that is handed on: GroupQueryAttention takes heads of a multiple of {HEAD}, and "
        f"these are {width} wide",
    )


READER = Reader(
    "operations of a quantised graph that are left in floating point: they were not put into its quantised form",
    ("operations are those of the graph as stored; ONNX Runtime fuses some of them when it loads it",),
    read,
    told=_told,
)
