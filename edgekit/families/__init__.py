"""VLM families: all that a target or a runtime must know of one, in one file each.

A family module holds:

    MODEL_TYPES                          the `model_type` values of config.json it speaks for
    read_preprocessing(folder)           the image parameters of a checkpoint, as a JSON-able dict
    preprocess(images, params)           pictures -> Pixels, with pillow and numpy only
    expand(text, grids, params)          image placeholders in a rendered prompt -> what the model was trained on
    positions(ids, grids, params)        a prompt's rotary positions: (T,), or (3, T) where an axis has its own
    PARTS                                parameter-name prefixes of "vision" and "language"
    encode_images(model, pixel_values, grids)   -> Features, with gradients
    split(model)                         a loaded model -> Split (this one imports torch); optional: a family without
                                         it distils, but cannot be exported yet

and nothing of it imports torch when the module is imported, so that a bundle can be run without torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError, DataError
from edgekit.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILIES = Registry("edgekit.families", "VLM family")
Grid = tuple[int, ...]


@dataclass(frozen=True)
class Pixels:
    """What the vision encoder sees of one prompt.

    Attributes:
        values: float32, the parts of all images in order along the first axis: tiles (M, 3, H, W), or flattened
            patches (M, patch).
        grids: Per image how its parts lie, in the family's own terms: idefics3 (rows, columns) of tiles, (0, 0) when
            the image was not split; internvl (tiles,); Qwen-VL (frames, rows, columns) of patches.
    """

    values: NDArray[np.float32]
    grids: list[Grid]


@dataclass(frozen=True)
class Features:
    """What the vision encoder gives for the K image tokens of some images.

    Attributes:
        embeds: (K, D), in the order of the images; they take the image tokens' places.
        counts: Tokens of each image.
        deepstack: (K, D) for each of the first decoder layers, added to the hidden states that leave it; empty for
            most families.
    """

    embeds: Tensor
    counts: list[int]
    deepstack: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Split:
    """The three plain modules every target exports, and the sizes it needs to know.

    Attributes:
        vision_encoder: pixel_values (M, 3, H, W) -> image embeddings (M, N, D).
        token_embedding: input_ids (B, T) -> embeddings (B, T, D).
        text_decoder: inputs_embeds (B, T, D), attention_mask (B, P+T), position_ids (B, T), then key and value
            (B, H, P, D_head) per layer -> logits (B, T, V), then the grown keys and values per layer.
        image_size: Edge of one tile in pixels.
        image_tokens: N, embeddings per tile.
        width: D.
        layers, kv_heads, head_dim: shape of the cache.
        vocab_size: V.
        image_token_id: The token whose embeddings the image's replace.
        eos_token_ids: Tokens that end an answer.
    """

    vision_encoder: nn.Module
    token_embedding: nn.Module
    text_decoder: nn.Module
    image_size: int
    image_tokens: int
    width: int
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    image_token_id: int
    eos_token_ids: list[int]


@cache
def _by_model_type() -> dict[str, str]:
    return {kind: name for name in FAMILIES.names() for kind in FAMILIES.load(name).MODEL_TYPES}


def family_of(model_type: str) -> ModuleType:
    """The family module for a `model_type` of config.json.

    Raises:
        CheckpointError: none speaks for it.
    """
    known = _by_model_type()
    if model_type not in known:
        raise CheckpointError(
            f"No VLM family of edgekit speaks for model type {model_type!r}.",
            why=f"Those that work: {', '.join(sorted(known))}.",
            fix="A family is one file in edgekit/families/; CONTRIBUTING.md shows how to add one.",
        )
    return FAMILIES.load(known[model_type])


def plain_positions(ids: Sequence[int], grids: list[Grid], params: dict[str, Any]) -> NDArray[np.int64]:
    """Positions (T,) of a model that counts image tokens like any other: 0, 1, 2, ..."""
    return np.arange(len(ids), dtype=np.int64)


def fill_places(text: str, place: str, fillings: Sequence[str]) -> str:
    """Replace the image placeholders of a rendered prompt, each by its own filling.

    Raises:
        DataError: there are more or fewer placeholders than images.
    """
    first, *rest = text.split(place)
    if len(rest) != len(fillings):
        raise DataError(
            f"The prompt does not have one image part for each of its {len(fillings)} images.",
            why=f"{place!r} stands there {len(rest)} times; a literal one in a question counts too.",
        )
    return first + "".join(filling + after for filling, after in zip(fillings, rest, strict=True))


def merge_images(
    embeds: NDArray[np.float32], ids: NDArray[np.int64], features: NDArray[np.float32], image_token_id: int
) -> NDArray[np.float32]:
    """Put image embeddings (M, N, D) in the places of the image tokens of ids (1, T) in embeds (1, T, D).

    Raises:
        CheckpointError: the prompt has room for another number of image tokens than the encoder gave.
    """
    where = ids == image_token_id
    flat = features.reshape(-1, features.shape[-1])
    if int(where.sum()) != flat.shape[0]:
        raise CheckpointError(
            f"The prompt has {int(where.sum())} image tokens but the vision encoder gave {flat.shape[0]} embeddings.",
            why="The prompt and the pictures do not belong together, or a literal image token stands in the question.",
        )
    merged = embeds.copy()
    merged[where] = flat
    return merged


def read_image_processor(folder: Path) -> dict[str, Any]:
    """The image processor's settings, from preprocessor_config.json or nested in processor_config.json.

    Raises:
        CheckpointError: neither has them.
    """
    nested = read_optional_json(folder / "processor_config.json").get("image_processor")
    settings = read_optional_json(folder / "preprocessor_config.json") or nested
    if not isinstance(settings, dict) or not settings:
        raise CheckpointError(
            f"{folder} has no image processor settings.",
            why="Neither preprocessor_config.json nor processor_config.json holds them.",
            fix="Copy them from the model's original folder.",
        )
    return settings


def read_optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is not there.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON.", why=str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object.")
    return value
