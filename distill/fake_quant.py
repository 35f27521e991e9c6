"""Weights as an export will hold them: quantised and dequantised, in float32, bit for bit.

The arithmetic follows ONNX Runtime's quantisers step by step (quant_utils.py for int8 per channel, MLAS's q4_dq.cpp for
blocks), rounding rules included; a test compares it with the initialisers of exported bundles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from edgekit.distill.masking import maskable
from edgekit.families import Family
from edgekit.quantisation import Scheme


def quantised_layers(model: nn.Module, family: Family) -> dict[str, nn.Linear]:
    """The layers whose weights an export quantises: all that a mask may touch, and the output head.

    Args:
        model: A Hugging Face VLM.
        family: Its family.
    """
    whole: Any = model
    head = whole.get_output_embeddings()
    touched = {name.removesuffix(".weight") for name, _ in maskable(model, family)}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (name in touched or module is head)
    }


def quantise_dequantise(weight: Tensor, scheme: Scheme) -> Tensor:
    """The values an export dequantises to.

    Args:
        weight: (N, K), float32; read only.
        scheme: The grid.

    Returns:
        (N, K), float32, without a gradient.
    """
    with torch.no_grad():
        rows = weight.detach().float()
        values = _per_channel(rows, scheme) if scheme.block is None else _per_block(rows, scheme, scheme.block)
        return values.to(weight.dtype)


def _per_channel(weight: Tensor, scheme: Scheme) -> Tensor:
    top = float(2 ** (scheme.bits - 1) - 1)
    # The scale is made in double precision, then rounded once.
    scale = (2 * weight.abs().amax(1, keepdim=True).double() / (2 * top)).float()
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    values: Tensor = (weight / scale).round().clamp(-top - 1, top) * scale
    return values


def _per_block(weight: Tensor, scheme: Scheme, block: int) -> Tensor:
    outputs, inputs = weight.shape
    blocks = pad(weight, (0, -inputs % block)).reshape(outputs, -1, block)
    top = 2**scheme.bits - 1
    low = blocks.amin(-1, keepdim=True).clamp_max(0)
    high = blocks.amax(-1, keepdim=True).clamp_min(0)
    scale = (high - low) / top
    empty = scale == 0
    zero = torch.where(empty, 0.0, _round_half_away((0 - low / scale).clamp(0, top)))
    # Times the reciprocal, not divided by the scale: the two differ in the last bit.
    steps = torch.where(empty, 0.0, 1 / scale)
    levels = _round_half_away(blocks * steps + zero).clamp(0, top)
    values: Tensor = ((levels - zero) * scale).reshape(outputs, -1)[:, :inputs].contiguous()
    return values


def _round_half_away(values: Tensor) -> Tensor:
    """C's roundf; torch.round takes halves to the even neighbour."""
    whole = values.trunc()
    return torch.where((values - whole).abs() >= 0.5, whole + values.sign(), whole)


class _StraightThrough(torch.autograd.Function):
    """Quantised values forward, the gradient untouched backward: no weight lies outside its own grid's range."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scheme: Scheme) -> Tensor:
        return quantise_dequantise(weight, scheme)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(weight: Tensor, scheme: Scheme) -> Tensor:
    """`quantise_dequantise` with the gradient of the identity (Bengio et al., arXiv:1308.3432)."""
    values: Tensor = _StraightThrough.apply(weight, scheme)  # type: ignore[no-untyped-call]
    return values


@contextmanager
def fake_quantised(layers: Mapping[str, nn.Linear], scheme: Scheme) -> Iterator[None]:
    """Inside, these layers multiply by their quantised values while their parameters stay in full precision.

    Nothing is stored: values are made in each forward pass, and freed with the graph of that pass. Parameters keep
    their names and ties (an embedding tied to the output head stays as it is), so checkpoints are the model's own.
    """
    for layer in layers.values():
        layer.forward = partial(_forward, layer, scheme)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward


def _forward(layer: nn.Linear, scheme: Scheme, inputs: Tensor) -> Tensor:
    return linear(inputs, straight_through(layer.weight, scheme), layer.bias)


def quantise_weights(layers: Mapping[str, nn.Linear], scheme: Scheme) -> None:
    """Put the quantised values in the place of the weights for good, to measure; what was tied to one is untied."""
    for layer in layers.values():
        layer.weight = nn.Parameter(quantise_dequantise(layer.weight, scheme), requires_grad=False)
