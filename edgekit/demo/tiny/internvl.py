"""A tiny InternVL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.demo.tiny import Blueprint, Shape
from edgekit.demo.tiny._parts import CHATML, IMAGENET, STEPS, text_fields

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
FILES = {
    "preprocessor_config.json": {
        **STEPS, **IMAGENET,
        "image_processor_type": "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor",
        "crop_to_patches": False, "min_patches": 1, "max_patches": 6, "resample": 3,
        "size": {"height": 56, "width": 56},
    },
    "processor_config.json": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
}  # fmt: skip


def config(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    """Its configuration."""
    from transformers import InternVLConfig

    vision: dict[str, Any] = {
        **shape.vision,
        "num_hidden_layers": 2,
        "num_attention_heads": shape.vision_heads,
    }
    vision |= {"image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True}
    text = text_fields("qwen3", shape, rows)
    image = tokenizer.token_to_id("<IMG_CONTEXT>")
    return InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=image, image_seq_length=4, tie_word_embeddings=False
    )


BLUEPRINT = Blueprint(
    special=SPECIAL,
    template=CHATML % ("", "<IMG_CONTEXT>\n"),
    config=config,
    files=FILES,
    named={
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
)
