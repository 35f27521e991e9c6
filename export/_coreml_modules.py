"""A student's modules as Core ML programs take them.

What stands here in another form, the same mathematics each time:

    RMSNorm              a LayerNorm of (x, -x), whose mean is zero: written out, x * x leaves float16's range where x
                         is above 256, and a norm is one operation instead of six
    rotary tables        looked up by position: position x frequency has no place in float16's 11 bits
    tanh GELU            as it is; Core ML has an operation for it
    the cache            buffers of the module, which become states, or inputs and outputs
    the causal mask      an input, added to the scores; its last size says how long the cache is after the call
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.families._modules import epsilon_of, last_token, rms_weight
from edgekit.families._rotary import layer_kinds, limit_of
from edgekit.formats.coreml.programs import HIDDEN

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgekit.families import Split


def rewritten(module: nn.Module) -> nn.Module:
    """A copy of a module, its weights shared, with its RMSNorms replaced; the original stays as it is.

    Args:
        module: In float32.
    """
    import torch

    twin = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()}).eval()
    _replace_norms(twin, _norm_class())
    for name, buffer in list(twin.named_buffers()):
        if buffer.is_floating_point() and bool(torch.isneginf(buffer).any()):
            # Masks over windows: what a device does with infinities in float16 is its own affair.
            twin.get_submodule(name.rpartition(".")[0]).__dict__["_buffers"][name.rpartition(".")[2]] = buffer.clamp(
                min=HIDDEN
            )
    return twin


def _replace_norms(module: nn.Module, stand_in: Any) -> None:
    from torch import nn

    for name, child in module.named_children():
        if isinstance(child, nn.RMSNorm) or (type(child).__name__.endswith("RMSNorm") and hasattr(child, "weight")):
            setattr(module, name, stand_in(child))
        else:
            _replace_norms(child, stand_in)


def _norm_class() -> Any:
    import torch
    from torch import nn
    from torch.nn.functional import layer_norm

    class Norm(nn.Module):
        """weight * x / sqrt(mean(x^2) + epsilon), over the last axis."""

        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.weight, self.epsilon = rms_weight(norm), epsilon_of(norm)

        def forward(self, hidden: Tensor) -> Tensor:
            width = hidden.shape[-1]
            both = layer_norm(torch.cat([hidden, -hidden], -1), (2 * self.weight.shape[0],), None, None, self.epsilon)
            scaled: Tensor = both[..., :width] * self.weight
            return scaled

    return Norm


def rotary_tables(rotary: Any, every: Tensor, axes: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """Cosines and sines (C, D_head) for each position, one pair for each axis of the positions.

    A column that hangs on another axis is zero, so that the sum over the axes is the model's own table.

    Args:
        rotary: The model's own module: forward(x, position_ids) -> cos, sin (1, T, D_head).
        every: Positions (C,), of one text where the angles hang on its length.
        axes: Of position_ids: 1, or 3 for M-RoPE.
        width: Of the hidden states.

    Raises:
        EdgekitError: a column hangs on no axis, or on several.
    """
    import torch

    x = torch.zeros(1, 1, width)
    with torch.no_grad():
        if axes == 1:
            return [tuple(table[0].float() for table in rotary(x, every[None]))]
        owned, found = [], []
        for axis in range(axes):
            positions = torch.zeros(axes, 1, len(every), dtype=torch.int64)
            positions[axis] = every
            cos, sin = (table[0].float() for table in rotary(x, positions))
            owned.append(sin.abs().amax(0) > 0)
            found.append((cos, sin))
    if not bool((torch.stack(owned).sum(0) == 1).all()):
        raise EdgekitError("This model's rotary columns do not each hang on one axis of its positions.")
    return [(cos * mine, sin * mine) for (cos, sin), mine in zip(found, owned, strict=True)]


def _of(kind: str | None) -> str:
    """Before the names of a kind of layer's tables."""
    return "" if kind is None else f"{kind}_"


def switch(rotary: Any, context: int) -> int | None:
    """Tokens beyond which a text of such a context takes other angles; None where none does."""
    limit = limit_of(rotary)
    return limit if limit is not None and limit < context else None


def decoder(split: Split, context: int, *, states: bool, fixed: bool) -> nn.Module:
    """The text decoder, last token's logits only.

    forward(inputs_embeds (1, T, D), attention_mask (1, 1, T, S), position_ids (1, T) or (3, 1, T), then [start (1,)],
    `Split.features`, and without states those of `Split.states`) -> logits (1, 1, V), and without states the new ones,
    keys and values grown by T.

    attention_mask is added to the scores: 0 where a token may look. S is P + T, tokens in the cache after the call; the
    T new ones are its last. With `fixed` S is the whole context and `start` says where the new ones go.

    Args:
        split: Of the model.
        context: Tokens the cache holds, and positions there are tables for.
        states: Keep the cache in buffers `key_0`, `value_0`, `conv_0`, ...; else take and give it.
        fixed: Attend to the whole buffer, so that only T has a free size; with states only.
    """
    import torch
    from torch import nn
    from transformers import Cache

    axes = 1 if split.blocks else split.position_axes  # the second axis says blocks, and turns nothing

    class Rotary(nn.Module):
        def __init__(self, own: Any) -> None:
            super().__init__()
            every, self.limit = torch.arange(context), switch(own, context)
            for kind in layer_kinds(own):
                angles = own if kind is None else partial(own, layer_type=kind)
                if self.limit is None:
                    self._keep(_of(kind), rotary_tables(angles, every, axes, split.width))
                    continue
                # A text within the limit has no position beyond it; one above has the limit among its positions.
                within, above = every.clamp(max=self.limit - 1), torch.cat([every, torch.tensor([self.limit])])
                self._keep(_of(kind), rotary_tables(angles, within, axes, split.width))
                self._keep(f"{_of(kind)}far_", rotary_tables(angles, above, axes, split.width))

        def _keep(self, prefix: str, tables: list[tuple[Tensor, Tensor]]) -> None:
            for axis, (cos, sin) in enumerate(tables):
                self.register_buffer(f"{prefix}cos_{axis}", cos[:context], persistent=False)
                self.register_buffer(f"{prefix}sin_{axis}", sin[:context], persistent=False)

        def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, ...]:
            """cos and sin (1, T, D_head)."""
            places = [position_ids] if axes == 1 else list(position_ids.unbind(0))

            def found(kind: str) -> Any:
                name = f"{_of(layer_type)}{kind}"
                return sum(getattr(self, f"{name}_{axis}")[place] for axis, place in enumerate(places))

            if self.limit is None:
                return found("cos"), found("sin")
            far = position_ids.max() >= self.limit
            return tuple(torch.where(far, found(f"far_{kind}"), found(kind)) for kind in ("cos", "sin"))

    class Held(Cache):
        """The states of the call that is traced, by layer and kind."""

        def __init__(self, held: dict[tuple[int, str], Tensor], start: Any, end: Any) -> None:
            super().__init__(layers=[])
            self.held, self.start, self.end = held, start, end

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
            return tuple(
                self._appended((layer_idx, kind), new) for kind, new in (("key", key_states), ("value", value_states))
            )

        def _appended(self, place: tuple[int, str], new: Tensor) -> Tensor:
            if not states:
                self.held[place] = torch.cat([self.held[place], new], 2)
                return self.held[place]
            buffer = self.held[place]
            buffer[:, :, self.start : self.end] = new
            return buffer if fixed else buffer[:, :, : self.end]

        def get_conv_state(self, layer_idx: int, *_: Any, **__: Any) -> None:
            """None: one token goes the way of many."""

        def is_recording_past(self, layer_idx: int) -> bool:
            return False

        def update_conv_state(self, conv_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Tensor:
            """Inputs (1, D, T) of a convolution behind the last ones of before, so many as its kernel reaches back."""
            buffer = self.held[layer_idx, "conv"]
            shape = [int(size) for size in buffer.shape]  # constants of the trace, or the program's would be free
            whole = torch.cat([buffer[:, :, 1:], conv_states], 2)
            last = whole[:, :, -shape[-1] :].reshape(shape)
            if states:
                buffer[:, :, 0 : shape[-1]] = last
            else:
                self.held[layer_idx, "conv"] = last
            return whole

        def get_seq_length(self, layer_idx: int = 0) -> Any:
            """Tokens before the new ones, for a model that makes its masks of it; others are given theirs."""
            return self.start if split.blocks else 0

        def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[Any, int]:
            return (self.end if split.blocks else query_length), 0

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            text: Any = rewritten(split.text)
            text.lm_head = last_token(text.lm_head)
            text.text_model.rotary_emb = Rotary(text.text_model.rotary_emb)
            text.text_model.config._attn_implementation = "sdpa"  # a copy's own
            self.text = text
            if states:
                for one in split.states:
                    self.register_buffer(f"{one.kind}_{one.layer}", torch.zeros(one.sized(context)), persistent=False)

        def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *more: Tensor) -> Any:
            given = list(more)
            tokens = inputs_embeds.shape[1]
            if fixed:
                start: Any = given.pop(0)[0]
                end = start + tokens
            else:
                end = attention_mask.shape[-1]
                start = end - tokens
            extra = [given.pop(0) for _ in split.features]
            own = [getattr(self, f"{one.kind}_{one.layer}") for one in split.states] if states else given
            places = [(one.layer, one.kind) for one in split.states]
            cache = Held(dict(zip(places, own, strict=True)), start, end)
            # The last token sees all that are there.
            mask = (attention_mask[:, 0, -1] > HIDDEN / 2).int() if split.blocks else attention_mask
            logits = self.text(inputs_embeds, mask, position_ids, cache, *extra)
            if states:
                return logits
            return (logits, *cache.held.values())

    return Decoder().eval()
