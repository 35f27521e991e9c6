"""Products of matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.formats.coreml.mil.ops import AT_ONCE, Weight, operation
from edgekit.formats.coreml.mil.stored import scratch

_TILE = 1 << 17  # weights widened at a time: 512 KiB of float32, which stays in the cache


@operation(exact=True)
def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x @ weight^T + bias, summed in float32.

    A float16 weight is widened a few rows at a time and a compressed one made so, therefore no float32 copy of it is
    ever held.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,).

    Returns:
        (..., O).
    """
    half = x.dtype is torch.float16
    if isinstance(weight, Tensor) and not half:
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    wide = x.reshape(-1, x.shape[-1])
    if bias is not None and not bool(bias.any()):
        bias = None  # Core ML writes zeros where a layer has none
    # PyTorch's float16 matrix-vector product sums in float32, and rounds: a bias must come before that.
    direct = not half or (len(wide) == 1 and bias is None and weight.dtype is x.dtype)
    if direct and isinstance(weight, Tensor):
        return functional.linear(x, weight)
    wide = wide if direct else wide.float()
    out = torch.empty(*x.shape[:-1], weight.shape[0], dtype=x.dtype)
    flat, step = out.view(-1, weight.shape[0]), max(1, _TILE // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], step):
        stop = min(start + step, weight.shape[0])
        tile = weight[start:stop] if isinstance(weight, Tensor) else weight.rows(start, stop)
        if tile.dtype is not wide.dtype:
            tile = scratch("wide", tuple(tile.shape), wide.dtype).copy_(tile)
        flat[:, start:stop] = functional.linear(wide, tile, None if bias is None else bias[start:stop].to(wide.dtype))
    return out


@operation(exact=True)
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """x @ y over the last two axes, summed in float32; a vector is a row on the left and a column on the right."""
    x, y = _transposed(x, transpose_x), _transposed(y, transpose_y)
    if not x.is_floating_point():
        return x.long().matmul(y.long()).to(x.dtype)
    if x.dtype is not torch.float16 and y.dtype is not torch.float16:
        return torch.matmul(x, y)
    count = max(x.numel(), y.numel(), math.prod(x.shape[:-1]) * y.shape[-1])
    if x.dim() == y.dim() > 2 and x.shape[:-2] == y.shape[:-2] and count > AT_ONCE:
        # One matrix after another, so that attention over an image holds no float32 scores of all heads.
        out = torch.empty(*x.shape[:-1], y.shape[-1], dtype=torch.float16)
        for left, right, into in zip(x.flatten(0, -3), y.flatten(0, -3), out.flatten(0, -3), strict=True):
            into.copy_(left.float() @ right.float())
        return out
    return torch.matmul(x.float(), y.float()).half()


def _transposed(x: Tensor, wanted: bool) -> Tensor:
    return x.transpose(-1, -2) if wanted and x.dim() > 1 else x


@operation
def einsum(values: list[Tensor], equation: str) -> Tensor:
    """Einstein's sum of two tensors."""
    return torch.einsum(equation, *values)


@operation
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(E) + mask) v; a bool mask says what may be attended to.

    Args:
        query: (B, ..., L, E).
        key: (B, ..., S, E).
        value: (B, ..., S, EV).
        attn_mask: Broadcast to (B, ..., L, S).
    """
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype is torch.bool else scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)
