"""LLaVA-OneVision in transformers' own format (model type `llava_onevision`, hub folders that end in -hf).

An image is resized into the best of a list of canvases, its ratio kept, and cut into tiles ("anyres"); a view of the
whole comes first. The tiles' features are laid out as the image, the canvas's padding is cut off, more than
max_tiles' worth is scaled down, and a learned newline ends each row. The encoder gives that newline as the last token
of every tile, and `pack` does the rest outside of it, so that one encoder serves images of any size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import CheckpointError
from edgekit.families import (
    TOWER_AND_PROJECTOR,
    Family,
    Features,
    Grid,
    Pixels,
    Size,
    Split,
    fill_places,
    known_strategy,
    plain_positions,
)
from edgekit.families.qwen2_5_vl import CLIP_MEAN, CLIP_STD
from edgekit.families.sizes import tiles_only
from edgekit.inputs.image_settings import (
    Settings,
    read_image_settings,
    read_model_settings,
    read_normalisation,
    read_processor_settings,
    refuse_other_modes,
)
from edgekit.inputs.images import as_rgb, cut_tiles, normalise
from edgekit.inputs.resizing import resize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

IMAGE = "<image>"
EDGE = 384  # of a tile, where the image processor's settings are silent
CANVASES = [[EDGE * rows, EDGE * cols] for rows in range(1, 7) for cols in range(1, 7)]  # (height, width), its default
ANYRES = "anyres_max_"
IMAGE_PROCESSORS = ("LlavaOnevisionImageProcessor",)
ONLY_FULL = "All of a tile's tokens (full) are what is known here."


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Image parameters of a LLaVA-OneVision checkpoint.

    Returns:
        resample, tile (pixels), canvases ([height, width] in pixels), per_side (a tile's tokens each way), max_tiles,
        rescale_factor, mean, std.

    Raises:
        CheckpointError: a setting that is none, or that the model contradicts.
    """
    settings, given = read_image_settings(folder, IMAGE_PROCESSORS), read_processor_settings(folder)
    refuse_other_modes(settings)
    tile = _read_tile(settings)
    aspect = given.text("vision_aspect_ratio", "anyres_max_9")
    per_side = EDGE // 14
    model = read_model_settings(folder)
    if model is not None:
        vision = model.inner("vision_config")
        silent = (224, 16) if vision.values else (EDGE, 14)  # transformers' defaults of a tower, and of a whole model
        edge = vision.whole("image_size", silent[0])
        per_side = edge // vision.whole("patch_size", silent[1])
        settings.agree("size", tile, edge, "vision_config.image_size")
        given.agree("vision_aspect_ratio", aspect, model.text("vision_aspect_ratio", "anyres_max_9"), "itself")
        given.agree("num_image_tokens", given.given("num_image_tokens", "not said"), per_side**2, "vision_config")
        if model.given("vision_feature_select_strategy", "full") != "full":
            model.refuse("vision_feature_select_strategy", ONLY_FULL)
        if given.given("vision_feature_select_strategy", "full") not in ("full", None):
            given.refuse("vision_feature_select_strategy", ONLY_FULL, "The model's own is full; make both the same.")
    canvases = _read_canvases(settings, tile)
    if model is not None:
        settings.agree("image_grid_pinpoints", canvases, _read_canvases(model, tile), "image_grid_pinpoints")
    return {
        "resample": settings.resample(Image.Resampling.BICUBIC),
        "tile": tile,
        "canvases": canvases,
        "per_side": per_side,
        "max_tiles": _max_tiles(aspect),
        **read_normalisation(settings, CLIP_MEAN, CLIP_STD),
    }


def _read_tile(settings: Settings) -> int:
    """Edge of a tile. Resizing and padding need no look: what is cut from a canvas has this size already."""
    size = settings.size("size", {"height": EDGE, "width": EDGE}, square=False)
    edges = set(size.values())
    if size.keys() not in ({"height", "width"}, {"shortest_edge"}) or len(edges) != 1:
        settings.refuse("size", "This image processor takes shortest_edge, or height and width that are the same.")
    tile: int = edges.pop()
    # Tiles are cut to crop_size wherever it is given, also where do_center_crop is false.
    if settings.values.get("crop_size") is not None:
        crop = settings.size("crop_size", {})
        if set(crop.values()) != {tile} or crop.keys() != {"height", "width"}:
            settings.refuse("crop_size", f"Tiles would be cut to it; only the model's own size, {tile}, is known here.")
    elif settings.flag("do_center_crop", False):
        settings.refuse("do_center_crop", "There is no crop_size.")
    return tile


def _read_canvases(settings: Settings, tile: int) -> list[list[int]]:
    """[height, width] of each canvas, in whole tiles."""
    canvases = settings.given("image_grid_pinpoints", CANVASES)
    whole = isinstance(canvases, list) and all(isinstance(one, list) and len(one) == 2 for one in canvases)
    if not whole or not canvases:
        settings.refuse("image_grid_pinpoints", "It must be a list of pairs: height and width of each canvas.")
    edges = [edge for one in canvases for edge in one]
    if not all(isinstance(edge, int) and edge > 0 and edge % tile == 0 for edge in edges):
        settings.refuse("image_grid_pinpoints", f"Canvases are cut into whole tiles of {tile} pixels.")
    return [list(one) for one in canvases]


def _max_tiles(aspect_ratio: str) -> int:
    if not aspect_ratio.removeprefix(ANYRES).isdecimal() or not int(aspect_ratio.removeprefix(ANYRES)):
        raise CheckpointError(
            f"This checkpoint's vision_aspect_ratio is {aspect_ratio!r}.", why="Only anyres_max_N is known here."
        )
    return int(aspect_ratio.removeprefix(ANYRES))


def contradictions(config: Any) -> Iterator[tuple[str, str]]:
    """Fields that do not go together, each with what it says, after its own name."""
    yield from known_strategy(config)
    depth, layer = config.vision_config.num_hidden_layers, config.vision_feature_layer
    chosen = layer if isinstance(layer, list | tuple) else [layer]
    if not chosen or not all(type(one) is int and -depth - 1 <= one <= depth for one in chosen):
        yield "vision_feature_layer", f"is {layer}; the tower has {depth}"
    for pair in config.image_grid_pinpoints or [None]:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
            yield "image_grid_pinpoints", f"holds {pair}; it is a list of (height, width) in pixels"
            break
    if not re.fullmatch(r"anyres_max_[1-9]\d{0,3}", str(config.vision_aspect_ratio)):
        yield "vision_aspect_ratio", f"is {config.vision_aspect_ratio!r}; it is anyres_max_ and a number of tiles"


def preprocess(images: list[Image.Image], params: dict[str, Any]) -> Pixels:
    """Images to normalised tiles, the whole view first, as LlavaOnevisionImageProcessor makes them.

    Each image of a prompt is cut into tiles. So does the processor with a flat list of images; with a list for
    each prompt it pads several images to squares of one tile instead.

    Args:
        images: Any mode and size.
        params: From `read_preprocessing`.

    Returns:
        values (M, 3, H, W); a grid is the image's own (height, width) in pixels.
    """
    values: list[NDArray[np.float32]] = []
    grids: list[Grid] = []
    parts = []
    for image in map(as_rgb, images):
        tiles = _tiles(image, params)
        values += [normalise(np.asarray(tile), params) for tile in tiles]
        grids.append((image.height, image.width))
        parts.append(len(tiles))
    return Pixels(np.stack(values), grids, parts)


def _tiles(image: Image.Image, params: dict[str, Any]) -> list[Image.Image]:
    tile = params["tile"]
    height, width = _canvas((image.height, image.width), params["canvases"])
    across, down = width / image.width, height / image.height
    if across < down:
        fitted = (width, min(math.ceil(image.height * across), height))
    else:
        fitted = (min(math.ceil(image.width * down), width), height)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(resize(image, fitted, params), ((width - fitted[0]) // 2, (height - fitted[1]) // 2))
    return [resize(image, (tile, tile), params), *cut_tiles(canvas, (tile, tile))]


def _canvas(size: tuple[int, int], canvases: list[list[int]]) -> tuple[int, int]:
    """(height, width) of the canvas that keeps most of an image's pixels; of two as good, the one with less waste."""
    best, most, least = (0, 0), 0, math.inf
    for height, width in canvases:
        scale = min(width / size[1], height / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        waste = height * width - kept
        if kept > most or (kept == most and waste < least):
            best, most, least = (height, width), kept, waste
    return best


def _layout(grid: Grid, params: dict[str, Any]) -> tuple[int, int, int, int, int, int]:
    """Of an image's tiles: rows and columns of tiles, of tokens without the padding, and of tokens in the end."""
    per_side = params["per_side"]
    height, width = _canvas((grid[0], grid[1]), params["canvases"])
    rows, cols = height // params["tile"], width // params["tile"]
    kept_rows, kept_cols = rows * per_side, cols * per_side
    if grid[1] / grid[0] > kept_cols / kept_rows:
        kept_rows -= (kept_rows - int(round(grid[0] * (kept_cols / grid[1]), 7))) // 2 * 2
    else:
        kept_cols -= (kept_cols - int(round(grid[1] * (kept_rows / grid[0]), 7))) // 2 * 2
    shrink = math.sqrt(kept_rows * kept_cols / (params["max_tiles"] * per_side**2))
    if shrink > 1.1:
        return rows, cols, kept_rows, kept_cols, int(kept_rows // shrink), int(kept_cols // shrink)
    return rows, cols, kept_rows, kept_cols, kept_rows, kept_cols


def tokens_of(grid: Grid, params: dict[str, Any]) -> int:
    """Image tokens of an image: the view of the whole, and its rows of tiles, each with a newline."""
    *_, rows, cols = _layout(grid, params)
    return int(params["per_side"] ** 2 + rows * (cols + 1))


def expand(text: str, grids: list[Grid], params: dict[str, Any]) -> str:
    """Repeat each `<image>` of a rendered prompt for every token of its image."""
    return fill_places(text, IMAGE, [IMAGE * tokens_of(grid, params) for grid in grids])


def pack(features: NDArray[np.float32], grids: list[Grid], params: dict[str, Any]) -> NDArray[np.float32]:
    """Images' tokens from their tiles'.

    Args:
        features: (M, N, D), the last token of each tile the newline.
        grids: Of the images, in order.
        params: canvases, tile, per_side and max_tiles are looked at.

    Returns:
        (K, D).
    """
    per_side, packed, start = params["per_side"], [], 0
    for grid in grids:
        rows, cols, kept_rows, kept_cols, out_rows, out_cols = _layout(grid, params)
        whole, tiles = features[start, :-1], features[start + 1 : start + 1 + rows * cols, :-1]
        laid = tiles.reshape(rows, cols, per_side, per_side, -1).transpose(0, 2, 1, 3, 4)
        laid = laid.reshape(rows * per_side, cols * per_side, -1)
        top, left = (laid.shape[0] - kept_rows) // 2, (laid.shape[1] - kept_cols) // 2
        laid = laid[top : top + kept_rows, left : left + kept_cols]
        laid = _scaled(_scaled(laid, out_rows).swapaxes(0, 1), out_cols).swapaxes(0, 1)
        newline = np.broadcast_to(features[start, -1], (out_rows, 1, laid.shape[-1]))
        lines = np.concatenate([laid, newline], axis=1)
        packed += [whole, lines.reshape(-1, lines.shape[-1])]
        start += 1 + rows * cols
    return np.concatenate(packed)


def _scaled(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Linear interpolation along the first axis, as torch's interpolate without aligned corners."""
    if count == len(rows):
        return rows
    place = np.maximum((np.arange(count, dtype=np.float32) + 0.5) * np.float32(len(rows) / count) - 0.5, 0)
    low = place.astype(np.int64)
    high, share = np.minimum(low + 1, len(rows) - 1), (place - low).astype(np.float32)[:, None, None]
    scaled: NDArray[np.float32] = rows[low] * (1 - share) + rows[high] * share
    return scaled


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """Embeddings of all images by the untouched model; keeps gradients."""
    import torch

    inner: Any = model.model
    per_image = inner.get_image_features(pixel_values, torch.tensor(grids), return_dict=True).pooler_output
    return Features(torch.cat(list(per_image)), [len(image) for image in per_image])


def forward_inputs(model: PreTrainedModel, pixel_values: Tensor, ids: Tensor, grids: list[Grid]) -> dict[str, Any]:
    """The images as `forward` of the untouched model takes them."""
    import torch

    return {"pixel_values": pixel_values, "image_sizes": torch.tensor(grids)}


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The plain modules; positions are baked for tiles of the configured size.

    Args:
        model: Loaded.
        sizes: None; tiles have one size.

    Raises:
        EdgekitError: sizes were chosen.
        CheckpointError: the configuration takes several layers' features, or leaves a token out.
    """
    import torch
    from torch import nn

    from edgekit.families._modules import siglip, tile_split

    tiles_only({}, sizes)
    inner: Any = model.model
    config, vision = model.config, model.config.vision_config
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    if not isinstance(layer, int) or strategy != "full" or vision.model_type != "siglip_vision_model":
        raise CheckpointError(
            "This LLaVA-OneVision model cannot be exported.",
            why=f"Its tower is {vision.model_type!r}, its features come from layer {layer} by strategy {strategy!r}; "
            "one layer of SigLIP, and all of its tokens, is what is known here.",
        )
    # Hidden states are counted with the embeddings as the first, and none has gone through the last norm.
    depth = layer if layer >= 0 else len(inner.vision_tower.encoder.layers) + 1 + layer
    per_side = vision.image_size // vision.patch_size

    class VisionEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = siglip(inner.vision_tower, layers=depth, norm=False)
            self.projector, self.newline = inner.multi_modal_projector, inner.image_newline

        def forward(self, pixel_values: Tensor) -> Tensor:
            features = self.projector(self.tower(pixel_values))
            newline = self.newline.expand(features.shape[0], 1, -1)
            return torch.cat((features, newline), dim=1)

    params = {
        "canvases": config.image_grid_pinpoints,
        "tile": vision.image_size,
        "per_side": per_side,
        "max_tiles": _max_tiles(config.vision_aspect_ratio),
    }

    def packed(grids: list[Grid], features: NDArray[np.float32]) -> NDArray[np.float32]:
        return pack(features, grids, params)

    tile = (vision.image_size,) * 2
    return tile_split(model, VisionEncoder(), tile, per_side**2 + 1, inner.language_model, pack=packed)


FAMILY = Family(
    name="llava_onevision",
    model_types=("llava_onevision",),
    prefixes={**TOWER_AND_PROJECTOR, "vision": (*TOWER_AND_PROJECTOR["vision"], "model.image_newline")},
    image_token=IMAGE,
    read_preprocessing=read_preprocessing,
    preprocess=preprocess,
    expand=expand,
    positions=plain_positions,
    encode_images=encode_images,
    forward_inputs=forward_inputs,
    fix_sizes=tiles_only,
    split=split,
    pack=pack,
    contradictions=contradictions,
)
