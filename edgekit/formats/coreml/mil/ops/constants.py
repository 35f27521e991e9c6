"""Compressed weights (`constexpr_*`) and quantised activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgekit.formats.coreml.mil.ops import Ints, operation
from edgekit.formats.coreml.mil.values import dtype_named, unpacked

_ROWS = 1 << 20  # elements decompressed at a time


def _along(value: Tensor, rank: int, axis: int) -> Tensor:
    """A scalar, or a vector laid along one axis of a tensor of some rank."""
    return value if value.dim() == 0 else value.reshape([-1 if at == axis % rank else 1 for at in range(rank)])


@operation(exact=True)
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """scale * (data - zero_point), in float32, rounded to the type of scale."""
    rank = quantized_data.dim()
    shifted = quantized_data.float() - _along(zero_point.float(), rank, axis)
    return (shifted * _along(scale.float(), rank, axis)).to(scale.dtype)


@operation(exact=True)
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """Another type."""
    return source_val.to(dtype_named(output_dtype).torch)


def _blocks(values: Tensor, shape: Ints) -> tuple[list[int], list[int]]:
    """Shapes that bring data and its values for each block together: (g0, b0, g1, b1, ...) and (g0, 1, g1, 1, ...)."""
    wide, narrow = [], []
    for size, groups in zip(shape, values.shape, strict=True):
        if size % groups:
            raise ValueError(f"an axis of size {size} does not divide into {groups} blocks")
        wide += [groups, size // groups]
        narrow += [groups, 1]
    return wide, narrow


def _shifted(data: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """scale * (data - offset) by blocks, a few rows at a time so that no float32 copy of the weight is made."""
    wide, narrow = _blocks(scale, tuple(data.shape))
    out = torch.empty(data.shape, dtype=scale.dtype)
    parts, target, factors = data.reshape(wide), out.view(wide), scale.reshape(narrow)
    shifts = None if offset is None else offset.reshape(narrow)
    axis = 0 if wide[0] > 1 else 1  # blocks of rows, or the rows of the only block
    step = max(1, _ROWS * wide[axis] // max(1, data.numel()))
    for start in range(0, wide[axis], step):
        many = min(step, wide[axis] - start)
        block = parts.narrow(axis, start, many).float()
        if shifts is not None:
            block -= (shifts if axis else shifts.narrow(0, start, many)).float()
        block *= (factors if axis else factors.narrow(0, start, many)).float()
        target.narrow(axis, start, many).copy_(block)
    return out


@operation(exact=True)
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset), one scale and offset for each block; in float32, rounded to the type of scale."""
    return _shifted(data, scale, offset)


@operation(exact=True)
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`constexpr_blockwise_shift_scale` of the stored elements alone; the mask and their values."""
    dense = _shifted(_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def _looked_up(indices: Tensor, lut: Tensor) -> Tensor:
    """The palette entries of indices of any shape: (*indices.shape, V), for a lut (*groups, P, V)."""
    groups, palette, size = tuple(lut.shape[:-2]), lut.shape[-2], lut.shape[-1]
    entries = lut.reshape(-1, size)
    if math.prod(groups) == 1:
        return entries.index_select(0, indices.reshape(-1).int()).reshape(*indices.shape, size)
    shape = tuple(indices.shape)
    base = torch.zeros([1] * len(shape), dtype=torch.int32)
    for axis, count in enumerate(groups):
        if shape[axis] % count:
            raise ValueError(f"an axis of size {shape[axis]} does not divide into {count} palettes")
        at = torch.arange(shape[axis], dtype=torch.int32) // (shape[axis] // count)
        base = base * count + at.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    base = base * palette
    out = torch.empty(*shape, size, dtype=lut.dtype)
    step = max(1, _ROWS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):  # a few rows at a time: the positions are four times the weight's size
        part = indices[start : start + step]
        row_base = base[start : start + step] if base.shape[0] > 1 else base
        out[start : start + step] = entries.index_select(0, (part + row_base).reshape(-1)).reshape(*part.shape, size)
    return out


def _spread(found: Tensor, vector_axis: int | None) -> Tensor:
    """(*shape, V) with V folded into one axis."""
    rank = found.dim() - 1
    if found.shape[-1] == 1 or vector_axis is None:
        return found.squeeze(-1)
    axis = vector_axis % rank
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operation(exact=True)
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    """Palette entries; with `shape`, iOS 16's bytes of packed indices, else iOS 18's palettes for each block."""
    if shape is not None:
        bits = int(math.log2(lut.numel()))
        unpacked_indices = torch.from_numpy(unpacked(indices.numpy(), bits, math.prod(shape))).reshape(shape)
        return _looked_up(unpacked_indices, lut.reshape(*[1] * len(shape), -1, 1)).squeeze(-1)
    return _spread(_looked_up(indices, lut), vector_axis)


def _dense(nonzero_data: Tensor, mask: Tensor) -> Tensor:
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


@operation(exact=True)
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    """Zeros, and the stored elements where the mask is set; with `shape`, iOS 16's bytes of packed bits."""
    if shape is not None:
        mask = torch.from_numpy(unpacked(mask.numpy(), 1, math.prod(shape))).reshape(shape)
    return _dense(nonzero_data, mask)


@operation(exact=True)
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """`constexpr_lut_to_dense` of the stored elements alone; the mask and their values."""
    dense = _spread(_looked_up(_dense(indices_nonzero_data, indices_mask), lut), vector_axis)
    many = lut.shape[-1]
    mask = _spread(indices_mask.unsqueeze(-1).expand(*indices_mask.shape, many), vector_axis)
    return mask, dense[mask != 0]


@operation(exact=True)
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int = 0
) -> Tensor:
    """clip(round(input / scale) + zero_point), rounding halves to even."""
    kind = dtype_named(output_dtype)
    rank = input.dim()
    steps = torch.round(input.float() / _along(scale.float(), rank, axis))
    steps = steps if zero_point is None else steps + _along(zero_point.float(), rank, axis)
    limits = torch.iinfo(kind.torch)
    return steps.clamp(limits.min, limits.max).to(kind.torch)


@operation(exact=True)
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int = 0) -> Tensor:
    """scale * (input - zero_point), in the type of scale."""
    zero = torch.zeros((), dtype=input.dtype) if zero_point is None else zero_point
    rank = input.dim()
    shifted = input.float() - _along(zero.float(), rank, axis)
    return (shifted * _along(scale.float(), rank, axis)).to(scale.dtype)
