"""Operations that give values another shape or order; nothing is rounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.formats.coreml.mil.ops import Bools, Ints, operation


@operation(exact=True)
def identity(x: Tensor) -> Tensor:
    """x."""
    return x.detach()


@operation(exact=True)
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """-1 is what is left over; 0 is the size of x's axis at the same place from the right (iOS 17), else 1."""
    last = len(shape)
    wanted = [
        size if size else (x.shape[at - last] if last - at <= x.dim() else 1) for at, size in enumerate(shape)
    ] if x.numel() else list(shape)  # fmt: skip
    return x.reshape(wanted)


@operation(exact=True)
def reshape_like(x: Tensor, ref_tensors: list[Tensor], begins: Ints, ends: Ints, end_masks: Bools) -> Tensor:
    """The shape is the chosen axes of several tensors, one after the other."""
    shape: list[int] = []
    for ref, begin, end, open_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += list(ref.shape[begin:] if open_end else ref.shape[begin:end])
    return x.reshape(shape)


@operation(exact=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    """Axis i of the result is axis perm[i] of x."""
    return x.permute(perm)


@operation(exact=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """New axes of size 1, counted in the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operation(exact=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Without these axes of size 1, or without all."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@operation(exact=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Two axes: those before `axis`, and the rest."""
    return x.reshape(math.prod(x.shape[: axis % x.dim()]), -1)


@operation(exact=True)
def shape(x: Tensor) -> Tensor:
    """The sizes of x, int32."""
    return torch.tensor(x.shape, dtype=torch.int32)


@operation(exact=True)
def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Along an axis, one after the other or taking turns; scalars count as vectors of one."""
    values = [value.reshape(1) if value.dim() == 0 else value for value in values]
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@operation(exact=True)
def stack(values: list[Tensor], axis: int) -> Tensor:
    """Along a new axis."""
    return torch.stack(values, axis)


@operation(exact=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    """Equal parts, or parts of given sizes."""
    return torch.split(x, list(split_sizes) if split_sizes else x.shape[axis] // (num_splits or 1), axis)


@operation(exact=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Backwards along some axes, or all."""
    return torch.flip(x, axes if axes is not None else tuple(range(x.dim())))


@operation(exact=True)
def reverse_sequence(x: Tensor, lengths: Ints, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """The first lengths[i] elements of row i backwards."""
    size = x.shape[seq_axis]
    order = torch.stack([torch.cat([torch.arange(length).flip(0), torch.arange(length, size)]) for length in lengths])
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    index = order.reshape(*order.shape, *[1] * (moved.dim() - 2)).expand(moved.shape)
    return moved.gather(1, index).movedim((0, 1), (batch_axis, seq_axis))


def region(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> tuple[slice | int, ...]:
    """NumPy's index of what `slice_by_index` and `slice_update` name."""
    found: list[slice | int] = []
    for axis in range(len(begin)):
        if squeeze_mask is not None and squeeze_mask[axis]:
            found.append(begin[axis])
            continue
        first = None if begin_mask is not None and begin_mask[axis] else begin[axis]
        last = None if end_mask is not None and end_mask[axis] else end[axis]
        found.append(slice(first, last, stride[axis] if stride is not None else 1))
    return tuple(found)


def _indexed(x: Tensor, index: tuple[slice | int, ...]) -> Tensor:
    """x[index], also with negative strides, which PyTorch does not have."""
    if all(isinstance(part, int) or part.step is None or part.step > 0 for part in index):
        return x[index]
    for axis, part in enumerate(index):
        if isinstance(part, slice):
            x = x.index_select(axis, torch.tensor(range(*part.indices(x.shape[axis])), dtype=torch.int64))
    return x[tuple(part if isinstance(part, int) else slice(None) for part in index)]


@operation(exact=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """NumPy's slicing; a squeezed axis is a plain index."""
    return _indexed(x, region(x, begin, end, stride, begin_mask, end_mask, squeeze_mask))


@operation(exact=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """size[i] elements from begin[i]; -1 is up to the end."""
    return x[tuple(slice(at, None if many == -1 else at + many) for at, many in zip(begin, size, strict=True))]


@operation(exact=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """(N, b b C, H, W) to (N, C, H b, W b); the block comes first in the channels, unlike `pixel_shuffle`."""
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, block_size, block_size, channels // block_size**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block_size, width * block_size)


@operation(exact=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """The inverse of `depth_to_space`."""
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // block_size, block_size, width // block_size, block_size)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block_size, width // block_size)


@operation(exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """(N, C f f, H, W) to (N, C, H f, W f)."""
    return functional.pixel_shuffle(x, upscale_factor)


@operation(exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """The inverse of `pixel_shuffle`."""
    return functional.pixel_unshuffle(x, downscale_factor)


@operation(exact=True)
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """Blocks of the padded image (N, C, H, W) into the batch axis."""
    top, bottom, left, right = paddings
    x = functional.pad(x, (left, right, top, bottom))
    (batch, channels, height, width), (rows, columns) = x.shape, block_shape
    parts = x.reshape(batch, channels, height // rows, rows, width // columns, columns)
    return parts.permute(3, 5, 0, 1, 2, 4).reshape(-1, channels, height // rows, width // columns)


@operation(exact=True)
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """The inverse of `space_to_batch`."""
    (batch, channels, height, width), (rows, columns) = x.shape, block_shape
    top, bottom, left, right = crops
    parts = x.reshape(rows, columns, batch // (rows * columns), channels, height, width)
    image = parts.permute(2, 3, 4, 0, 5, 1).reshape(-1, channels, height * rows, width * columns)
    return image[:, :, top : image.shape[2] - bottom, left : image.shape[3] - right]


@operation(exact=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """Every window along an axis; the elements of a window lie on the axis after it."""
    axis %= x.dim()
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


@operation(exact=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    """x repeated along each axis."""
    return x.repeat(reps)


@operation(exact=True)
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """(before, after) pairs for the last axes; constant, reflect (without the edge) or replicate."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        return functional.pad(x, [size for pair in reversed(pairs) for size in pair], value=constant_val)
    for axis, (before, after) in enumerate(pairs, start=x.dim() - len(pairs)):
        last = x.shape[axis] - 1
        at = torch.arange(-before, x.shape[axis] + after)
        at = at.clamp(0, last) if mode == "replicate" else last - (last - at.abs()).abs()
        x = x.index_select(axis, at)
    return x


@operation(exact=True)
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """Without (before, after) rows and columns of (N, C, H, W)."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


@operation(exact=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zero outside the band of the last two axes; -1 keeps that whole triangle."""
    x = x if lower < 0 else torch.triu(x, -lower)
    return x if upper < 0 else torch.tril(x, upper)
