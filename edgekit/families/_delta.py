"""The gated delta rule: attention that keeps one matrix for each head, instead of a row for each token.

    S = exp(g) S                decay, g <= 0
    S = S + b k (v - k S)^T     what the state says of this key is moved towards the value, by b in (0, 1)
    o = q S / sqrt(D_k)

Source: Gated Delta Networks, arXiv:2412.06464, Eq. (10); transformers' Qwen3_5GatedDeltaNet.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn

Rule: TypeAlias = "Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]"
"""(query, key (B, T, H, D_k), value (B, T, H, D_v), decay, beta (B, T, H), state (B, H, D_k, D_v)) -> the output
(B, T, H, D_v) and the new state. Queries and keys are of length 1; decay is a logarithm; no state is one of zeros.
"""


def torch_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """transformers' own: in chunks of 64, or for one token; cannot be traced for any number of tokens."""
    from transformers.models.qwen3_5 import modeling_qwen3_5 as own

    one = state is not None and query.shape[1] == 1
    rule: Any = own.torch_recurrent_gated_delta_rule if one else own.torch_chunk_gated_delta_rule
    found: tuple[Tensor, Tensor] = rule(
        query, key, value, g=decay, beta=beta, initial_state=state, output_final_state=True
    )
    return found


def with_rule(text_model: Any) -> Any:
    """A decoder whose layers of the gated delta rule leave the rule itself to `Mixer.rule`.

    Args:
        text_model: The decoder without its head; a shallow twin is made of it, its weights are shared.
    """
    from torch import nn

    kind = _mixer_class()
    twin, layers = _shallow(text_model), []
    for layer in text_model.layers:
        layers.append(layer)
        if hasattr(layer, "linear_attn"):
            layers[-1] = _shallow(layer)
            layers[-1].linear_attn = kind(layer.linear_attn)
    twin.layers = nn.ModuleList(layers)
    return twin


def _shallow(module: Any) -> Any:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


@contextmanager
def rule_of(module: nn.Module, rule: Rule) -> Iterator[None]:
    """Let all layers of a `with_rule` have another rule for a while."""
    mixers: list[Any] = [part for part in module.modules() if hasattr(part, "rule")]
    before = [part.rule for part in mixers]
    for part in mixers:
        part.rule = rule
    try:
        yield
    finally:
        for part, own in zip(mixers, before, strict=True):
            part.rule = own


def _mixer_class() -> Any:
    import torch
    from torch import nn
    from torch.nn.functional import conv1d, silu, softplus

    class Mixer(nn.Module):
        """One layer: a short convolution, the rule, and a gated norm; its cache holds inputs of the one, and S."""

        def __init__(self, own: Any) -> None:
            super().__init__()
            self.layer_idx, self.heads, self.widths = own.layer_idx, own.num_v_heads, (own.head_k_dim, own.head_v_dim)
            self.in_proj_qkv, self.in_proj_z, self.conv1d = own.in_proj_qkv, own.in_proj_z, own.conv1d
            # A convolution, where a quantiser would take a linear layer: few numbers, and they decide how long all
            # others are remembered.
            gates = torch.cat([own.in_proj_a.weight.detach(), own.in_proj_b.weight.detach()])
            self.gates = nn.Parameter(gates.unsqueeze(-1), requires_grad=False)
            self.dt_bias, self.A_log, self.norm, self.out_proj = own.dt_bias, own.A_log, own.norm, own.out_proj
            self.sizes = [own.key_dim, own.key_dim, own.value_dim]
            self.rule: Rule = torch_rule

        def forward(
            self, hidden_states: Tensor, cache_params: Any, attention_mask: Tensor | None = None, **_: Any
        ) -> Tensor:
            hidden = hidden_states if attention_mask is None else hidden_states * attention_mask[:, :, None]
            state = cache_params.get_recurrent_state(self.layer_idx)
            query, key, value = self._mixed(hidden, cache_params)
            decay, beta = _cut(conv1d(hidden.transpose(1, 2), self.gates).transpose(1, 2), [self.heads] * 2)
            decay = -self.A_log.float().exp() * softplus(decay.float() + self.dt_bias)
            out, state = self.rule(query, key, value, decay, beta.sigmoid(), state)
            cache_params.update_recurrent_state(state, self.layer_idx)
            gate = _by_head(self.in_proj_z(hidden), self.widths[1])
            result: Tensor = self.out_proj(self.norm(out, gate).flatten(2))
            return result

        def _mixed(self, hidden: Tensor, cache: Any) -> tuple[Tensor, Tensor, Tensor]:
            """Queries, keys and values of each head behind the convolution."""
            taps = self.conv1d.weight
            new = self.in_proj_qkv(hidden).transpose(1, 2)
            mixed = silu(conv1d(self._with_context(new, cache), taps, groups=taps.shape[0])).transpose(1, 2)
            parts, widths = _cut(mixed, self.sizes), (self.widths[0], *self.widths)
            query, key, value = (_by_head(part, width) for part, width in zip(parts, widths, strict=True))
            shared = self.heads // query.shape[2]
            if shared > 1:
                query, key = (part.repeat_interleave(shared, 2) for part in (query, key))
            return _of_length_one(query), _of_length_one(key), value

        def _with_context(self, new: Tensor, cache: Any) -> Tensor:
            """The new inputs behind the last ones of before, so many as the kernel reaches back."""
            reach = self.conv1d.weight.shape[-1] - 1
            if hasattr(cache, "with_context"):
                given: Tensor = cache.with_context(new, self.layer_idx)
                return given
            whole = cache.update_conv_state(new, self.layer_idx, conv_kernel_size=reach + 1)
            padded = torch.nn.functional.pad(whole, (reach, 0)) if whole.shape[-1] < new.shape[-1] + reach else whole
            return padded[..., -(new.shape[-1] + reach) :]

    def _cut(x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        return torch.split_with_sizes(x, sizes, -1)

    def _by_head(x: Any, width: int) -> Tensor:
        found: Tensor = x.unflatten(-1, (-1, width))
        return found

    def _of_length_one(x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)

    return Mixer
