"""Modules that the splits of several families share; torch is imported when they are built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint.configuration import end_list
from edgekit.families import Split, VisionPart
from edgekit.families._rotary import traceable
from edgekit.families.decoding import ExtraInput, State, keys_and_values

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def decoder(
    text_model: Any, lm_head: Any, *, features: Sequence[ExtraInput] = (), states: Sequence[State] = ()
) -> tuple[nn.Module, nn.Module]:
    """`Split.text` and `Split.text_decoder` over transformers' own text model.

    Args:
        text_model: The decoder without its head; shared, not copied.
        lm_head: Hidden states (B, T, D) -> logits (B, T, V).
        features: `Split.features`.
        states: `Split.states`, where they are not a key and a value for each layer.
    """
    from torch import nn
    from transformers import DynamicCache

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text_model, self.lm_head = traceable(text_model), lm_head

        def forward(
            self,
            inputs_embeds: Tensor,
            attention_mask: Tensor,
            position_ids: Tensor,
            cache: Any,
            *extra: Tensor,
        ) -> Tensor:
            given: dict[str, Any] = {}
            for one, tensor in zip(features, extra, strict=True):
                given |= one.arguments(tensor)
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
            extra, past = rest[: len(features)], rest[len(features) :]
            held = DynamicCache(config=self.text.text_model.config)
            given = {(tensor.layer, tensor.kind): value for tensor, value in zip(states, past, strict=bool(states))}
            given = given or {(k // 2, ("key", "value")[k % 2]): value for k, value in enumerate(past)}
            for (layer, kind), value in given.items():
                if kind == "key":
                    held.update(value, given[layer, "value"], layer)
                elif kind == "conv":
                    held.layers[layer].update_conv_state(value, conv_kernel_size=value.shape[-1])
                elif kind == "recurrent":
                    held.layers[layer].update_recurrent_state(value)
            logits = self.text(inputs_embeds, attention_mask, position_ids, held, *extra)
            return (logits, *(_held(held.layers[layer], kind) for layer, kind in given))

    text = Text().eval()
    return text, TextDecoder(text).eval()


def _held(layer: Any, kind: str) -> Tensor:
    """A tensor of one layer of transformers' cache."""
    places = {"key": "keys", "value": "values", "conv": "conv_states", "recurrent": "recurrent_states"}
    held: Any = getattr(layer, places[kind])
    found: Tensor = held[0] if isinstance(held, dict) else held
    return found


def last_token(head: Any) -> nn.Module:
    """Hidden states (B, T, D) -> the logits of the last token (B, 1, V)."""
    from torch import nn

    class LastToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, hidden: Tensor) -> Any:
            return self.head(hidden[:, -1:])

    return LastToken()


def epsilon_of(norm: Any) -> float:
    """What an RMSNorm adds to the mean square."""
    epsilon = getattr(norm, "variance_epsilon", None)
    return float(norm.eps if epsilon is None else epsilon)


def rms_weight(norm: Any) -> Tensor:
    """What an RMSNorm multiplies by: its weight, or 1 + its weight, as Gemma's.

    Args:
        norm: In float32.
    """
    import torch

    with torch.no_grad():
        scale = norm(torch.ones_like(norm.weight)[None])[0] * (1 + epsilon_of(norm)) ** 0.5
        shifted = (scale - norm.weight).abs().max() > (scale - norm.weight - 1).abs().max()
        return torch.nn.Parameter(1 + norm.weight, requires_grad=False) if shifted else norm.weight


def siglip(tower: Any, *, layers: int | None = None, norm: bool = True) -> nn.Module:
    """A SigLIP tower, or Idefics3's, which has the same parts, for whole images of the configured size.

    Args:
        tower: Weights are shared.
        layers: The first so many; all when None.
        norm: Whether its last norm is applied.

    Returns:
        Pixels (M, 3, H, W) -> hidden states (M, patches, D).
    """
    import torch
    from torch import nn

    patches = (tower.config.image_size // tower.config.patch_size) ** 2

    class Tower(nn.Module):
        positions: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.embeddings, self.layers = tower.embeddings, tower.encoder.layers[:layers]
            self.norm = tower.post_layernorm if norm else nn.Identity()
            self.register_buffer("positions", torch.arange(patches).unsqueeze(0), persistent=False)

        def forward(self, pixel_values: Tensor) -> Tensor:
            hidden = self.embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
            hidden = hidden + self.embeddings.position_embedding(self.positions)
            for layer in self.layers:
                hidden = layer(hidden, None)
            result: Tensor = self.norm(hidden)
            return result

    return Tower()


def tile_split(
    model: Any, encoder: nn.Module, tile: tuple[int, int], tokens: int, text_model: Any, **more: Any
) -> Split:
    """The split of a family whose encoder takes any number of tiles of one size.

    Args:
        model: The whole model.
        encoder: Tiles (M, 3, H, W) -> embeddings (M, N, D).
        tile: (H, W) in pixels.
        tokens: N.
        text_model: The decoder without its head.
        more: Fields of `Split`, `text` and `text_decoder` among them where they are not `decoder`'s.
    """
    if "text" not in more:
        more["text"], more["text_decoder"] = decoder(text_model, model.lm_head)
    return Split(
        vision={"": VisionPart(encoder.eval(), (None, 3, *tile), None, tokens)},
        token_embedding=model.get_input_embeddings(),
        **more,
        **sizes_of(model, model.config.text_config),
    )


def sizes_of(model: PreTrainedModel, text: Any) -> dict[str, Any]:
    """The fields of `Split` that a configuration says.

    Args:
        model: The whole model.
        text: Configuration of its decoder.
    """
    # One that is no token at all ends nothing, in transformers neither, and no file format has room for it.
    ends = [token for token in end_list(model.generation_config.eos_token_id) if 0 <= token < text.vocab_size]
    layers, heads = text.num_hidden_layers, text.num_key_value_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return {
        "width": text.hidden_size,
        "layers": layers,
        "kv_heads": heads,
        "head_dim": width,
        "states": keys_and_values(layers, heads, width),
        "vocab_size": text.vocab_size,
        "image_token_id": model.config.image_token_id,
        "eos_token_ids": ends,
    }
