"""A tiny Qwen2.5-VL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.demo.tiny import Blueprint, Shape
from edgekit.demo.tiny._parts import CHATML, CLIP, STEPS, text_fields
from edgekit.demo.tiny._qwen import IMAGE, SPECIAL, tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
FILES = {
    "preprocessor_config.json": {
        **STEPS, **CLIP, "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 28 * 28, "max_pixels": 28 * 28 * 16, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "resample": 3,
    }
}  # fmt: skip


def config(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    """Its configuration."""
    from transformers import Qwen2_5_VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": shape.rotary(2, 3, 3)}
    vision: dict[str, Any] = {
        "depth": 3,
        **shape.vision,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.width,
    }
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    text = text_fields("qwen2_5_vl_text", shape, rows, rope_parameters=rope)
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens(tokenizer))


BLUEPRINT = Blueprint(
    special=SPECIAL,
    template=CHATML % (SYSTEM, IMAGE),
    config=config,
    files=FILES,
    windowed=True,
    sizes=((84, 56), (28, 112)),
)
