"""Qwen3-VL: Qwen2.5-VL's images and positions, and deepstack: vision features added behind first decoder layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.families import Features, Grid, Size, Split, qwen2_5_vl
from edgekit.families._clip import MmProj
from edgekit.families._qwen_clip import QWEN_PIECES, qwen_blocks, qwen_sizes
from edgekit.families.decoding import DEEP_OUTPUT, layer_features
from edgekit.families.qwen2_5_vl import DEFAULT_EDGE, IMAGE, rotary_sections

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def contradictions(config: Any) -> Iterator[tuple[str, str]]:
    """Fields that do not go together, each with what it says, after its own name."""
    yield from rotary_sections(config)
    vision, layers = config.vision_config, config.text_config.num_hidden_layers
    behind = vision.deepstack_visual_indexes
    if not all(isinstance(one, int) and 0 <= one < vision.depth for one in behind) or len(behind) > layers:
        yield (
            "vision_config.deepstack_visual_indexes",
            f"is {behind}; each is a layer of the tower (depth {vision.depth}), and the decoder has {layers} for them",
        )


def mmproj(config: Mapping[str, Any], params: dict[str, Any]) -> MmProj:
    """The vision encoder as llama.cpp's clip reads it.

    Args:
        config: config.json, every default filled in.
        params: From `read_preprocessing`.
    """
    vision = config["vision_config"]
    taps = [int(layer) for layer in vision["deepstack_visual_indexes"]]
    fc = {"linear_fc1": "fc1", "linear_fc2": "fc2", "norm": "norm"}
    return MmProj(
        projector="qwen3vl_merger",
        tensors={
            "model.visual.patch_embed.proj": "v.patch_embd",
            "model.visual.pos_embed": "v.position_embd",
            "model.visual.merger.norm": "v.post_ln",
            "model.visual.merger.linear_fc1": "mm.0",
            "model.visual.merger.linear_fc2": "mm.2",
            **{
                f"model.visual.deepstack_merger_list.{number}.{ours}": f"v.deepstack.{layer}.{theirs}"
                for number, layer in enumerate(taps)
                for ours, theirs in fc.items()
            },
            **qwen_blocks({"attn.qkv": "attn_qkv", "mlp.linear_fc1": "ffn_up", "mlp.linear_fc2": "ffn_down"}),
        },
        metadata={
            "clip.use_gelu": True,
            "clip.vision.attention.layer_norm_epsilon": 1e-6,  # transformers' own, in no configuration
            "clip.vision.spatial_merge_size": int(vision["spatial_merge_size"]),
            "clip.vision.is_deepstack_layers": [layer in taps for layer in range(vision["depth"])],
        },
        sizes=qwen_sizes(vision, math.isqrt(vision["num_position_embeddings"]) * vision["patch_size"]),
        placeholder=f"<|vision_start|>{IMAGE}<|vision_end|>",
        pieces=QWEN_PIECES,
        image_tokens=(1, 16384),
    )


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """Embeddings of all images and their deepstack features, by the untouched model; keeps gradients."""
    import torch

    inner: Any = model.model
    grid = torch.tensor(grids, device=pixel_values.device)
    out = inner.get_image_features(pixel_values, grid, return_dict=True)
    layers = [torch.cat(tuple(layer)) for layer in out.deepstack_features]
    extra = {DEEP_OUTPUT: torch.stack(layers)} if layers else {}
    return Features(torch.cat(out.pooler_output), [len(image) for image in out.pooler_output], extra)


def feature_inputs(visual: Tensor, features: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the model's own decoder takes of them: where image tokens are, and their features by layer."""
    return {"visual_pos_masks": visual, **_by_layer(features[DEEP_OUTPUT])}


def _by_layer(features: Tensor) -> dict[str, Any]:
    return {"deepstack_visual_embeds": list(features.unbind(0))}


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The plain modules; see `qwen2_5_vl.split`.

    Args:
        model, sizes: As there.
    """
    from edgekit.families._qwen_tower import split_of

    inner: Any = model.model
    found = layer_features(len(inner.visual.deepstack_visual_indexes), inner.language_model.config.hidden_size)
    # A shallow twin over the same layers, so that the untouched model keeps its own way of adding: here the features
    # come spread over all tokens, zero off the image's, and no mask is needed.
    twin = copy.copy(inner.language_model)
    twin._deepstack_process = lambda hidden, _, features: hidden + features
    features = tuple(replace(one, arguments=_by_layer) for one in found)
    return split_of(model, twin, sizes or [(DEFAULT_EDGE, DEFAULT_EDGE)], features)


FAMILY = replace(
    qwen2_5_vl.FAMILY,
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    encode_images=encode_images,
    split=split,
    feature_inputs=feature_inputs,
    mmproj=mmproj,
    contradictions=contradictions,
)
