"""Modules that the splits of several families share; torch is imported when they are built."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def decoder(text_model: Any, lm_head: Any, *, deepstack: int = 0) -> tuple[nn.Module, nn.Module]:
    """`Split.text` and `Split.text_decoder` over transformers' own text model.

    Args:
        text_model: The decoder without its head; shared, not copied.
        lm_head: Hidden states (B, T, D) -> logits (B, T, V).
        deepstack: L, layers that vision features are added behind.
    """
    from torch import nn
    from transformers import DynamicCache

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text_model, self.lm_head = text_model, lm_head
            if deepstack:
                # A shallow twin over the same layers, so that the untouched model keeps its own way of adding: here
                # the features come spread over all tokens, zero off the image's, and no mask is needed.
                self.text_model = copy.copy(text_model)
                self.text_model._deepstack_process = lambda hidden, _, features: hidden + features

        def forward(
            self,
            inputs_embeds: Tensor,
            attention_mask: Tensor,
            position_ids: Tensor,
            cache: Any,
            deepstack: Tensor | None = None,
        ) -> Tensor:
            given = {} if deepstack is None else {"deepstack_visual_embeds": list(deepstack.unbind(0))}
            hidden = self.text_model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                **given,
            ).last_hidden_state
            logits: Tensor = self.lm_head(hidden)
            return logits

    class TextDecoder(nn.Module):
        def __init__(self, text: Text) -> None:
            super().__init__()
            self.text = text

        def forward(
            self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *rest: Tensor
        ) -> tuple[Tensor, ...]:
            features, past = (rest[0], rest[1:]) if deepstack else (None, rest)
            cache = DynamicCache(config=self.text.text_model.config)
            for layer in range(len(past) // 2):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            logits = self.text(inputs_embeds, attention_mask, position_ids, cache, features)
            return (logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))

    text = Text().eval()
    return text, TextDecoder(text).eval()


def sizes_of(model: PreTrainedModel, text: Any) -> dict[str, Any]:
    """The fields of `Split` that a configuration says.

    Args:
        model: The whole model.
        text: Configuration of its decoder.
    """
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = text.eos_token_id
    return {
        "width": text.hidden_size,
        "layers": text.num_hidden_layers,
        "kv_heads": text.num_key_value_heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        "vocab_size": text.vocab_size,
        "image_token_id": model.config.image_token_id,
        "eos_token_ids": [int(ends)] if isinstance(ends, int) else [int(token) for token in ends],
    }
