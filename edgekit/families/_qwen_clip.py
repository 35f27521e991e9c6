"""What the vision encoders of the Qwen-VL families share in llama.cpp's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.families._clip import vit

QWEN_PIECES = ("<|vision_start|>", "<|vision_end|>")


def qwen_blocks(rest: Mapping[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
    """Names of a Qwen-VL tower's layers."""
    return vit("model.visual.blocks", {"attn.proj": "attn_out", "norm1": "ln1", "norm2": "ln2", **rest})


def qwen_sizes(vision: dict[str, Any], image_size: int) -> dict[str, int]:
    """Sizes of a Qwen-VL tower; the image size is for warming up, and for positions where it has some."""
    return {
        "image_size": image_size,
        "patch_size": vision["patch_size"],
        "embedding_length": vision["hidden_size"],
        "feed_forward_length": vision["intermediate_size"],
        "block_count": vision["depth"],
        "attention.head_count": vision["num_heads"],
    }
