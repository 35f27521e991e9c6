"""Normalisation and reductions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.formats.coreml.mil.ops import Ints, operation
from edgekit.formats.coreml.mil.values import dtype_named


def _channels(value: Tensor | None, x: Tensor) -> Tensor | None:
    return None if value is None else value.reshape(1, -1, *[1] * (x.dim() - 2))


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta


@operation
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) for each channel (axis 1), scaled and shifted."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    normal = (x - mean.reshape(shape)) * torch.rsqrt(variance.reshape(shape) + epsilon)
    return _scaled(normal, _channels(gamma, x), _channels(beta, x))


def _normalised(x: Tensor, axes: Ints, epsilon: float) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + epsilon)


@operation
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Over the spatial axes of x (N, C, *D)."""
    normal = _normalised(x, tuple(range(2, x.dim())), epsilon)
    return _scaled(normal, _channels(gamma, x), _channels(beta, x))


@operation
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Over any axes; gamma and beta have the shape of those axes."""
    chosen = sorted(axis % x.dim() for axis in (axes or range(x.dim())))
    if chosen == list(range(x.dim() - len(chosen), x.dim())):
        return functional.layer_norm(x, x.shape[chosen[0] :], gamma, beta, epsilon)
    shape = [size if axis in chosen else 1 for axis, size in enumerate(x.shape)]
    gamma = None if gamma is None else gamma.reshape(shape)
    return _scaled(_normalised(x, tuple(chosen), epsilon), gamma, None if beta is None else beta.reshape(shape))


@operation
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x over the root of the sum of squares of its last three axes."""
    return x * torch.rsqrt((x * x).sum((-3, -2, -1), keepdim=True) + epsilon)


@operation
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x over (k + alpha * mean of squares of `size` neighbouring channels) ^ beta."""
    return functional.local_response_norm(x, size, alpha, beta, k)


def _reduction(name: str, function: Callable[[Tensor, Ints, bool], Tensor]) -> None:
    def reduce(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        chosen = tuple(range(x.dim())) if axes is None else axes
        return function(x, chosen, keep_dims).to(x.dtype) if x.dim() else function(x, (), keep_dims).to(x.dtype)

    reduce.__name__ = name
    operation(reduce)


def _product(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return torch.mean(x if x.is_floating_point() else x.double(), axes, keepdim=keep)


def _of_floats(function: Callable[[Tensor, Ints, bool], Tensor]) -> Callable[[Tensor, Ints, bool], Tensor]:
    return lambda x, axes, keep: function(x if x.is_floating_point() else x.double(), axes, keep)


_reduction("reduce_l1_norm", lambda x, axes, keep: torch.sum(torch.abs(x), axes, keepdim=keep))
_reduction("reduce_l2_norm", _of_floats(lambda x, axes, keep: torch.sum(x * x, axes, keepdim=keep).sqrt()))
_reduction("reduce_log_sum", _of_floats(lambda x, axes, keep: torch.sum(x, axes, keepdim=keep).log()))
_reduction("reduce_log_sum_exp", _of_floats(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)))
_reduction("reduce_max", lambda x, axes, keep: torch.amax(x, axes, keepdim=keep))
_reduction("reduce_mean", _mean)
_reduction("reduce_min", lambda x, axes, keep: torch.amin(x, axes, keepdim=keep))
_reduction("reduce_prod", _product)
_reduction("reduce_sum", lambda x, axes, keep: torch.sum(x, axes, keepdim=keep))
_reduction("reduce_sum_square", lambda x, axes, keep: torch.sum(x * x, axes, keepdim=keep))


@operation(exact=True)
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Where the greatest value is along an axis."""
    return torch.argmax(x, axis, keepdim=keep_dims).to(dtype_named(output_dtype).torch)


@operation(exact=True)
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Where the least value is along an axis."""
    return torch.argmin(x, axis, keepdim=keep_dims).to(dtype_named(output_dtype).torch)
