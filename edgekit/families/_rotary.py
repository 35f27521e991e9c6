"""Rotary frequencies that hang on how long a text is, written so that a graph can hold them.

    dynamic     NTK scaling: the model's own frequencies up to max_position_embeddings, beyond it others for each length
    longrope    one set of frequencies up to original_max_position_embeddings, beyond it another

transformers chooses anew at each call, by the call's largest position, and keeps its choice in the module. That cannot
be traced for `dynamic`, and a traced `longrope` keeps the set of the text it was traced with. Here it is a choice
between tensors, and the module is left alone.
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

BY_LENGTH = ("dynamic", "longrope")


def traceable(text_model: Any) -> Any:
    """A decoder whose rotary embedding chooses its frequencies without a branch; itself where nothing is to choose.

    Args:
        text_model: The decoder without its head; a shallow twin is made of it, over the same layers.
    """
    rotary = getattr(text_model, "rotary_emb", None)
    kinds = getattr(rotary, "rope_type", None)
    found = kinds if isinstance(kinds, dict) else {None: kinds}
    chosen = {layer: kind for layer, kind in found.items() if kind in BY_LENGTH}
    if not chosen:
        return text_model
    twin = copy.copy(text_model)
    twin._modules = dict(text_model._modules)
    twin.rotary_emb = _stand_in(rotary, chosen)
    return twin


def limit_of(rotary: Any) -> int | None:
    """Tokens of a text beyond which a module of `traceable` takes other frequencies; None where it never does."""
    limits = getattr(rotary, "limits", {})
    return min(limits.values()) if limits else None


def layer_kinds(rotary: Any) -> tuple[str | None, ...]:
    """Kinds of layers that a rotary embedding has angles of their own for; (None,) where all share them."""
    kinds = getattr(getattr(rotary, "own", rotary), "rope_type", None)
    return tuple(kinds) if isinstance(kinds, dict) else (None,)


def _stand_in(own: Any, kinds: dict[str | None, str]) -> nn.Module:
    from torch import nn

    rope_forward = inspect.unwrap(type(own).forward)  # below the decorator that changes the module

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = own
            self.limits: dict[str | None, int] = {}
            for layer, kind in kinds.items():
                settings = own.config.rope_parameters if layer is None else own.config.rope_parameters[layer]
                known = own.config.max_position_embeddings
                self.limits[layer] = int(settings["original_max_position_embeddings"] if kind == "longrope" else known)
                if kind == "longrope":
                    self.register_buffer(_name(layer, "long"), self._beyond(layer, self.limits[layer] + 1), False)

        def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Any:
            """cos and sin (B, T, D_head)."""
            kind = () if layer_type is None else (layer_type,)
            if layer_type not in kinds:
                return rope_forward(self.own, x, position_ids, *kind)
            return rope_forward(
                _With(self.own, self._frequencies(position_ids, layer_type), layer_type), x, position_ids, *kind
            )

        def _frequencies(self, position_ids: Tensor, layer: str | None) -> Tensor:
            import torch

            length = position_ids.max() + 1
            short = getattr(self.own, _name(layer, "original_inv_freq"))
            longer = getattr(self, _name(layer, "long"), None)
            if longer is None:
                longer = self._beyond(layer, length)
            return torch.where(length > self.limits[layer], longer, short)

        def _beyond(self, layer: str | None, length: Any) -> Tensor:
            """The frequencies (D_head / 2,) of a text above the limit."""
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            frequencies: Tensor = ROPE_INIT_FUNCTIONS[kinds[layer]](
                self.own.config, None, seq_len=length, layer_type=layer
            )[0]
            return frequencies

    return Rotary().eval()


def _name(layer: str | None, name: str) -> str:
    return name if layer is None else f"{layer}_{name}"


class _With:
    """A rotary embedding with other frequencies; everything else is its own."""

    def __init__(self, own: Any, frequencies: Tensor, layer: str | None) -> None:
        self._own = own
        setattr(self, _name(layer, "inv_freq"), frequencies)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)
