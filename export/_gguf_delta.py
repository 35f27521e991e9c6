"""The gated delta rule's layers in llama.cpp's terms.

Several heads of values may share one of keys. transformers has those of one key head side by side, llama.cpp the first
of each key head, then the second of each: its operators repeat keys as a whole.

Source: llama.cpp's qwen35, and what its converter does to weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
LINEAR = "linear_attention"


def interval(text: Mapping[str, Any]) -> int | None:
    """Every how many layers one is of full attention, the last of them; None where there is no such number."""
    kinds = list(text["layer_types"])
    step = next((place for place, kind in enumerate(kinds, 1) if kind != LINEAR), 0)
    regular = step > 0 and all((kind != LINEAR) == (place % step == 0) for place, kind in enumerate(kinds, 1))
    return step if regular else None


def problems(text: Mapping[str, Any]) -> Iterator[str]:
    """Shapes that llama.cpp cannot take.

    Args:
        text: The decoder's configuration.
    """
    if LINEAR not in (text.get("layer_types") or ()):
        return
    keys, values = text["linear_key_head_dim"], text["linear_value_head_dim"]
    if keys != values:
        yield f"its linear attention has keys of {keys} numbers and values of {values}; llama.cpp has one width"
    if interval(text) is None:
        yield "its layers of full attention do not come at even distances, as llama.cpp has them"


def metadata(text: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes under llama.cpp's keys; none of another decoder.

    Args:
        text: The decoder's configuration.
    """
    if LINEAR not in (text.get("layer_types") or ()):
        return {}
    heads = text["linear_num_value_heads"]
    return {
        "ssm.conv_kernel": text["linear_conv_kernel_dim"],
        "ssm.state_size": text["linear_key_head_dim"],
        "ssm.group_count": text["linear_num_key_heads"],
        "ssm.time_step_rank": heads,
        "ssm.inner_size": heads * text["linear_value_head_dim"],
        "full_attention_interval": interval(text),
    }


def recast(name: str, values: Array, text: Any) -> tuple[str, Array]:
    """A weight, and its name, as llama.cpp computes with it.

    Args:
        name: transformers', with `model.` before it.
        values: The weight.
        text: The decoder's configuration.
    """
    values = in_turns(name, values, text)
    if name.endswith(".A_log"):
        values = -np.exp(values)
    elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        values = values + 1  # transformers' multiply by 1 + weight
    return name.replace("linear_attn.dt_bias", "linear_attn.dt_proj.bias"), values


def in_turns(name: str, values: Array, text: Any) -> Array:
    """Heads of values in llama.cpp's order, where a layer of the rule has them in this weight.

    Args:
        name: transformers'.
        values: A weight, or (columns,) something of each of its columns where only those are of heads.
        text: The decoder's configuration.
    """
    if ".linear_attn." not in name or name.endswith(".norm.weight"):
        return values
    keys, width = text.linear_num_key_heads, text.linear_value_head_dim
    if ".out_proj." in name:
        return np.moveaxis(_turned(np.moveaxis(values, -1, 0), keys, width), 0, -1)
    if any(part in name for part in (".in_proj_qkv.", ".conv1d.")):
        start = 2 * keys * text.linear_key_head_dim
        return np.concatenate([values[:start], _turned(values[start:], keys, width)])
    return _turned(values, keys, width if ".in_proj_z." in name else 1)


def _turned(rows: Array, keys: int, width: int) -> Array:
    """Rows (keys * shared * width, ...), the heads of one key side by side -> of each key in turn."""
    heads = rows.reshape(keys, -1, width, *rows.shape[1:])
    return heads.swapaxes(0, 1).reshape(rows.shape)
