"""A tiny Qwen3.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.demo.tiny import Blueprint, Shape
from edgekit.demo.tiny._parts import CHATML, text_fields
from edgekit.demo.tiny._qwen import IMAGE, SPECIAL, tokens
from edgekit.demo.tiny.qwen3_vl import FILES

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def config(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    """Its configuration: half of a head turns, and two heads of values share one of keys."""
    from transformers import Qwen3_5Config

    rope = {
        "rope_type": "default",
        "rope_theta": 1e7,
        "mrope_section": shape.rotary(2, 1, 1),
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    }
    linear = {
        "layer_types": ["linear_attention", "linear_attention", "full_attention"] * shape.repeats,
        "linear_key_head_dim": shape.head_dim,
        "linear_value_head_dim": shape.head_dim,
        "linear_num_key_heads": shape.kv_heads,
        "linear_num_value_heads": 2 * shape.kv_heads,
    }
    vision = {"depth": 3, **shape.vision, "num_heads": shape.vision_heads, "out_hidden_size": shape.width}
    text = text_fields("qwen3_5_text", shape, rows, rope_parameters=rope, **linear)
    return Qwen3_5Config(
        text_config=text,
        vision_config={**vision, "patch_size": 16, "num_position_embeddings": 64},
        **tokens(tokenizer),
    )


def settle(model: Any) -> None:
    """Heads that forget at different paces, as trained ones do: untrained, most keep nothing for a second token."""
    import torch

    for part in model.modules():
        if hasattr(part, "dt_bias"):
            part.dt_bias.copy_(torch.linspace(-6, -1, len(part.dt_bias)))


BLUEPRINT = Blueprint(
    special=SPECIAL,
    template=CHATML % ("", IMAGE),
    config=config,
    files=FILES,
    sizes=((96, 64), (32, 128)),
    settle=settle,
)
