"""What an ONNX bundle's weights can be: for the export that writes them, and for training that prepares a student."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.precision import FP16, FP32, INT4, INT8, INT8_STATIC, TargetPrecision, by_name
from edgekit.quantisation import Scheme


@dataclass(frozen=True)
class OnnxPrecision(TargetPrecision):
    """A precision of the target onnx.

    Attributes:
        suffix: Of the names of its files; transformers.js finds a precision by it.
    """

    suffix: str = ""


# int8 is quantize_dynamic's (QInt8, per channel), int4 is MatMulNBitsQuantizer's own choice (asymmetric) at the block
# size of transformers.js. Both take every linear layer, the output head too; embeddings and convolutions stay float32.
PRECISIONS = by_name(
    OnnxPrecision(FP32, "float32"),
    OnnxPrecision(FP16, "float16 weights and maths, float32 inputs and outputs", suffix="_fp16"),
    OnnxPrecision(INT8, "dynamic QInt8, per channel, MatMul", scheme=Scheme(8, None, symmetric=True), suffix="_int8"),
    OnnxPrecision(
        INT8_STATIC,
        "static QUInt8 inputs and QInt8 weights per channel by calibration, MatMul",
        calibrated=True,
        suffix="_int8",
    ),
    OnnxPrecision(
        INT4,
        "MatMulNBits: 4 bits in blocks of 32, asymmetric, accuracy_level 4; lm_head too; embeddings float32",
        scheme=Scheme(4, 32, symmetric=False),
        suffix="_q4",
    ),
)
EMBEDDING = by_name(
    OnnxPrecision(FP32, "float32"),
    OnnxPrecision(FP16, "float16, float32 output", suffix="_fp16"),
    OnnxPrecision(INT8, "int8 rows, a float32 scale each", suffix="_int8"),
)
"""Of the table alone, in a mixture."""


def scheme_of(precision: str) -> Scheme:
    """The grid that the export puts the weights of a student on, who can be trained for it.

    Args:
        precision: Common name of one that has a grid.
    """
    scheme = PRECISIONS[precision].scheme
    assert scheme is not None, f"{precision} has no grid to train for"
    return scheme
