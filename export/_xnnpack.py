"""Modules rewritten so that nearly everything of them can be handed to XNNPACK, and lowered in little time.

What XNNPACK's partitioner leaves out today (executorch 1.4.1), and what stands in its place here:

    means of rows (RMSNorm), LayerNorm           a linear layer with one output whose weights are all 1 / D
    slices of tensors with a free size            rotate_half as a linear layer: a signed permutation
    views with a size in symbols, unsqueeze       the one free size written as -1
    attention over the cache                      ExecuTorch's own custom_sdpa and update_cache, which read and write
                                                  the cache in place; the mask is never built
    GELU by tanh (taken, and 6e-4 off when it is)    a product with a sigmoid
    gated short convolution                       three linear layers for its three inputs, which need no slice, and the
                                                  convolution over the kernel's reach of the buffer before them
    attention of the vision encoder               two products of batches and a softmax, without the rows that
                                                  torch's own attention guards against being masked whole

All are the same mathematics: parity at export is measured against the untouched modules.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit.export._executorch_backend import HEADS, PLACES, WIDTH, CacheWay, as_it_is, attention_known
from edgekit.families._modules import epsilon_of, rms_weight

if TYPE_CHECKING:
    from torch import Tensor, nn


def rewritten(module: nn.Module, attention: str) -> nn.Module:
    """A copy of a module whose norms and attention XNNPACK can take; the original stays as it is.

    Args:
        module: In float32.
        attention: CACHED for a decoder, PLAIN for a vision encoder.
    """
    twin = as_it_is(module, attention)
    _replace_parts(twin)
    return twin


def gelu_written_out(module: nn.Module, attention: str) -> nn.Module:
    """A copy of a module, as it was but for its attention and its GELU by tanh, which lowering makes one by erf."""
    twin = as_it_is(module, attention)
    _, _, gelu = _parts()
    for owner in list(twin.modules()):
        for name, child in list(owner.named_children()):
            if _is_gelu_by_tanh(child):
                setattr(owner, name, gelu())
    return twin


def _is_gelu_by_tanh(module: nn.Module) -> bool:
    from torch import nn

    return type(module).__name__ == "GELUTanh" or (isinstance(module, nn.GELU) and module.approximate == "tanh")


def _replace_parts(module: nn.Module) -> None:
    from torch import nn

    rms, layer, gelu = _parts()
    for name, child in module.named_children():
        if type(child).__name__.endswith("RMSNorm") and hasattr(child, "weight"):
            setattr(module, name, rms(child))
        elif isinstance(child, nn.LayerNorm) and child.elementwise_affine and len(child.normalized_shape) == 1:
            setattr(module, name, layer(child))
        elif _is_gelu_by_tanh(child):
            setattr(module, name, gelu())
        elif type(child).__name__.endswith("ShortConv"):
            setattr(module, name, _short_convolution(child))
        else:
            _replace_parts(child)


def _parts() -> tuple[Any, Any, Any]:
    """Stand-ins for an RMSNorm, a LayerNorm and a GELU by tanh."""
    import torch
    from torch import nn
    from torch.nn.functional import linear

    class Rms(nn.Module):
        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.weight, self.epsilon = rms_weight(norm), epsilon_of(norm)
            self.mean = _mean_of(norm.weight)

        def forward(self, hidden: Tensor) -> Tensor:
            scaled: Tensor = self.weight * (hidden * torch.rsqrt(linear(hidden * hidden, self.mean) + self.epsilon))
            return scaled

    class Layer(nn.Module):
        def __init__(self, norm: nn.LayerNorm) -> None:
            super().__init__()
            self.weight, self.bias, self.epsilon = norm.weight, norm.bias, norm.eps
            self.mean = _mean_of(norm.weight)

        def forward(self, hidden: Tensor) -> Tensor:
            hidden = hidden.contiguous()  # as LayerNorm's result is; views after it may rely on that
            hidden = hidden - linear(hidden, self.mean)
            hidden = hidden * torch.rsqrt(linear(hidden * hidden, self.mean) + self.epsilon) * self.weight
            return hidden if self.bias is None else hidden + self.bias

    class GeluTanh(nn.Module):
        """x (1 + tanh(y)) / 2 = x sigmoid(2 y), with y = sqrt(2 / pi) (x + 0.044715 x^3)."""

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.cubic = (
                nn.Parameter(torch.tensor([value * 2 * math.sqrt(2 / math.pi)]), requires_grad=False)
                for value in (1.0, 0.044715)
            )

        def forward(self, hidden: Tensor) -> Tensor:
            return hidden * torch.sigmoid(hidden * (hidden * hidden * self.cubic + self.linear))

    return Rms, Layer, GeluTanh


def _short_convolution(layer: Any) -> nn.Module:
    """A gated short convolution over a cache with `with_context`, free of slices of a free size.

    Source: Lfm2ShortConv of transformers.
    """
    from torch import nn
    from torch.nn.functional import conv1d

    class ShortConvolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer_idx, self.conv, self.out_proj = layer.layer_idx, layer.conv, layer.out_proj
            self.before, self.after, self.inputs = (_rows(layer.in_proj, third, 3) for third in range(3))

        def forward(self, hidden_states: Tensor, past_key_values: Any, **_: Any) -> Any:
            gated = (self.before(hidden_states) * self.inputs(hidden_states)).transpose(1, 2)
            whole = past_key_values.with_context(gated, self.layer_idx)
            mixed = conv1d(whole, self.conv.weight, self.conv.bias, groups=self.conv.groups).transpose(1, 2)
            return self.out_proj(self.after(hidden_states) * mixed)

    return ShortConvolution()


def _rows(linear: Any, part: int, parts: int) -> nn.Module:
    """A linear layer of one of equal parts of another one's outputs."""
    from torch import nn

    rows = linear.out_features // parts
    made, chosen = (
        nn.Linear(linear.in_features, rows, bias=linear.bias is not None),
        slice(part * rows, part * rows + rows),
    )
    made.weight = nn.Parameter(linear.weight.detach()[chosen], requires_grad=False)
    if linear.bias is not None:
        made.bias = nn.Parameter(linear.bias.detach()[chosen], requires_grad=False)
    return made


def _mean_of(weight: Tensor) -> Any:
    import torch

    width = weight.shape[0]
    return torch.nn.Parameter(torch.full((1, width), 1 / width), requires_grad=False)


@contextmanager
def traceable(module: nn.Module) -> Iterator[None]:
    """While a rewritten module is traced: its attention is known to transformers, and rotate_half is a linear layer."""
    places = {type(part).__module__ for part in module.modules()}
    homes: list[Any] = [sys.modules[name] for name in places if hasattr(sys.modules[name], "rotate_half")]
    before = [(home.rotate_half, getattr(home, "apply_rotary_pos_emb", None)) for home in homes]
    widths = {getattr(part, "head_dim", None) for part in module.modules()}
    # Where a part of a head is turned, the angles say how wide it is.
    angles: list[Any] = [part for part in module.modules() if hasattr(part, "inv_freq")]
    turned = {2 * int(part.inv_freq.shape[-1]) for part in angles}
    turn = _turns({width for width in widths if isinstance(width, int)}, turned)
    for home, (_, apply) in zip(homes, before, strict=True):
        home.rotate_half = turn
        if apply is not None:
            home.apply_rotary_pos_emb = partial(_rotated, apply, turn)
    try:
        with attention_known(LLAMA, _plain_attention):
            yield
    finally:
        for home, (rotate, apply) in zip(homes, before, strict=True):
            home.rotate_half = rotate
            if apply is not None:
                home.apply_rotary_pos_emb = apply


def _rotated(
    own: Any, turn: Callable[..., Tensor], query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *more: Any
) -> Any:
    """Queries and keys (1, H, T, D_head) turned by angles (1, T, D_turned); without slices where that is a part."""
    from torch.nn.functional import pad

    width, turned = query.shape[-1], cos.shape[-1]
    if width == turned:
        return own(query, key, cos, sin, *more)
    cos, sin = (pad(table, (0, width - turned), value=rest).unsqueeze(1) for table, rest in ((cos, 1.0), (sin, 0.0)))
    return tuple(x * cos + turn(x, turned) * sin for x in (query, key))


def _turns(widths: set[int], parts: set[int]) -> Callable[..., Tensor]:
    """rotate_half, (a, b) -> (-b, a) for the halves of the last axis, as a product with a constant of the program.

    Args:
        widths: Of that axis, that may come.
        parts: Of it, of which only so much at its beginning is turned.

    Returns:
        (values, how much of the axis; all when None) -> as many.
    """
    import torch

    constants = {}
    for width, turned in {(size, part) for size in widths for part in (*parts, size) if part <= size}:
        half = turned // 2
        constants[width, turned] = torch.nn.Parameter(torch.zeros(width, width), requires_grad=False)
        constants[width, turned][:half, half:turned] = -torch.eye(half)
        constants[width, turned][half:turned, :half] = torch.eye(half)

    def turn(values: Tensor, turned: int | None = None) -> Tensor:
        width = values.shape[-1]
        return torch.nn.functional.linear(values, constants[width, turned or width])

    return turn


def _plain_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """Attention (B, H, T, D) without a cache, as products of batches; a mask is added to the scores."""
    import torch

    batch, heads, tokens, width = query.shape
    repeats = heads // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scale = torch.tensor(1 / math.sqrt(width) if scaling is None else scaling)
    scores = torch.bmm((query * scale).flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
    if attention_mask is not None:
        scores = (scores.view(batch, heads, tokens, -1) + attention_mask).flatten(0, 1)
    mixed = torch.bmm(scores.softmax(-1), value.flatten(0, 1))
    return mixed.view(batch, heads, tokens, width).transpose(1, 2), None


def _write(buffer: Tensor, new: Tensor, start: Any) -> None:
    import torch

    torch.ops.llama.update_cache(new.transpose(1, 2), buffer, start)


def _attend(query: Tensor, keys: Tensor, values: Tensor, start: Any, mask: Any, scaling: float | None) -> Tensor:
    import torch

    causal = mask is None
    found: Tensor = torch.ops.llama.custom_sdpa(
        query.transpose(1, 2), keys, values, start, None if causal else mask[0, 0], 0.0, causal, scaling
    )
    return found


LLAMA = CacheWay((1, PLACES, HEADS, WIDTH), _write, _attend)
"""ExecuTorch's own operators."""


def write_free_sizes_as_minus_one(graph_module: Any) -> None:
    """Rewrite the views and unsqueezes of an edge program so that XNNPACK takes those with one free size."""
    from executorch.exir.dialects._ops import ops

    view, unsqueeze = ops.edge.aten.view_copy.default, ops.edge.aten.unsqueeze_copy.default
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target not in (view, unsqueeze):
            continue
        shape = _with_one_free(node.meta["val"].shape)
        if shape is not None:
            node.target = view
            node.args = (node.args[0], shape)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _with_one_free(shape: Sequence[Any]) -> list[int] | None:
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return sizes if sizes.count(-1) <= 1 else None
