"""A tiny LFM2-VL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.demo.tiny import Blueprint, Shape
from edgekit.demo.tiny._parts import CHATML, HALF, STEPS, siglip_fields, text_fields

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = (
    "<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<|image_start|>",
    "<|image_end|>", "<|img_thumbnail|>",
    *(f"<|img_row_{row}_col_{col}|>" for row in range(1, 11) for col in range(1, 11)),
)  # fmt: skip
FILES = {
    "preprocessor_config.json": {
        **STEPS, **HALF, "image_processor_type": "Lfm2VlImageProcessor", "processor_class": "Lfm2VlProcessor",
        "do_image_splitting": True, "do_pad": True, "downsample_factor": 2, "encoder_patch_size": 16,
        "max_image_tokens": 16, "max_pixels_tolerance": 2.0, "max_tiles": 4, "min_image_tokens": 4, "min_tiles": 2,
        "resample": 2, "size": {"height": 64, "width": 64}, "tile_size": 64, "use_thumbnail": True,
    }
}  # fmt: skip


def config(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    """Its configuration."""
    from transformers import Lfm2VlConfig

    layers = ["conv", "full_attention", "conv"] * shape.repeats
    text = text_fields("lfm2", shape, rows, layer_types=layers, block_auto_adjust_ff_dim=False)
    return Lfm2VlConfig(
        text_config=text | {"bos_token_id": 1, "tie_word_embeddings": True},
        vision_config=siglip_fields("siglip2_vision_model", shape, num_patches=16, patch_size=16),
        image_token_id=tokenizer.token_to_id("<image>"),
        projector_hidden_size=48,
        downsample_factor=2,
    )


BLUEPRINT = Blueprint(
    special=SPECIAL,
    template="{{bos_token}}" + CHATML % ("", "<image>"),
    config=config,
    files=FILES,
    begin="<|startoftext|>",
    named={
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    },
    sizes=((96, 64), (32, 128)),
)
