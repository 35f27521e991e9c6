"""LLaVA 1.5 (model type `llava`): an image is one square tile of a CLIP tower, whose class token is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from edgekit.families import (
    TOWER_AND_PROJECTOR,
    Family,
    Features,
    Grid,
    Pixels,
    Size,
    Split,
    fill_places,
    plain_positions,
    read_optional_json,
)
from edgekit.families.sizes import tiles_only
from edgekit.inputs.image_settings import read_image_settings, read_normalisation
from edgekit.inputs.images import as_rgb, normalise
from edgekit.inputs.resizing import resize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

IMAGE = "<image>"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """resample, tile (width and height, pixels), rescale_factor, mean, std, image_seq_len."""
    settings = read_image_settings(folder, ("CLIPImageProcessor",))
    height, width = settings.square("size", 336)
    patch = read_optional_json(folder / "processor_config.json").get("patch_size", 14)
    return {
        "resample": settings.resample(Image.Resampling.BICUBIC),
        "tile": [width, height],
        **read_normalisation(settings, MEAN, STD),
        "image_seq_len": (height // patch) * (width // patch),
    }


def preprocess(images: list[Image.Image], params: dict[str, Any]) -> Pixels:
    """Each image as one tile."""
    size = (params["tile"][0], params["tile"][1])
    tiles = [normalise(np.asarray(resize(as_rgb(image), size, params)), params) for image in images]
    return Pixels(np.stack(tiles), [(1,)] * len(tiles))


def expand(text: str, grids: list[Grid], params: dict[str, Any]) -> str:
    """A placeholder for each patch."""
    return fill_places(text, IMAGE, [IMAGE * params["image_seq_len"]] * len(grids))


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """By the untouched model."""
    tiles = _features(model.model, pixel_values)
    return Features(tiles.flatten(0, 1), [tiles.shape[1]] * len(grids))


def forward_inputs(model: PreTrainedModel, pixel_values: Tensor, ids: Tensor, grids: list[Grid]) -> dict[str, Any]:
    """What forward takes beside the ids."""
    return {"pixel_values": pixel_values}


def _features(inner: Any, pixel_values: Tensor) -> Tensor:
    import torch

    found = inner.get_image_features(pixel_values, return_dict=True).pooler_output
    return found if isinstance(found, torch.Tensor) else torch.stack(list(found))


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The tower with its projector, the table, the decoder."""
    from torch import nn

    from edgekit.families._modules import tile_split

    tiles_only({}, sizes)
    inner: Any = model.model

    class VisionEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixel_values: Tensor) -> Tensor:
            return _features(self.inner, pixel_values)

    vision = model.config.vision_config
    edge, tokens = vision.image_size, (vision.image_size // vision.patch_size) ** 2
    return tile_split(model, VisionEncoder(), (edge, edge), tokens, inner.language_model)


FAMILY = Family(
    name="llava",
    model_types=("llava",),
    prefixes=TOWER_AND_PROJECTOR,
    image_token=IMAGE,
    read_preprocessing=read_preprocessing,
    preprocess=preprocess,
    expand=expand,
    positions=plain_positions,
    encode_images=encode_images,
    forward_inputs=forward_inputs,
    fix_sizes=tiles_only,
    split=split,
)
