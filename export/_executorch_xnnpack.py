"""XNNPACK: kernels for the CPU, which the wheel runs too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgekit.export._executorch_backend import Backend
from edgekit.export._executorch_precision import quantise
from edgekit.export._xnnpack import LLAMA, rewritten, traceable, write_free_sizes_as_minus_one


def partitioner() -> Any:
    """XNNPACK's own."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return XnnpackPartitioner()


def lower(traced: Mapping[str, Any], delegated: Iterable[str], constant_methods: Mapping[str, Any]) -> Any:
    """Hand to XNNPACK what it takes.

    `to_edge_transform_and_lower` would decompose each method three times; the modules here hold nothing that its second
    and third passes are for, so `to_edge`, which decomposes once, and `to_backend` do the same work.

    Args:
        traced: Programs by method.
        delegated: Methods to hand over.
        constant_methods: Of the program.

    Returns:
        An EdgeProgramManager.
    """
    return decomposed_once(traced, {name: partitioner() for name in delegated}, constant_methods)


def decomposed_once(traced: Mapping[str, Any], takers: Mapping[str, Any], constant_methods: Mapping[str, Any]) -> Any:
    """As `lower`, by any partitioner that lets it."""
    from executorch.exir import EdgeCompileConfig, to_edge

    kept = {op for name, taker in takers.items() for op in taker.ops_to_not_decompose(traced[name])[0]}
    config = EdgeCompileConfig(preserve_ops=list(kept), _check_ir_validity=False)
    edge = to_edge(dict(traced), constant_methods=dict(constant_methods), compile_config=config)
    for name in traced:
        write_free_sizes_as_minus_one(edge.exported_program(name).graph_module)
    return edge.to_backend(dict(takers))


BACKEND = Backend(
    name="xnnpack",
    precisions=("fp32", "int8", "int8-static", "int4"),
    cache=LLAMA,
    written=rewritten,
    quantise=quantise,
    lower=lower,
    traced=traceable,
    knows=frozenset({"blocks", "conv", "recurrent", "views"}),
)
