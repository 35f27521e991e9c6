"""Convolutions and pooling over one to three spatial axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.formats.coreml.mil.ops import Ints, operation

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _padding(kind: str, pad: Ints | None, sizes: Ints, spans: Ints, strides: Ints) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis; `spans` are the kernel's extents with dilation."""
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        flat = pad or (0, 0) * len(sizes)
        return list(zip(flat[::2], flat[1::2], strict=True))
    totals = [
        max((math.ceil(size / stride) - 1) * stride + span - size, 0)
        for size, span, stride in zip(sizes, spans, strides, strict=True)
    ]
    if kind == "same":
        return [(total // 2, total - total // 2) for total in totals]
    if kind == "same_lower":
        return [(total - total // 2, total // 2) for total in totals]
    raise ValueError(f"unknown pad_type {kind!r}")


def _padded(x: Tensor, pads: list[tuple[int, int]], value: float = 0.0) -> Tensor:
    flat = [size for pair in reversed(pads) for size in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


@operation
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """x (N, C, *D) with weight (O, C / groups, *K) to (N, O, *D')."""
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    spans = tuple((size - 1) * gap + 1 for size, gap in zip(weight.shape[2:], dilations, strict=True))
    pads = _padding(pad_type, pad, tuple(x.shape[2:]), spans, strides)
    symmetric = all(before == after for before, after in pads)
    inside = tuple(before for before, _ in pads) if symmetric else (0,) * rank
    x = x if symmetric else _padded(x, pads)
    return _CONV[rank](x, weight, bias, strides, inside, dilations, groups)


@operation
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """The gradient of `conv`: x (N, C, *D) with weight (C, O / groups, *K) to (N, O, *D')."""
    rank = x.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    full = _TRANSPOSED[rank](x, weight, None, strides, 0, 0, groups, dilations)
    for axis in range(rank):
        size = full.shape[2 + axis]
        if pad_type == "same":
            length = x.shape[2 + axis] * strides[axis]
            before = max(size - length, 0) // 2
        else:
            before, after = pad[2 * axis : 2 * axis + 2] if pad is not None and pad_type == "custom" else (0, 0)
            length = size - before - after
        length = output_shape[2 + axis] if output_shape is not None else length
        if before + length > size:
            full = _padded(full, [(0, before + length - size if axis == other else 0) for other in range(rank)])
        full = full.narrow(2 + axis, before, length)
    return full if bias is None else full + bias.reshape(-1, *[1] * rank)


@operation
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The greatest of each window of x (N, C, *D)."""
    rank = x.dim() - 2
    strides = strides or (1,) * rank
    pads = _padding(pad_type, pad, tuple(x.shape[2:]), kernel_sizes, strides)
    inside = _inside(pads, kernel_sizes)
    x = _padded(x, pads, -torch.inf) if inside is None else x
    return _MAX[rank](x, kernel_sizes, strides, inside or 0, ceil_mode=ceil_mode)


def _inside(pads: list[tuple[int, int]], kernel: Ints) -> Ints | None:
    """The padding as PyTorch's pools take it, or None where they cannot."""
    fits = all(before == after and 2 * before <= size for (before, after), size in zip(pads, kernel, strict=True))
    return tuple(before for before, _ in pads) if fits else None


@operation
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """The mean of each window of x (N, C, *D)."""
    rank = x.dim() - 2
    strides, pool = strides or (1,) * rank, _AVERAGE[rank]
    pads = _padding(pad_type, pad, tuple(x.shape[2:]), kernel_sizes, strides)
    inside = _inside(pads, kernel_sizes)
    if inside is not None:
        return pool(
            x, kernel_sizes, strides, inside, ceil_mode=ceil_mode, count_include_pad=not exclude_padding_from_average
        )
    mean = pool(_padded(x, pads), kernel_sizes, strides, 0, ceil_mode=ceil_mode)
    if not exclude_padding_from_average:
        return mean
    share = pool(_padded(torch.ones_like(x), pads), kernel_sizes, strides, 0, ceil_mode=ceil_mode)
    return mean / share


@operation
def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The root of the sum of squares of each window of x (N, C, *D)."""
    rank = x.dim() - 2
    strides = strides or (1,) * rank
    squares = _padded(x * x, _padding(pad_type, pad, tuple(x.shape[2:]), kernel_sizes, strides))
    mean = _AVERAGE[rank](squares, kernel_sizes, strides, 0, ceil_mode=ceil_mode)
    return torch.sqrt(mean * math.prod(kernel_sizes))
