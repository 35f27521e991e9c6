"""Qwen3.5: Qwen3-VL's images and positions without deepstack, and a decoder of linear and full attention.

Most layers keep one matrix for each head (the gated delta rule), behind a short convolution; every fourth is attention
with a gate, of whose heads a part is turned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.families import Size, Split, qwen2_5_vl, qwen3_vl
from edgekit.families._clip import MmProj
from edgekit.families.decoding import State, convolution, recurrence
from edgekit.families.qwen2_5_vl import DEFAULT_EDGE, rotary_sections

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LINEAR, FULL = "linear_attention", "full_attention"


def contradictions(config: Any) -> Iterator[tuple[str, str]]:
    """Fields that do not go together, each with what it says, after its own name."""
    yield from rotary_sections(config)
    text = config.text_config
    kinds = sorted(set(text.layer_types or ()) - {LINEAR, FULL})
    if kinds or FULL not in text.layer_types or len(text.layer_types) != text.num_hidden_layers:
        yield (
            "text_config.layer_types",
            f"is {text.layer_types}; it has {LINEAR} or {FULL} for each of {text.num_hidden_layers} layers, and one "
            "is full",
        )
    keys, values = text.linear_num_key_heads, text.linear_num_value_heads
    if values % keys:
        yield "text_config.linear_num_value_heads", f"is {values}, which linear_num_key_heads ({keys}) does not divide"


def mmproj(config: Mapping[str, Any], params: dict[str, Any]) -> MmProj:
    """The vision encoder as llama.cpp's clip reads it: Qwen3-VL's, no layer of which is tapped.

    Args:
        config: config.json, every default filled in.
        params: From `read_preprocessing`.
    """
    vision = {**config["vision_config"], "deepstack_visual_indexes": []}
    return qwen3_vl.mmproj({**config, "vision_config": vision}, params)


def states_of(text: Any) -> tuple[State, ...]:
    """What the decoder keeps, layer by layer.

    Args:
        text: Its configuration.
    """
    keys, values = text.linear_num_key_heads, text.linear_num_value_heads
    widths = (text.linear_key_head_dim, text.linear_value_head_dim)
    mixed = (2 * keys * widths[0] + values * widths[1], text.linear_conv_kernel_dim)
    cached = (text.num_key_value_heads, None, text.head_dim)
    found: list[State] = []
    for layer, kind in enumerate(text.layer_types):
        linear = [convolution(layer, mixed), recurrence(layer, (values, *widths))]
        found += linear if kind == LINEAR else [State(layer, part, cached) for part in ("key", "value")]
    return tuple(found)


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The plain modules; see `qwen2_5_vl.split`.

    Args:
        model, sizes: As there.
    """
    from edgekit.families._delta import with_rule
    from edgekit.families._qwen_tower import split_of

    inner: Any = model.model
    states = states_of(model.config.text_config)
    made = split_of(model, with_rule(inner.language_model), sizes or [(DEFAULT_EDGE, DEFAULT_EDGE)], (), states=states)
    return replace(made, layers=sum(state.kind == "key" for state in states))


FAMILY = replace(
    qwen2_5_vl.FAMILY,
    name="qwen3_5",
    model_types=("qwen3_5",),
    split=split,
    mmproj=mmproj,
    contradictions=contradictions,
)
