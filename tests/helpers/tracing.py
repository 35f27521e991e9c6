"""Graphs traced once for all ONNX exports of the same weights; tracing takes most of such an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edgekit.export import onnx

TRACED: dict[tuple[object, ...], bytes] = {}
"""Of this test process, from all its files."""


@contextmanager
def traced_once(*key: object) -> Iterator[None]:
    """Within, each graph is traced the first time that any test asks for it by this key, and read back later.

    What is traced is the weights, the modules and the image sizes alone: not the precision, the processor, the
    tokenizer, the end tokens or the settings of generation, so checkpoints that differ in these may share a key.

    Args:
        key: Tells apart what is traced: the folder of the weights, and the sizes where an export is given some.
    """
    import onnx_ir
    from onnx import ModelProto

    real = onnx._trace

    def trace(graph: onnx.Graph) -> Any:
        name = (*map(str, key), graph.name)
        if name not in TRACED:
            TRACED[name] = onnx_ir.serde.serialize_model(real(graph)).SerializeToString()
        return onnx_ir.from_proto(ModelProto.FromString(TRACED[name]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_trace", trace)
        yield
