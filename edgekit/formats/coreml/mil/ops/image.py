"""Resizing and resampling of the last two axes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.formats.coreml.mil.ops import Ints, operation


def _grid(old: int, new: int, mode: str) -> Tensor:
    """Where each of `new` points lies among `old`, as coremltools' text on `resize_bilinear` has it."""
    at = torch.arange(new, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if new == 1:
            return torch.tensor([(old - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0], dtype=torch.float64)
        return at * ((old - 1) / (new - 1))
    if mode == "DEFAULT":
        return at * (old / new)
    if mode == "OFFSET_CORNERS":
        step = max(1, old - 1) / new
        return at * step + 0.5 * step
    if mode == "UNALIGN_CORNERS":
        return (at + 0.5) * (old / new) - 0.5
    raise ValueError(f"unknown sampling_mode {mode!r}")


def _linear(x: Tensor, axis: int, new: int, mode: str) -> Tensor:
    old = x.shape[axis]
    grid = _grid(old, new, mode).clamp(0, old - 1)
    low = grid.floor().long()
    share = (grid - low).to(x.dtype).reshape([-1 if other == axis % x.dim() else 1 for other in range(x.dim())])
    first, second = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=old - 1))
    return first + (second - first) * share


def _nearest(x: Tensor, axis: int, new: int, mode: str) -> Tensor:
    """The point at or below in DEFAULT, the nearest one otherwise."""
    old = x.shape[axis]
    # One part in 10^9 keeps 2.9999999 from being cut to 2.
    shift = 1e-9 if mode == "DEFAULT" else 0.5
    return x.index_select(axis, (_grid(old, new, mode) + shift).floor().long().clamp(0, old - 1))


@operation
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """To a given size, linear along both axes."""
    return _linear(_linear(x, -2, target_size_height, sampling_mode), -1, target_size_width, sampling_mode)


@operation(exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """To a given size, the nearest point."""
    return _nearest(_nearest(x, -2, target_size_height, "DEFAULT"), -1, target_size_width, "DEFAULT")


@operation
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """By factors; without align_corners the points are pixel centres unless half_pixel_centers is off."""
    centres = not align_corners if half_pixel_centers is None else half_pixel_centers
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if centres else "DEFAULT"
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        x = _linear(x, axis, int(x.shape[axis] * factor), mode)
    return x


@operation(exact=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """By factors, the nearest point."""
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        x = _nearest(x, axis, int(x.shape[axis] * factor), "DEFAULT")
    return x


@operation
def resize(
    x: Tensor, shape: Ints, resized_dims: int, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> Tensor:
    """The last `resized_dims` axes to the last sizes of `shape`; 0 keeps an axis."""
    one = _linear if interpolation_mode == "LINEAR" else _nearest
    for axis in range(-resized_dims, 0):
        if shape[axis] and shape[axis] != x.shape[axis]:
            x = one(x, axis, shape[axis], sampling_mode)
    return x


_PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection"}


@operation
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """x (B, C, H, W) at coordinates (B, H', W', 2), each (x, y).

    Raises:
        ValueError: symmetric padding, or padding with another value than 0.
    """
    if padding_mode not in _PADDING or (padding_mode == "constant" and padding_value):
        raise ValueError(f"padding_mode {padding_mode!r} with padding_value {padding_value} is not supported here")
    grid = coordinates.to(x.dtype)
    size = torch.tensor([x.shape[3], x.shape[2]], dtype=x.dtype)
    if coordinates_mode == "unnormalized":
        grid = grid * 2 / (size - 1) - 1 if align_corners else (grid * 2 + 1) / size - 1
    elif coordinates_mode == "normalized_zero_to_one":
        grid = grid * 2 - 1
    return functional.grid_sample(x, grid, sampling_mode, _PADDING[padding_mode], align_corners)


@operation
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str = "bilinear",
    padding_mode: str = "constant",
    padding_value: float = 0.0,
    coordinates_mode: str = "normalized_minus_one_to_one",
    align_corners: bool = True,
) -> Tensor:
    """x (B, C, H, W) at the points a0 x + a1 y + a2, b0 x + b1 y + b2 of rows (B or 1, 6)."""
    matrix = transform_matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    grid = functional.affine_grid(matrix, [x.shape[0], x.shape[1], output_height, output_width], align_corners)
    return functional.grid_sample(x, grid, sampling_mode, _PADDING[padding_mode], align_corners)
