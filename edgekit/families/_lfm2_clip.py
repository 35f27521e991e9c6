"""The vision encoder of LFM2-VL in llama.cpp's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekit.families._clip import SIGLIP, MmProj, vit

IMAGE_PLACE, PIECES = "<image>", ("<|image_start|>", "<|image_end|>")


def mmproj(config: Mapping[str, Any], params: dict[str, Any]) -> MmProj:
    """The vision encoder as llama.cpp's clip reads it.

    Args:
        config: config.json, every default filled in.
        params: From `read_preprocessing`.
    """
    vision = config["vision_config"]
    tile = (params["tile_size"] // (params["encoder_patch_size"] * params["downsample_factor"])) ** 2
    return MmProj(
        projector="lfm2",
        tensors={
            "model.vision_tower.embeddings.patch_embedding": "v.patch_embd",
            "model.vision_tower.embeddings.position_embedding": "v.position_embd",
            "model.vision_tower.post_layernorm": "v.post_ln",
            "model.multi_modal_projector.layer_norm": "mm.input_norm",
            "model.multi_modal_projector.linear_1": "mm.1",
            "model.multi_modal_projector.linear_2": "mm.2",
            **vit("model.vision_tower.encoder.layers", SIGLIP),
        },
        metadata={
            "clip.use_gelu": True,
            "clip.vision.attention.layer_norm_epsilon": float(vision["layer_norm_eps"]),
            "clip.vision.projector.scale_factor": int(config["downsample_factor"]),
        },
        sizes={
            "image_size": math.isqrt(vision["num_patches"]) * vision["patch_size"],  # of the table of positions
            "patch_size": vision["patch_size"],
            "embedding_length": vision["hidden_size"],
            "feed_forward_length": vision["intermediate_size"],
            "block_count": vision["num_hidden_layers"],
            "attention.head_count": vision["num_attention_heads"],
        },
        placeholder=IMAGE_PLACE,
        pieces=PIECES,
        flat_kernels=frozenset({"v.patch_embd.weight"}),
        image_tokens=(min(params["min_image_tokens"], tile), max(params["max_image_tokens"], tile)),
    )
