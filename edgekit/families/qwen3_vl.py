"""Qwen3-VL: Qwen2.5-VL's pictures and positions, and deepstack: vision features added behind first decoder layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.families import Features, Grid
from edgekit.families.qwen2_5_vl import (
    PARTS,
    expand,
    fix_sizes,
    forward_inputs,
    positions,
    preprocess,
    read_preprocessing,
    split,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = [
    "MODEL_TYPES",
    "PARTS",
    "encode_images",
    "expand",
    "fix_sizes",
    "forward_inputs",
    "positions",
    "preprocess",
    "read_preprocessing",
    "split",
]
MODEL_TYPES = ("qwen3_vl",)


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """Embeddings of all pictures and their deepstack features, by the untouched model; keeps gradients."""
    import torch

    inner: Any = model.model
    grid = torch.tensor(grids, device=pixel_values.device)
    out = inner.get_image_features(pixel_values, grid, return_dict=True)
    deepstack = tuple(torch.cat(tuple(layer)) for layer in out.deepstack_features)
    return Features(torch.cat(out.pooler_output), [len(image) for image in out.pooler_output], deepstack)
