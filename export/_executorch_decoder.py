"""The text decoder of an ExecuTorch program: its cache is in buffers of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.export._executorch_backend import CACHED, Backend
from edgekit.families._delta import rule_of
from edgekit.families._modules import last_token

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgekit.families import Split


def llama_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gated delta rule by ExecuTorch's own operator, which goes from token to token; decay is one of each key's."""
    import torch
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 - registers it

    scaled, keys, values = (part.transpose(1, 2) for part in (query * query.shape[-1] ** -0.5, key, value))
    kept = decay.exp().transpose(1, 2).unsqueeze(-1).expand_as(keys)
    inputs = (part.contiguous() for part in (scaled, keys, values, kept, beta.transpose(1, 2)))
    out, after = torch.ops.llama.channelwise_gated_delta_rule(*inputs, state)
    return out.transpose(1, 2), after


def cached_decoder(split: Split, context: int, backend: Backend) -> nn.Module:
    """The text decoder with its cache as buffers, as ExecuTorch's runners call it.

    forward(inputs_embeds (1, T, D), start_pos (1,)) -> logits of the last token (1, 1, V), T free; then
    position_ids (A, 1, T) where the positions have several axes, and `Split.features`.

    Args:
        split: Of the model.
        context: Tokens the cache holds.
        backend: How the modules are written, and the cache.
    """
    import torch
    from torch import nn
    from transformers import Cache

    check: Any = torch._check
    way = backend.cache

    class BufferCache(Cache):  # type: ignore[misc]
        """The states of each layer: keys and values, written in place from `start` on, and others."""

        def __init__(self, held: dict[tuple[int, str], Tensor], start: Any, going_on: Tensor) -> None:
            super().__init__(layers=[])
            self.held, self.start, self.going_on = held, start, going_on

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
            key, value = (self.held[layer_idx, kind] for kind in ("key", "value"))
            way.write(key, key_states, self.start)
            way.write(value, value_states, self.start)
            return key, value

        def with_context(self, new: Tensor, layer_idx: int) -> Tensor:
            """Inputs (1, D, T) of a convolution behind the last ones of before, so many as its kernel reaches back."""
            state = self.held[layer_idx, "conv"]
            # A text begins at place 0, whatever the buffer still holds of another; it may be NaN.
            past = torch.where(self.going_on, state, torch.zeros(()))
            whole = torch.cat([past[..., 1:], new], dim=-1)
            state.copy_(whole[..., -state.shape[-1] :])
            return whole

        def get_recurrent_state(self, layer_idx: int, *_: Any) -> Tensor:
            """The matrices of a layer; zeros where a text begins."""
            return torch.where(self.going_on, self.held[layer_idx, "recurrent"], torch.zeros(()))

        def update_recurrent_state(self, new: Tensor, layer_idx: int, *_: Any, **__: Any) -> Tensor:
            """The new ones in their place."""
            return self.held[layer_idx, "recurrent"].copy_(new)

        def get_seq_length(self, layer_idx: int = 0) -> Any:
            """Tokens before the new ones, for a model that makes its masks of it; for others no mask is built."""
            return self.start if split.blocks else 0

        def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
            return (context if split.blocks else query_length), 0

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text: Any = backend.written(split.text, CACHED)
            self.text.lm_head = last_token(self.text.lm_head)
            for state in split.states:
                shape = state.sized(context)
                empty = way.empty(context, shape[1], shape[3]) if state.grows else torch.zeros(shape)
                self.register_buffer(f"{state.kind}_{state.layer}", empty, persistent=False)

        def forward(self, inputs_embeds: Tensor, start_pos: Tensor, *more: Tensor) -> Any:
            tokens = inputs_embeds.shape[1]
            start: Any
            if way.by_tensor:
                start = torch.arange(tokens) + start_pos
            else:
                start = start_pos[0].item()
                for holds in (start >= 0, start < context, start + tokens <= context):
                    check(holds)
            held = {(one.layer, one.kind): getattr(self, f"{one.kind}_{one.layer}") for one in split.states}
            for part in self.text.modules():
                if hasattr(part, "layer_idx"):
                    part.edgekit_start = start
            given = list(more)
            positions = given.pop(0) if split.position_axes > 1 else torch.arange(tokens).unsqueeze(0) + start_pos
            cache = BufferCache(held, start, start_pos > 0)
            mask = torch.ones(1, context) if split.blocks else None
            with rule_of(self.text, llama_rule):
                return self.text(inputs_embeds, mask, positions, cache, *given)

    return Decoder().eval()
