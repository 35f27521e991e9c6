"""Element-wise arithmetic, comparisons and activations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.formats.coreml.mil.ops import AT_ONCE, operation, table
from edgekit.formats.coreml.mil.values import dtype_named

table(
    {
        "abs": torch.abs,
        "acos": torch.acos,
        "asin": torch.asin,
        "atan": torch.atan,
        "atanh": torch.atanh,
        "ceil": torch.ceil,
        "cos": torch.cos,
        "cosh": torch.cosh,
        "erf": torch.erf,
        "exp": torch.exp,
        "exp2": torch.exp2,
        "floor": torch.floor,
        "relu": torch.relu,
        "relu6": functional.relu6,
        "round": torch.round,
        "sigmoid": torch.sigmoid,
        "sign": torch.sign,
        "silu": functional.silu,
        "sin": torch.sin,
        "sinh": torch.sinh,
        "softsign": functional.softsign,
        "sqrt": torch.sqrt,
        "square": torch.square,
        "tan": torch.tan,
        "tanh": torch.tanh,
    },
    "x",
)
table({"logical_not": torch.logical_not}, "x", exact=True)

# PyTorch's float16 kernels of these compute in float32 and round once; tests/formats/test_mil_ops.py holds them to it.
table(
    {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "equal": torch.eq,
        "not_equal": torch.ne,
        "greater": torch.gt,
        "greater_equal": torch.ge,
        "less": torch.lt,
        "less_equal": torch.le,
        "logical_and": torch.logical_and,
        "logical_or": torch.logical_or,
        "logical_xor": torch.logical_xor,
        "maximum": torch.maximum,
        "minimum": torch.minimum,
    },
    "x",
    "y",
    exact=True,
)
table({"pow": torch.pow, "mod": torch.remainder}, "x", "y")


@operation
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y; of integers, cut towards zero."""
    both_whole = not x.is_floating_point() and not y.is_floating_point()
    return torch.div(x, y, rounding_mode="trunc" if both_whole else None)


@operation
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """The floor of x / y."""
    return torch.div(x, y, rounding_mode="floor")


@operation(exact=True)
def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert; floats to integers are cut towards zero, to bool is `!= 0`."""
    return x.to(dtype_named(dtype).torch)


@operation(exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where cond, else b."""
    return torch.where(cond, a, b)


@operation
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Between alpha and beta."""
    return torch.clamp(x, alpha, beta)


@operation
def threshold(x: Tensor, alpha: float) -> Tensor:
    """At least alpha."""
    return torch.clamp(x, min=alpha)


@operation
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 / (x + epsilon)."""
    return torch.reciprocal(x + epsilon)


@operation
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """ln(x + epsilon)."""
    return torch.log(x + epsilon)


@operation
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + epsilon)


@operation
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(leaky_relu(x, alpha), beta)."""
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


@operation
def elu(x: Tensor, alpha: float) -> Tensor:
    """alpha * (e^x - 1) below zero."""
    return functional.elu(x, alpha)


@operation
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """The error-function form, its tanh approximation, or x * sigmoid(1.702 x)."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@operation
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """alpha * x below zero."""
    return torch.where(x >= 0, x, alpha * x)


@operation
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * x + beta."""
    return alpha * x + beta


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (x.dim() - 2))


@operation
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """alpha * x below zero, one alpha for each channel (axis 1)."""
    return torch.where(x >= 0, x, _per_channel(alpha, x) * x)


@operation
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * tanh(beta * x)."""
    return alpha * torch.tanh(beta * x)


@operation
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * x + beta between 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


@operation
def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x)."""
    return _softplus(x)


@operation
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha * ln(1 + e^(beta x)), one pair for each channel (axis 1)."""
    return _per_channel(alpha, x) * _softplus(_per_channel(beta, x) * x)


@operation(exact=True)
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Along one axis; of float16 in float32, a few rows at a time."""
    if x.dtype is not torch.float16:
        return torch.softmax(x, axis)
    last = axis % x.dim() == x.dim() - 1
    if not last or x.numel() <= AT_ONCE:
        return torch.softmax(x.float(), axis).half()
    rows, out = x.reshape(-1, x.shape[-1]), torch.empty(x.shape, dtype=x.dtype)
    step = max(1, AT_ONCE // x.shape[-1])
    for part, into in zip(torch.split(rows, step), torch.split(out.view(rows.shape), step), strict=True):
        into.copy_(torch.softmax(part.float(), -1))
    return out


@operation
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x where it is at least alpha, else 0."""
    return torch.where(x >= alpha, x, 0.0)
