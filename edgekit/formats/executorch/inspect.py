"""Inside ExecuTorch programs, and the XNNPACK graphs in them."""

from __future__ import annotations

import importlib.resources
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, MissingExtraError
from edgekit.formats import Held, Part, Reader, Role, State, is_encoder
from edgekit.formats.counting import size_of
from edgekit.formats.declared import check_numbers
from edgekit.formats.executorch.delegates import backend_of, told
from edgekit.formats.executorch.program import SCALARS
from edgekit.registry import missing_extra

XNNPACK = {
    "fp32": "float32", "pfp32": "float32", "fp16": "float16", "bf16": "bfloat16", "qint8": "int8", "quint8": "uint8",
    "qcint8": "int8", "qdint8": "int8", "qcint4": "int4", "qbint4": "int4", "qint32": "int32", "qcint32": "int32",
    "int32": "int32",
}  # fmt: skip
PRODUCTS = ("FullyConnected", "Conv2d", "DepthwiseConv2d", "ConvTranspose2d")
PREFIX = "xnn_datatype_"
LOOK_UP, APPEND, REPLACE = "aten::embedding", "llama::update_cache", "aten::copy_"
CONVOLUTION, RECURRENCE = "inputs of convolution", "matrices of recurrent layer"


def read(bundle: Bundle) -> dict[str, Part]:
    """The parts of a bundle of target executorch: its methods.

    Raises:
        MissingExtraError: executorch is not installed.
        BundleError: the file is no program, lacks a method, or has another cache than the manifest says.
    """
    bundle.check_parts()
    parts, opened = {}, {}
    for name, component in bundle.manifest.components.items():
        if component.file not in opened:
            opened[component.file] = _open(bundle.path(component.file))
        file = opened[component.file]
        plan = next((plan for plan in file.program.execution_plan if plan.name == name), None)
        if plan is None:
            raise BundleError(f"{component.file} has no method {name!r}.", fix="Export the bundle again.")
        method = Method(component.file, file, plan, bundle.manifest.cache.head_dim // 2)
        with _damage_named(component.file, name):
            parts[name] = _part(name, method)
    for state in parts["text_decoder"].states:
        if _replaced(state):
            continue
        _, _, heads, width = state.shape if len(state.shape) == 4 else (0, 0, 0, 0)
        check_numbers(bundle.manifest, {"cache.kv_heads": int(heads), "cache.head_dim": int(width)})
    return parts


@contextmanager
def _damage_named(file: str, name: str) -> Iterator[None]:
    """A damaged program may hold any number in any place, and its flatbuffer compiler refuses what is no graph."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RecursionError,
        SubprocessError,
        TypeError,
        ValueError,
    ) as error:
        raise BundleError(
            f"{file}: the method {name!r} holds no program that can be read.",
            why=f"{type(error).__name__}: {str(error)[:200]}",
            fix="Copy or export the bundle again.",
        ) from error


def _open(path: Path) -> Any:
    try:
        from executorch.exir._serialize._program import deserialize_pte_binary
    except ModuleNotFoundError as error:
        if not missing_extra(error, {"executorch"}):
            raise
        raise MissingExtraError("look into ExecuTorch programs", "executorch", "executorch") from error
    try:
        return deserialize_pte_binary(path.read_bytes())
    except Exception as error:  # of many types: it reads the file without checks
        raise BundleError(
            f"{path} is no ExecuTorch program, or damaged.", why=repr(error)[:300], fix="Export it again."
        ) from error


@dataclass
class Method:
    """One method while it is read."""

    file: str
    program: Any
    plan: Any
    frequencies: int
    operations: Counter[str] = field(default_factory=Counter)
    apart: Counter[str] = field(default_factory=Counter)
    weights: dict[str, Held] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    products: int = 0
    attention: int = 0

    def tensor(self, index: int) -> Any:
        """A value of the method that is a tensor; else None."""
        value = self.plan.values[index].val
        return value if type(value).__name__ == "Tensor" else None

    def is_constant(self, tensor: Any) -> bool:
        """Whether its data are in the file; a buffer that is written to has a place in memory too."""
        return bool(tensor.data_buffer_idx) and tensor.allocation_info is None


def _part(name: str, method: Method) -> Part:
    for chain in method.plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if type(call).__name__ == "KernelCall":
                _kernel(name, method, call)
            elif type(call).__name__ == "DelegateCall":
                for index in call.args:
                    _given(name, method, index, "")
                _delegate(name, method, method.plan.delegates[call.delegate_index])
    return Part(
        dict(method.operations),
        tuple(method.weights.values()),
        method.products,
        method.attention,
        apart=dict(method.apart),
        states=tuple(method.states),
    )


def _kernel(name: str, method: Method, call: Any) -> None:
    kind = str(method.plan.operators[call.op_index].name)
    method.operations[kind] += 1
    method.apart[kind] += 1
    if kind == APPEND:
        cache = method.tensor(call.args[1])
        layer, which = divmod(sum(not _replaced(state) for state in method.states), 2)
        title = f"{('keys', 'values')[which]} of layer {layer}"
        method.states.append(State(title, SCALARS[cache.scalar_type], tuple(cache.sizes)))
    elif kind == REPLACE and (held := method.tensor(call.args[0])) is not None:
        title = RECURRENCE if len(held.sizes) == 4 else CONVOLUTION  # a matrix for each head; a row for each channel
        number = sum(title in state.name for state in method.states)
        method.states.append(State(f"{title} {number}", SCALARS[held.scalar_type], tuple(held.sizes)))
    for at, index in enumerate(call.args):
        _given(name, method, index, kind if at == 0 else "")


def _replaced(state: State) -> bool:
    """Whether a state is no keys and no values."""
    return state.name.startswith((CONVOLUTION, RECURRENCE))


def _given(name: str, method: Method, index: int, kind: str) -> None:
    """Note a constant that an operation is given; `kind` is the operation's name where it is its first input."""
    tensor = method.tensor(index)
    if tensor is None or not method.is_constant(tensor):
        return
    dtype, dims = SCALARS[int(tensor.scalar_type)], [int(size) for size in tensor.sizes]
    looked_up = kind == LOOK_UP and len(dims) > 1
    role: Role = "other"
    if looked_up and not is_encoder(name):
        role = "table" if name == "token_embedding" else "constant"
    elif math.prod(dims) in (1, method.frequencies):
        role = "constant"  # single numbers, and frequencies of rotary positions
    elif not looked_up and (not dtype.startswith("float") or (name == "text_decoder" and len(dims) > 1)):
        role = "constant"  # indices, and rotary tables: a decoder's matrices are in the delegate
    rows = dims[0] if looked_up and not is_encoder(name) else 0
    numbers = 0 if looked_up and dims[-1] == 1 else math.prod(dims)  # a column of scales
    key = f"{method.file}:constant {tensor.data_buffer_idx}"
    method.weights.setdefault(key, Held(key, numbers, size_of(dtype, tuple(dims)), dtype, role, rows))


def _delegate(name: str, method: Method, delegate: Any) -> None:
    where = delegate.processed
    data = bytes(method.program.program.backend_delegate_data[where.index].data)
    if delegate.id != "XnnpackBackend":
        method.operations[delegate.id] += 1
        return
    graph = xnnpack_graph(data)
    values = {value["xvalue_union"].get("id_out", value["xvalue_union"].get("tensor_value", {}).get("id_out")): value
              for value in graph["xvalues"]}  # fmt: skip
    held: dict[int, Held] = {}
    for number, value in values.items():
        found = _constant(method, graph, value)
        if found is not None:
            held[number] = found
    for node in graph["xnodes"]:
        kind, sides = node["xnode_union_type"].removeprefix("XNN"), node["xnode_union"]
        method.operations[kind] += 1
        weight = held.get(sides.get("filter_id", -1))
        out = math.prod(_dims(values[sides["output_id"]])) if kind in (*PRODUCTS, "BatchMatrixMultiply") else 0
        if kind in PRODUCTS and weight is not None:
            dims = _dims(values[sides["filter_id"]])
            if kind == "FullyConnected" and (dims[0] == 1 or _turns(method, graph, values[sides["filter_id"]])):
                held[sides["filter_id"]] = _as(weight, "constant")
                continue
            # A free size is stored as its greatest; a token is one row of every product of a decoder.
            rows = out // (dims[-1] if kind == "DepthwiseConv2d" else dims[0]) if is_encoder(name) else 1
            method.products += weight.numbers * rows
            held[sides["filter_id"]] = _as(weight, "product")
        elif kind == "BatchMatrixMultiply" and is_encoder(name):
            method.attention += out * _dims(values[sides["input1_id"]])[-1]
    method.weights.update({one.key: one for one in held.values()})


def _as(held: Held, role: Role) -> Held:
    return Held(held.key, held.numbers, held.size_bytes, held.kind, role)


def _plain(value: Any) -> dict[str, Any]:
    inner: dict[str, Any] = value["xvalue_union"]
    plain: dict[str, Any] = inner.get("tensor_value", inner)
    return plain


def _dims(value: Any) -> list[int]:
    return [int(size) for size in _plain(value)["dims"]]


def _constant(method: Method, graph: Any, value: Any) -> Held | None:
    """A value of a graph that is stored, with its scales; None for one that is computed."""
    tensor = _plain(value)
    buffer = int(tensor["constant_buffer_idx"])
    if not buffer:
        return None
    place = graph["constant_data"][buffer]
    kind, dims = XNNPACK[tensor["datatype"].removeprefix(PREFIX)], _dims(value)
    size = int(place["size"])
    scales = value["xvalue_union"].get("quant_params", {})
    size += _scale_bytes(graph, scales)
    key = place["named_key"] or f"{id(graph)}:{buffer}"
    role: Role = "constant" if math.prod(dims) == 1 else "other"
    return Held(f"{method.file}:{key}", math.prod(dims), size, kind, role)


def _turns(method: Method, graph: Any, value: Any) -> bool:
    """Whether a stored matrix is a signed permutation, of all numbers of a head or of the first: it turns them."""
    dims, tensor = _dims(value), _plain(value)
    name = graph["constant_data"][int(tensor["constant_buffer_idx"])]["named_key"]
    data = method.program.named_data
    if len(dims) != 2 or dims[0] != dims[1] or not tensor["datatype"].endswith("fp32") or data is None:
        return False
    if name not in data.pte_data:
        return False
    matrix = np.frombuffer(bytes(data.buffers[data.pte_data[name].buffer_index]), "<f4")[: dims[0] ** 2]
    turned = np.abs(matrix.reshape(dims)).sum(1)
    return bool(turned.any() and np.all(turned <= 1) and np.all(np.isin(matrix, (-1, 0, 1))))


def _scale_bytes(graph: Any, scales: Any) -> int:
    """Of a weight's scales, in the graph or beside it."""
    inside = scales.get("scale", [])
    if isinstance(inside, list) and inside:
        return 4 * len(inside)
    buffer = int(scales.get("scale_buffer_idx", 0) or 0)
    return int(graph["constant_data"][buffer]["size"]) if buffer else 0


def xnnpack_graph(data: bytes) -> dict[str, Any]:
    """A delegate's graph as XNNPACK's schema has it, by ExecuTorch's own flatbuffer compiler.

    Args:
        data: What a program holds for the delegate.

    Raises:
        BundleError: it is no such graph.
    """
    import executorch.backends.xnnpack.serialization as schemas
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    try:
        header = XNNHeader.from_bytes(data[: XNNHeader.EXPECTED_LENGTH])
    except ValueError as error:
        raise BundleError("A delegate of this program holds no XNNPACK graph.", why=str(error)) from error
    start = header.flatbuffer_offset
    with tempfile.TemporaryDirectory() as folder:
        schema, graph = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes(importlib.resources.files(schemas).joinpath("schema.fbs").read_bytes())
        graph.write_bytes(data[start : start + header.flatbuffer_size])
        _flatc_decompile(folder, str(schema), str(graph), ["--raw-binary"])
        found: dict[str, Any] = json.loads(graph.with_suffix(".json").read_text(encoding="utf-8"))
    return found


IN_XNNPACK = (
    "operations inside the delegate have XNNPACK's names; the matrices that compute the means of norms and turn the "
    "halves of a head for rotary positions are no parameters, and their products are not counted"
)


def _told(bundle: Bundle) -> tuple[str, ...]:
    details = bundle.manifest.details
    name, methods = backend_of(details), details.get("methods")
    notes = told(name, methods) if isinstance(methods, dict) else ()
    return (*((IN_XNNPACK,) if name == "xnnpack" else ()), *notes)


READER = Reader(
    "operations that stay off the delegates and run as kernels of their own",
    (),
    read,
    told=_told,
)
