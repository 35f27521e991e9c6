"""Reading and writing at indices, sorting, and tensors made from numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.formats.coreml.mil.ops import Ints, Weight, operation
from edgekit.formats.coreml.mil.values import dtype_named


def _positive(indices: Tensor, size: int) -> Tensor:
    """int64 indices, negative ones counted from the end; one outside is an error here, undefined on a device."""
    indices = indices.long()
    if indices.numel() and (int(indices.min()) < -size or int(indices.max()) >= size):
        raise IndexError(f"an index in [{int(indices.min())}, {int(indices.max())}] of an axis of size {size}")
    return torch.where(indices < 0, indices + size, indices)


@operation(exact=True)
def gather(x: Weight, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices of x along an axis; the first `batch_dims` axes of both go together."""
    axis %= len(x.shape)
    at = _positive(indices, x.shape[axis])
    if not isinstance(x, Tensor):
        if axis == 0 and not batch_dims:
            return x.take(at.reshape(-1)).reshape(*indices.shape, x.shape[1])
        x = x.dense()
    if not batch_dims:
        return x.index_select(axis, at.reshape(-1)).reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])
    batch, middle, rest = x.shape[:batch_dims], x.shape[batch_dims:axis], x.shape[axis + 1 :]
    flat = x.reshape(math.prod(batch), math.prod(middle), x.shape[axis], math.prod(rest))
    index = at.reshape(flat.shape[0], 1, -1, 1).expand(-1, flat.shape[1], -1, flat.shape[3])
    return flat.gather(2, index).reshape([*batch, *middle, *indices.shape[batch_dims:], *rest])


@operation(exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Element by element along an axis."""
    return torch.take_along_dim(x, _positive(indices, x.shape[axis]), axis)


def _flat_positions(shape: Ints, indices: Tensor) -> Tensor:
    """Positions in the flattened axes `shape` of index tuples (..., K): (...)."""
    places = [_positive(indices[..., axis], size) for axis, size in enumerate(shape)]
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for place, size in zip(places, shape, strict=True):
        flat = flat * size + place
    return flat


@operation(exact=True)
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices of x at index tuples (..., K)."""
    depth = indices.shape[-1]
    batch, named = tuple(x.shape[:batch_dims]), tuple(x.shape[batch_dims : batch_dims + depth])
    rest = x.shape[batch_dims + depth :]
    flat = x.reshape([math.prod(batch) * math.prod(named), *rest])
    at = _flat_positions(named, indices)
    if batch_dims:
        first = torch.arange(math.prod(batch)) * math.prod(named)
        at = at + first.reshape(*batch, *[1] * (at.dim() - batch_dims))
    return flat[at.reshape(-1)].reshape([*indices.shape[:-1], *rest])


def _written(data: Tensor, at: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Combine updates into flattened data at flat positions."""
    flat, new = data.flatten(), updates.flatten().to(data.dtype)
    if mode == "update":
        done = flat.index_put((at,), new)
    elif mode in ("add", "sub"):
        done = flat.index_add(0, at, new if mode == "add" else -new)
    elif mode == "div":
        done = flat / torch.ones_like(flat).scatter_reduce(0, at, new, "prod")
    elif mode in ("mul", "max", "min"):
        done = flat.scatter_reduce(0, at, new, {"mul": "prod", "max": "amax", "min": "amin"}[mode])
    else:
        raise ValueError(f"unknown mode {mode!r}")
    return done.to(data.dtype).reshape(data.shape)


@operation
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Combine slices of updates into data along an axis."""
    axis %= data.dim()
    at = _positive(indices, data.shape[axis]).reshape(-1)
    places = torch.arange(data.numel()).reshape(data.shape).index_select(axis, at)
    return _written(data, places.flatten(), updates, mode)


@operation
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Combine updates into data, element by element along an axis."""
    places = torch.arange(data.numel()).reshape(data.shape)
    return _written(data, places.gather(axis, _positive(indices, data.shape[axis])).flatten(), updates, mode)


@operation
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Combine slices of updates into data at index tuples (..., K)."""
    named = tuple(data.shape[: indices.shape[-1]])
    size = math.prod(data.shape[len(named) :])
    at = _flat_positions(named, indices).reshape(-1, 1) * size + torch.arange(size)
    return _written(data, at.flatten(), updates, mode)


@operation(exact=True)
def non_zero(x: Tensor) -> Tensor:
    """Index tuples of what is not zero, int32 (M, rank)."""
    return torch.nonzero(x).int()


@operation(exact=True)
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """on_value at the index along a new axis, off_value elsewhere; an index outside gives no on_value."""
    on = torch.tensor(1, dtype=torch.int32) if on_value is None else on_value
    off = torch.zeros((), dtype=on.dtype) if off_value is None else off_value
    hit = indices.unsqueeze(-1) == torch.arange(one_hot_vector_size)
    return torch.where(hit, on, off).movedim(-1, axis)


@operation(exact=True)
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Order of the values along an axis, int32; equal ones keep their order."""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True).int()


@operation(exact=True)
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """The k greatest (or, ascending, least) along an axis, and where they are; always sorted here."""
    k = x.shape[axis] if k == -1 else k
    order = torch.argsort(x, dim=axis, descending=not ascending, stable=True).narrow(axis, 0, k)
    values = torch.take_along_dim(x, order, axis)
    return (values, order.to(dtype_named(output_indices_dtype).torch)) if return_indices else (values,)


@operation
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum, from the end if reverse, without the element itself if exclusive."""
    x = x.flip(axis) if reverse else x
    total = torch.cumsum(x, axis)
    total = (total - x if exclusive else total).to(x.dtype)
    return total.flip(axis) if reverse else total


@operation(exact=True)
def fill(shape: Ints, value: Tensor | None = None) -> Tensor:
    """One value everywhere."""
    value = torch.zeros(()) if value is None else value
    return value.reshape(()).expand(shape).clone()


@operation(exact=True)
def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """One value in the shape of another tensor."""
    value = torch.zeros(()) if value is None else value
    return value.reshape(()).expand(ref_tensor.shape).clone()


@operation(exact=True)
def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    """start, start + step, ... before end."""
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@operation
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """Boxes kept in the order of their best score; iOS 17's layout, or with score_threshold iOS 15's.

    Args:
        boxes: Centre, width and height: (n, 4, B), in iOS 15's layout (n, B, 4).
        scores: (n, K, B), in iOS 15's layout (n, B, K).

    Returns:
        boxes, scores and indices of the kept ones, padded to max_boxes with zeros and indices with -1; in iOS 15's
        layout also how many there are.
    """
    old = score_threshold is not None
    if not old:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    kept = [
        _kept(b, s, iou_threshold, max_boxes, score_threshold, per_class_suppression)
        for b, s in zip(boxes, scores, strict=True)
    ]
    out_boxes = torch.stack([_filled(b[k], max_boxes) for b, k in zip(boxes, kept, strict=True)])
    out_scores = torch.stack([_filled(s[k], max_boxes) for s, k in zip(scores, kept, strict=True)])
    indices = torch.stack([functional.pad(k, (0, max_boxes - len(k)), value=-1) for k in kept]).int()
    if old:
        return out_boxes, out_scores, indices, torch.tensor([len(k) for k in kept], dtype=torch.int32)
    return out_boxes.transpose(1, 2), out_scores.transpose(1, 2), indices


def _filled(rows: Tensor, many: int) -> Tensor:
    return functional.pad(rows, (0, 0, 0, many - len(rows)))


def _kept(boxes: Tensor, scores: Tensor, iou: float, many: int, least: float | None, per_class: bool) -> Tensor:
    """Indices of the boxes (B, 4) that survive, best first."""
    best, label = scores.max(-1)
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], -1)
    low = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    high = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = boxes[:, 2] * boxes[:, 3]
    clash = shared / (area[:, None] + area[None] - shared) > iou
    if per_class:
        clash &= label[:, None] == label[None]
    alive = torch.ones(len(boxes), dtype=torch.bool) if least is None else best >= least
    found: list[int] = []
    for at in torch.argsort(best, descending=True, stable=True).tolist():
        if len(found) == many:
            break
        if alive[at]:
            found.append(at)
            alive &= ~clash[at]
    return torch.tensor(found, dtype=torch.int64)
