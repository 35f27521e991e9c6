"""Graphs of one layer, worked through by hand: what rewriting and quantising do to weights and biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.export import onnx, onnx_precision

onnx_ir = pytest.importorskip("onnx_ir", reason="the extra onnx is not installed")
RNG = np.random.default_rng(0)


def layer(op: str, weight: Any, bias: Any = None, rows: int = 2, **attributes: int) -> Any:
    """y = op(x, weight[, bias]) as an onnx_ir model; x (rows, K)."""
    from onnx import TensorProto, helper, numpy_helper

    inner, outer = weight.shape[::-1] if attributes.get("transB") else weight.shape
    held = [numpy_helper.from_array(value, name) for name, value in (("w", weight), ("b", bias)) if value is not None]
    node = helper.make_node(op, ["x", *(tensor.name for tensor in held)], ["y"], **attributes)
    values = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (rows, width))
        for name, width in (("x", inner), ("y", outer))
    )
    graph = helper.make_graph([node], "g", *([value] for value in values), held)
    return onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def run(model: Any, x: Any) -> Any:
    from onnxruntime import InferenceSession

    source = str(model) if isinstance(model, Path) else onnx_ir.to_proto(model).SerializeToString()
    return InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("biased", [False, True])
def test_a_gemm_becomes_a_product_and_a_sum(turned: int, biased: bool) -> None:
    x, weight = RNG.standard_normal((2, 5), np.float32), RNG.standard_normal((5, 3), np.float32)
    bias = np.array([10.0, -20.0, 30.0], np.float32) if biased else None
    model = layer("Gemm", np.ascontiguousarray(weight.T) if turned else weight, bias, transB=turned)
    onnx._gemm_to_matmul(model.graph)
    assert [node.op_type for node in model.graph] == ["MatMul", "Add"][: 1 + biased]
    np.testing.assert_allclose(run(model, x), x @ weight + (0 if bias is None else bias), rtol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_each_output_has_a_scale_of_its_own(precision: str, tmp_path: Path) -> None:
    """Columns a thousand times apart: with one scale for all, the small one would be rounded to nothing."""
    x = RNG.standard_normal((8, 64)).astype(np.float32)
    weight = (RNG.standard_normal((64, 3)) * np.array([1.0, 1e-3, 30.0])).astype(np.float32)
    path = tmp_path / "made.onnx"
    onnx_precision.store(layer("MatMul", weight, rows=8), "text", precision, path, [{"x": x}])
    wanted, got = x @ weight, run(path, x)
    error = np.abs(got - wanted).max(0) / np.abs(wanted).max(0)
    # int8-static rounds its output too, by one scale for the layer: only the weights it holds can be looked at there.
    if precision == "int8":
        assert (error < 0.03).all(), error
    scales = [tensor.numpy() for name, tensor in _initializers(path).items() if "scale" in name and "w" in name]
    assert any(
        scale.size == 3 and np.allclose(scale.ravel() * 127, np.abs(weight).max(0), rtol=0.01) for scale in scales
    )


def _initializers(path: Path) -> dict[str, Any]:
    return {name: value.const_value for name, value in onnx_ir.load(path).graph.initializers.items()}
