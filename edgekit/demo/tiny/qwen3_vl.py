"""A tiny Qwen3-VL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.demo.tiny import Blueprint, Shape
from edgekit.demo.tiny._parts import CHATML, HALF, text_fields
from edgekit.demo.tiny._qwen import IMAGE, SPECIAL, tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = {
    "preprocessor_config.json": {
        **HALF, "image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 16}, "patch_size": 16, "temporal_patch_size": 2,
        "merge_size": 2,
    }
}  # fmt: skip


def config(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    """Its configuration."""
    from transformers import Qwen3VLConfig

    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": shape.rotary(4, 2, 2),
        "mrope_interleaved": True,
    }
    vision: dict[str, Any] = {
        "depth": 3,
        **shape.vision,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.width,
    }
    vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    text = text_fields("qwen3_vl_text", shape, rows, rope_parameters=rope)
    return Qwen3VLConfig(text_config=text, vision_config=vision, **tokens(tokenizer))


BLUEPRINT = Blueprint(
    special=SPECIAL,
    template=CHATML % ("", IMAGE),
    config=config,
    files=FILES,
    sizes=((96, 64), (32, 128)),
)
