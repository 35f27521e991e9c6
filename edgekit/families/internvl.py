"""InternVL3 and InternVL3.5 in transformers' own format (model type `internvl`, hub folders that end in -hf).

An image becomes up to max_patches square tiles of the grid nearest to its shape, and a view of the whole; every tile
becomes `image_seq_len` tokens. Positions are plain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    uneven_sides,
)
from edgekit.families._clip import MmProj, vit
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
from edgekit.inputs.images import as_rgb, cut_tiles, denormalise, normalise
from edgekit.inputs.resizing import resize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

START, IMAGE, END = "<img>", "<IMG_CONTEXT>", "</img>"
IMAGE_PROCESSORS = ("GotOcr2ImageProcessor",)
MOST_TILES = 144  # the hub's folders say 12; all shapes up to it are tried for each image


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Image parameters of an InternVL checkpoint.

    Returns:
        resample, do_resize, tile (width and height, pixels), min_tiles, max_tiles, rescale_factor, mean, std,
        image_seq_len.

    Raises:
        CheckpointError: a setting that is none, or that the model contradicts.
    """
    settings = read_image_settings(folder, IMAGE_PROCESSORS)
    refuse_other_modes(settings)
    height, width = settings.square("size", 384)
    tiles, resizes = settings.whole("max_patches", 12, most=MOST_TILES), settings.flag("do_resize", True)
    if tiles == 1 and not resizes:
        settings.refuse("do_resize", "The model takes tiles of one size, and with max_patches 1 none would be made.")
    return {
        "resample": settings.resample(Image.Resampling.BICUBIC),
        "do_resize": resizes,
        "tile": [width, height],
        "min_tiles": settings.whole("min_patches", 1, most=MOST_TILES),
        "max_tiles": tiles,
        **read_normalisation(settings, CLIP_MEAN, CLIP_STD),
        "image_seq_len": _image_seq_len(folder, settings, (height, width)),
    }


def contradictions(config: Any) -> Iterator[tuple[str, str]]:
    """Fields that do not go together, each with what it says, after its own name."""
    yield from known_strategy(config)
    vision = config.vision_config
    if vision.norm_type not in ("layer_norm", "rms_norm"):
        yield "vision_config.norm_type", f"is {vision.norm_type!r}; it is layer_norm or rms_norm"
    if config.downsample_ratio > 1:
        yield "downsample_ratio", f"is {config.downsample_ratio}; it is a share of the edge, up to 1"
    else:
        yield from uneven_sides(config, "downsample_ratio", 1 / config.downsample_ratio)
    if (layer := config.vision_feature_layer) != -1:
        yield "vision_feature_layer", f"is {layer}; only the last one's features (-1) are known to edgekit"


def _image_seq_len(folder: Path, settings: Settings, tile: tuple[int, int]) -> int:
    """Image tokens of a tile, which the processor and the model must agree on."""
    given = read_processor_settings(folder)
    tokens = given.whole("image_seq_length", 256)
    model = read_model_settings(folder)
    if model is None:
        return tokens
    vision = model.inner("vision_config")
    edges, patches = vision.pair("image_size", 448), vision.pair("patch_size", 14)
    settings.agree("size", list(tile), list(edges), "vision_config.image_size")
    ratio = model.number("downsample_ratio", 0.5)
    wanted = int((edges[0] // patches[0]) * (edges[1] // patches[1]) * ratio**2)
    given.agree("image_seq_length", tokens, wanted, "vision_config and downsample_ratio")
    return tokens


def preprocess(images: list[Image.Image], params: dict[str, Any]) -> Pixels:
    """Images to normalised tiles, as InternVLProcessor makes them.

    The processor always crops into tiles: the `crop_to_patches` of preprocessor_config.json, which says false in the
    hub's folders, is overruled by its own default.

    Args:
        images: Any mode and size.
        params: From `read_preprocessing`.

    Returns:
        values (M, 3, H, W); a grid is the (number,) of an image's tiles.
    """
    tiles = [_tiles(as_rgb(image), params) for image in images]
    values = np.stack([normalise(np.asarray(tile), params) for own in tiles for tile in own])
    return Pixels(values=values, grids=[(len(own),) for own in tiles])


def _tiles(image: Image.Image, params: dict[str, Any]) -> list[Image.Image]:
    width, height = params["tile"]
    if params["max_tiles"] <= 1:
        return [resize(image, (width, height), params) if params["do_resize"] else image]
    cols, rows = _canvas(image.size, params)
    whole = resize(image, (cols * width, rows * height), params)
    tiles = cut_tiles(whole, (width, height))
    return [*tiles, *([resize(image, (width, height), params)] if len(tiles) > 1 else [])]


def _canvas(size: tuple[int, int], params: dict[str, Any]) -> tuple[int, int]:
    """(columns, rows) nearest to the image's shape; of two as near, the larger while the image can fill half."""
    edge, limits = range(1, params["max_tiles"] + 1), range(params["min_tiles"], params["max_tiles"] + 1)
    shapes = sorted(((c, r) for c in edge for r in edge if c * r in limits), key=lambda shape: shape[0] * shape[1])
    ratio, area = size[0] / size[1], size[0] * size[1]
    best, nearest = (1, 1), float("inf")
    for cols, rows in shapes:
        gap = abs(ratio - cols / rows)
        fills = area > 0.5 * params["tile"][0] * params["tile"][1] * cols * rows
        if gap < nearest or (gap == nearest and fills):
            best, nearest = (cols, rows), gap
    return best


def expand(text: str, grids: list[Grid], params: dict[str, Any]) -> str:
    """Replace each `<IMG_CONTEXT>` of a rendered prompt by the placeholders of its image's tiles."""
    return fill_places(text, IMAGE, [f"{START}{IMAGE * (params['image_seq_len'] * grid[0])}{END}" for grid in grids])


def images(pixels: Pixels, params: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """The tiles as images (H, W, 3), for a runtime that normalises by itself."""
    return [denormalise(tile, params) for tile in pixels.values]


def mmproj(config: Mapping[str, Any], params: dict[str, Any]) -> MmProj:
    """The vision encoder as llama.cpp's clip reads it.

    Args:
        config: config.json, every default filled in.
        params: From `read_preprocessing`.

    Raises:
        CheckpointError: a shape that it does not read.
    """
    vision = config["vision_config"]
    (height, width), (patch, patch_width) = vision["image_size"], vision["patch_size"]
    if height != width or patch != patch_width or vision["use_qk_norm"] or vision["norm_type"] != "layer_norm":
        raise CheckpointError(
            "llama.cpp cannot run this InternVL vision encoder.",
            why="It takes square tiles and patches, layer norms, and no norms of queries and keys.",
            fix="Export to another target.",
        )
    return MmProj(
        projector="internvl",
        tensors={
            "model.vision_tower.embeddings.cls_token": "v.class_embd",
            "model.vision_tower.embeddings.position_embeddings": "v.position_embd.weight",
            "model.vision_tower.embeddings.patch_embeddings.projection": "v.patch_embd",
            **{f"model.multi_modal_projector.{ours}": f"mm.model.mlp.{place}" for ours, place in _PROJECTOR},
            **vit(
                "model.vision_tower.encoder.layer",
                {
                    **{f"attention.{name}_proj": f"attn_{name}" for name in "qkv"},
                    "attention.projection_layer": "attn_out",
                    "mlp.fc1": "ffn_up",
                    "mlp.fc2": "ffn_down",
                    "layernorm_before": "ln1",
                    "layernorm_after": "ln2",
                    "lambda_1": "ls1.weight",
                    "lambda_2": "ls2.weight",
                },
            ),
        },
        metadata={
            "clip.use_gelu": True,
            "clip.vision.attention.layer_norm_epsilon": float(vision["layer_norm_eps"]),
            "clip.vision.projector.scale_factor": round(1 / config["downsample_ratio"]),
            "clip.vision.preproc_min_tiles": params["min_tiles"],
            "clip.vision.preproc_max_tiles": params["max_tiles"],
        },
        sizes={
            "image_size": height,
            "patch_size": patch,
            "embedding_length": vision["hidden_size"],
            "feed_forward_length": vision["intermediate_size"],
            "block_count": vision["num_hidden_layers"],
            "attention.head_count": vision["num_attention_heads"],
        },
        placeholder=IMAGE,
        pieces=(START, END),
        cls_last=frozenset({"v.position_embd.weight"}),
    )


_PROJECTOR = (("layer_norm", 0), ("linear_1", 1), ("linear_2", 3))


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """Embeddings of all images by the untouched model; keeps gradients."""
    inner: Any = model.model
    tiles = inner.get_image_features(pixel_values, return_dict=True).pooler_output
    return Features(tiles.flatten(0, 1), [grid[0] * tiles.shape[1] for grid in grids])


def forward_inputs(model: PreTrainedModel, pixel_values: Tensor, ids: Tensor, grids: list[Grid]) -> dict[str, Any]:
    """The images as `forward` of the untouched model takes them."""
    return {"pixel_values": pixel_values}


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The plain modules; positions are baked for tiles of the configured size.

    Args:
        model: Loaded.
        sizes: None; tiles have one size.

    Raises:
        EdgekitError: sizes were chosen.
        CheckpointError: the configuration takes image features from elsewhere than the tower's end.
    """
    import torch
    from torch import nn

    from edgekit.families._modules import tile_split

    tiles_only({}, sizes)
    inner: Any = model.model
    config = model.config
    if (config.vision_feature_layer, config.vision_feature_select_strategy) != (-1, "default"):
        raise CheckpointError(
            "This InternVL model cannot be exported.",
            why=f"It takes image features from layer {config.vision_feature_layer} of its tower, by strategy "
            f"{config.vision_feature_select_strategy!r}; only the last layer without the class token is known here.",
        )
    (height, width), (patch_height, patch_width) = config.vision_config.image_size, config.vision_config.patch_size
    rows, cols = height // patch_height, width // patch_width

    class VisionEncoder(nn.Module):
        positions: Tensor | None

        def __init__(self) -> None:
            super().__init__()
            self.tower, self.projector = inner.vision_tower, inner.multi_modal_projector
            positions = self.tower.embeddings.position_embeddings
            self.register_buffer("positions", None if positions is None else positions.detach(), persistent=False)

        def forward(self, pixel_values: Tensor) -> Tensor:
            embeddings = self.tower.embeddings
            patches = embeddings.patch_embeddings(pixel_values)
            hidden = torch.cat((embeddings.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1)
            if self.positions is not None:
                hidden = hidden + self.positions
            for layer in self.tower.encoder.layer:
                hidden = layer(hidden)
            hidden = self.tower.layernorm(hidden)[:, 1:]
            hidden = hidden.reshape(hidden.shape[0], rows, cols, -1)
            shuffled = inner.pixel_shuffle(hidden, scale_factor=config.downsample_ratio)
            result: Tensor = self.projector(shuffled.flatten(1, 2))
            return result

    tokens = int(rows * cols * config.downsample_ratio**2)
    return tile_split(model, VisionEncoder(), (height, width), tokens, inner.language_model)


FAMILY = Family(
    name="internvl",
    model_types=("internvl",),
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
    images=images,
    mmproj=mmproj,
    contradictions=contradictions,
    pairs=("image_size", "patch_size"),
)
