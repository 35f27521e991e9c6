"""Inside Core AI assets.

Core AI's own library reads the programs, in a process of its own: a damaged one ends the process that reads it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, MissingExtraError
from edgekit.files import sha256_json
from edgekit.formats import Held, Part, Reader, Role, State
from edgekit.formats.coreai.assets import WHOLE, WORDS, check_asset, declared, tensor_type
from edgekit.formats.coreai.host import signature
from edgekit.formats.counting import BITS
from edgekit.formats.declared import check_tensors
from edgekit.manifest import Component
from edgekit.system.isolated import Isolated, ProcessDied

LIMIT_S = 300
WIDTHS = {**BITS, **{f"{word}{bits}": bits for _, word in WORDS for bits in WHOLE}}
PRODUCTS = ("batch_matmul", "broadcasting_batch_matmul")
CONVOLUTIONS = ("conv2d", "conv3d")
SAME = ("transpose", "reshape", "cast", "expand_dims", "shrink_dims", "broadcast_to", "broadcast_in_dims")
DENSE = ("blockwise_shift_scale", "lut_to_dense", "dequantize")
LOOK_UPS = ("gather_nd", "gather_along_axis")


def read(bundle: Bundle) -> dict[str, Part]:
    """The parts of a bundle of target coreai.

    Raises:
        MissingExtraError: coreai is not installed.
        BundleError: a program cannot be read.
    """
    if find_spec("coreai") is None:
        raise MissingExtraError("look into Core AI assets", "coreai-core", "coreai")
    bundle.check_parts()
    components = bundle.manifest.components
    found = {name: _listing(bundle.path(component.file)) for name, component in components.items()}
    check_tensors(components, {name: declared(listing["signature"]) for name, listing in found.items()})
    frequencies = bundle.manifest.cache.head_dim // 2
    return {name: _part(name, component, found[name], frequencies) for name, component in components.items()}


def _listing(path: Path) -> dict[str, Any]:
    check_asset(path.parent)
    try:
        with Isolated(quiet=True) as isolated:
            return isolated.call(listed, path=str(path), limit_s=LIMIT_S)
    except ProcessDied as error:
        raise BundleError(
            f"Core AI cannot read {path}.", why=error.what[:300], fix="Copy or export the bundle again."
        ) from error


def listed(path: str) -> dict[str, Any]:
    """`list_program` of a file, for another process to call."""
    return list_program(Path(path))


def _part(name: str, component: Component, listing: dict[str, Any], frequencies: int) -> Part:
    held = [
        Held(
            f"{component.file}:{weight['key']}", weight["numbers"], weight["bytes"], weight["kind"],
            _role(name, weight, frequencies), weight["rows"] if name == "token_embedding" else 0,
        )
        for weight in listing["weights"]
    ]  # fmt: skip
    states = tuple(
        State(spec.name, spec.dtype, spec.shape) for spec in component.inputs if spec.name in ("k_cache", "v_cache")
    )
    return Part(listing["operations"], tuple(held), listing["products"], listing["attention"], states=states)


def _role(component: str, weight: dict[str, Any], frequencies: int) -> Role:
    used_by = set(weight["used_by"])
    if used_by & {*PRODUCTS, *CONVOLUTIONS}:
        return "product"
    if component == "token_embedding" and used_by & set(LOOK_UPS):
        return "table"
    if component == "text_decoder" and weight["numbers"] == frequencies and weight["kind"] == "float32":
        return "constant"  # of rotary positions
    return "other"


def kind_and_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """As `tensor_type`; a free size is 1, as a run for one token has it."""
    kind, sizes = tensor_type(text)
    return kind, tuple(1 if size is None else size for size in sizes)


def list_program(path: Path) -> dict[str, Any]:
    """Operations, weights and multiply-adds of a program, as JSON values.

    Args:
        path: Its `main.mlirb`.
    """
    from coreai._compiler._mlir_libs._coreaiIR._bindings.compiler import load_module_from_bytecode
    from coreai.authoring.context import Context

    module = load_module_from_bytecode(context=Context()._mlir_context, path=path)
    graphs = {_symbol(graph): graph for graph in _inner(module.operation) if _short(graph) == "graph"}
    called = {_callee(op) for graph in graphs.values() for op in _inner(graph) if _short(op) == "invoke"}
    program = Listing(graphs)
    for name in graphs.keys() - called:
        program.add(graphs[name])
    return {
        "signature": signature(path),
        "operations": dict(program.operations),
        "weights": list(program.weights.values()),
        "products": program.products,
        "attention": program.attention,
    }


class Listing:
    """What the graphs of a program hold and do, sub-graphs at every call."""

    def __init__(self, graphs: dict[str, Any]) -> None:
        self.graphs = graphs
        self.operations: Counter[str] = Counter()
        self.weights: dict[str, dict[str, Any]] = {}
        self.products = self.attention = 0

    def add(self, graph: Any) -> None:
        """Count a graph's operations."""
        for op in _inner(graph):
            kind = _short(op)
            if kind == "invoke":
                for source in map(_source, op.operands):
                    if source is not None and _short(source) in ("constant", *DENSE):
                        self._keep(kind, source)
                self.add(self.graphs[_callee(op)])
            elif kind not in ("constant", "output", "create_token"):
                self.operations[kind] += 1
                self._count(kind, op)

    def _count(self, kind: str, op: Any) -> None:
        sources = [] if kind in (*SAME, *DENSE) else [_source(value) for value in op.operands]
        for source in sources:
            if source is not None and _short(source) in ("constant", *DENSE):
                self._keep(kind, source)
        if kind in PRODUCTS or kind in CONVOLUTIONS:
            out = _size(op.results[0])
            weight = sources[1]
            if kind in CONVOLUTIONS:
                inner = _size(op.operands[1]) // kind_and_shape(str(op.operands[1].type))[1][0]
            else:
                inner = kind_and_shape(str(op.operands[0].type))[1][-1]
            if weight is not None and _short(weight) in ("constant", *DENSE):
                self.products += out * inner
            else:
                self.attention += out * inner

    def _keep(self, kind: str, source: Any) -> None:
        """Note a constant, or what one is decompressed from, once for all that use it."""
        dtype, shape = kind_and_shape(str(source.results[0].type))
        numbers = _size(source.results[0])
        if not shape or numbers == 1 or dtype not in ("float32", "float16", "bfloat16"):
            return
        given = [source] if _short(source) == "constant" else [_source(value) for value in source.operands]
        stored = [op for op in given if op is not None and _short(op) == "constant"]
        key = sha256_json([str(op.attributes["value"]) for op in stored])
        weight = self.weights.setdefault(
            key,
            {
                "key": key, "numbers": numbers, "rows": shape[0], "used_by": [],
                "kind": kind_and_shape(str(stored[0].results[0].type))[0], "bytes": sum(map(_stored_bytes, stored)),
            },
        )  # fmt: skip
        weight["used_by"].append(kind)


def _stored_bytes(constant: Any) -> int:
    """Of a constant; where all its numbers are the same, as zero points are, one is stored."""
    dtype, shape = kind_and_shape(str(constant.results[0].type))
    count = 1 if getattr(constant.attributes["value"], "is_splat", False) else math.prod(shape)
    return -(-count * WIDTHS[dtype] // 8)


def _source(value: Any) -> Any:
    """The operation that a value comes from, past those that only turn it round; None for an input."""
    owner = value.owner
    while hasattr(owner, "operands") or hasattr(owner, "operation"):
        op = owner.operation if hasattr(owner, "operation") else owner
        if _short(op) not in SAME:
            return op
        owner = op.operands[0].owner
    return None


def _size(value: Any) -> int:
    return math.prod(kind_and_shape(str(value.type))[1])


def _inner(op: Any) -> Iterator[Any]:
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation


def _short(op: Any) -> str:
    return str(op.name).rpartition(".")[2]


def _symbol(graph: Any) -> str:
    return str(graph.attributes["sym_name"]).strip('"')


def _callee(op: Any) -> str:
    found = re.search(r'@"?([\w.$-]+)', str(op.attributes["callee"]))
    return found[1] if found else ""


READER = Reader(
    "no operation: what Core AI runs on which unit is not published",
    ("operations of a called sub-program, as attention is one, are counted at every call",),
    read,
)
