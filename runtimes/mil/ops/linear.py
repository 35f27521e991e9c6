"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.runtimes.mil.ops import operation

_BLOCK = 1 << 18  # weights widened at a time: 1 MiB of float32, which stays in the cache


@operation(exact=True)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight^T + bias, summed in float32.

    A float16 weight (O, I) is widened a few rows at a time, so no float32 copy of it is ever held.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,).
    Returns:
        (..., O).
    """
    if x.dtype is not torch.float16:
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    if rows == 1 and bias is None:
        return functional.linear(x, weight)  # PyTorch's float16 matrix-vector product sums in float32
    wide = x.reshape(-1, x.shape[-1]).float()
    out = torch.empty(*x.shape[:-1], weight.shape[0], dtype=torch.float16)
    flat, step = out.view(-1, weight.shape[0]), max(1, _BLOCK // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], step):
        part = slice(start, start + step)
        flat[:, part] = functional.linear(wide, weight[part].float(), None if bias is None else bias[part].float())
    return out


@operation
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """x @ y over the last two axes; a vector is a row on the left and a column on the right."""
    if not x.is_floating_point():
        return _transposed(x, transpose_x).long().matmul(_transposed(y, transpose_y).long()).to(x.dtype)
    return torch.matmul(_transposed(x, transpose_x), _transposed(y, transpose_y))


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
