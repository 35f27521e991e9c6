"""Idefics3, the classes that SmolVLM-256M and SmolVLM-500M ship as, and SmolVLM, which has the same parts.

A SigLIP-like tower, pixel shuffle, one linear projection, a Llama decoder. Images are resized, perhaps split into
tiles beside a global view, and each tile becomes `image_seq_len` placeholders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.families import Family, Features, Grid, Pixels, Size, Split, fill_places, plain_positions, uneven_sides
from edgekit.families._clip import SIGLIP, MmProj, vit
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

IMAGE = "<image>"
IMAGE_PROCESSORS = ("Idefics3ImageProcessor", "SmolVLMImageProcessor")  # the same but for their names
IMAGE_SEQ_LEN = 169  # both processors' default, which is no model's own
MAX_EDGE = 4096  # the Hugging Face processor's own bound on a resized image


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Image parameters and placeholders of an Idefics3 checkpoint.

    Returns:
        resample, do_resize, longest_edge and tile (pixels), split, rescale_factor, mean, std, image_seq_len; and
        resized (width and height, pixels) where images are not resized by their longer edge.

    Raises:
        CheckpointError: a setting that is none, or that the model contradicts.
    """
    settings = read_image_settings(folder, IMAGE_PROCESSORS)
    refuse_other_modes(settings)
    tile = settings.size("max_image_size", {"longest_edge": 364}).get("longest_edge")
    if tile is None:
        settings.refuse("max_image_size", "It must say longest_edge, the edge of a tile.")
    return {
        "resample": settings.resample(Image.Resampling.LANCZOS),
        "do_resize": settings.flag("do_resize", True),
        **_read_size(settings),
        "tile": tile,
        "split": settings.flag("do_image_splitting", True),
        **read_normalisation(settings, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "image_seq_len": _image_seq_len(folder, settings, tile),
    }


def contradictions(config: Any) -> Iterator[tuple[str, str]]:
    """Fields that do not go together, each with what it says, after its own name."""
    return uneven_sides(config, "scale_factor", config.scale_factor)


def _read_size(settings: Settings) -> dict[str, Any]:
    if not settings.flag("do_resize", True):  # then nobody looks at it
        return {"longest_edge": 4 * 364}
    size = settings.size("size", {"longest_edge": 4 * 364})
    if "longest_edge" in size:
        return {"longest_edge": size["longest_edge"]}
    if size.keys() != {"height", "width"}:
        settings.refuse("size", "This image processor takes longest_edge, or height and width.")
    return {"longest_edge": max(size.values()), "resized": [size["width"], size["height"]]}


def _image_seq_len(folder: Path, settings: Settings, tile: int) -> int:
    """Image tokens of a tile, which the processor and the model must agree on."""
    given = read_processor_settings(folder)
    tokens = given.whole("image_seq_len", IMAGE_SEQ_LEN)
    model = read_model_settings(folder)
    if model is None:
        return tokens
    vision = model.inner("vision_config")
    edge, patch = vision.pair("image_size", 224), vision.pair("patch_size", 32)
    settings.agree("max_image_size", [tile, tile], list(edge), "vision_config.image_size")
    per_side = edge[0] // patch[0] // model.whole("scale_factor", 2)
    given.agree("image_seq_len", tokens, per_side**2, "vision_config and scale_factor")
    return tokens


def preprocess(images: list[Image.Image], params: dict[str, Any]) -> Pixels:
    """Images to normalised tiles, as Idefics3ImageProcessor makes them.

    Args:
        images: Any mode and size.
        params: From `read_preprocessing`.
    """
    tiles: list[NDArray[np.float32]] = []
    grids: list[Grid] = []
    for image in images:
        parts, grid = _tiles(as_rgb(image), params)
        tiles += [normalise(np.asarray(part), params) for part in parts]
        grids.append(grid)
    return Pixels(values=np.stack(tiles), grids=grids)


def _tiles(image: Image.Image, params: dict[str, Any]) -> tuple[list[Image.Image], tuple[int, int]]:
    tile = params["tile"]
    if params["do_resize"]:
        size = params.get("resized") or _longest_edge(*image.size, params["longest_edge"])
        image = resize(image, (size[0], size[1]), params)
    if not params["split"]:
        return [resize(image, (tile, tile), params)], (0, 0)
    image = resize(image, _whole_tiles(*image.size, tile), params)
    width, height = image.size
    if width <= tile and height <= tile:
        return [image], (0, 0)
    rows, cols = height // tile, width // tile
    return [*cut_tiles(image, (tile, tile)), resize(image, (tile, tile), params)], (rows, cols)


def _longest_edge(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) with the longer edge at `longest` and the shorter made even, never above MAX_EDGE."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        width, height = int(longest * ratio), longest
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > MAX_EDGE:
        width, height = MAX_EDGE, int(MAX_EDGE / ratio)
    elif height > width and height > MAX_EDGE:
        width, height = int(MAX_EDGE * ratio), MAX_EDGE
    return max(width, 1), max(height, 1)


def _whole_tiles(width: int, height: int, tile: int) -> tuple[int, int]:
    """(width, height) rounded up to whole tiles, the longer edge first."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        height = math.ceil(int(width / ratio) / tile) * tile
    else:
        height = math.ceil(height / tile) * tile
        width = math.ceil(int(height * ratio) / tile) * tile
    return width, height


def expand(text: str, grids: list[Grid], params: dict[str, Any]) -> str:
    """Replace each `<image>` of a rendered prompt by the placeholders of its tiles."""
    return fill_places(text, IMAGE, [_placeholders(grid, params["image_seq_len"]) for grid in grids])


def _placeholders(grid: Grid, seq_len: int) -> str:
    fake, slots = "<fake_token_around_image>", IMAGE * seq_len
    rows, cols = grid
    whole = f"{fake}<global-img>{slots}{fake}"
    if rows == 0:
        return whole
    lines = ["".join(f"{fake}<row_{r + 1}_col_{c + 1}>{slots}" for c in range(cols)) for r in range(rows)]
    return "".join(line + "\n" for line in lines) + "\n" + whole


def images(pixels: Pixels, params: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """The tiles as images (H, W, 3), for a runtime that normalises by itself."""
    return [denormalise(tile, params) for tile in pixels.values]


def mmproj(config: Mapping[str, Any], params: dict[str, Any]) -> MmProj:
    """The vision encoder as llama.cpp's clip reads it.

    Args:
        config: config.json, every default filled in.
        params: From `read_preprocessing`.
    """
    vision = config["vision_config"]
    return MmProj(
        projector="idefics3",
        tensors={
            "model.vision_model.embeddings.patch_embedding": "v.patch_embd",
            "model.vision_model.embeddings.position_embedding": "v.position_embd",
            "model.vision_model.post_layernorm": "v.post_ln",
            "model.connector.modality_projection.proj": "mm.model.fc",
            **vit("model.vision_model.encoder.layers", SIGLIP),
        },
        metadata={
            "clip.use_gelu": True,
            "clip.vision.attention.layer_norm_epsilon": float(vision["layer_norm_eps"]),
            "clip.vision.projector.scale_factor": int(config["scale_factor"]),
            # llama.cpp cuts an image into tiles by this edge. It always makes tiles and a view of the whole, even of
            # an image that is one tile: a student that never splits meets one tile too many in other programs.
            "clip.vision.preproc_image_size": params["longest_edge"] if params["split"] else params["tile"],
        },
        sizes={
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "embedding_length": vision["hidden_size"],
            "feed_forward_length": vision["intermediate_size"],
            "block_count": vision["num_hidden_layers"],
            "attention.head_count": vision["num_attention_heads"],
        },
        placeholder=IMAGE,
        pieces=("\n", "\n\n", "<fake_token_around_image>", "<global-img>"),
        image_tokens=(params["image_seq_len"], params["image_seq_len"]),
    )


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """Embeddings of all images by the untouched model; keeps gradients."""
    inner: Any = model.model
    tiles: Tensor = inner.connector(inner.vision_model(pixel_values=pixel_values).last_hidden_state)
    # An image that was split has a tile of the whole beside its rows and columns.
    return Features(tiles.flatten(0, 1), [(rows * cols + 1) * tiles.shape[1] for rows, cols in grids])


def forward_inputs(model: PreTrainedModel, pixel_values: Tensor, ids: Tensor, grids: list[Grid]) -> dict[str, Any]:
    """The images as `forward` of the untouched model takes them."""
    return {"pixel_values": pixel_values[None]}


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The plain modules; positions are baked for whole square tiles of the configured size.

    Args:
        model: Loaded.
        sizes: None; tiles have one size.

    Raises:
        EdgekitError: sizes were chosen.
    """
    from torch import nn

    from edgekit.families._modules import siglip, tile_split

    tiles_only({}, sizes)
    inner: Any = model.model
    vision = model.config.vision_config
    tokens = (vision.image_size // vision.patch_size // model.config.scale_factor) ** 2
    encoder = nn.Sequential(siglip(inner.vision_model), inner.connector)
    return tile_split(model, encoder, (vision.image_size,) * 2, tokens, inner.text_model)


FAMILY = Family(
    name="idefics3",
    model_types=("idefics3", "smolvlm"),
    prefixes={"vision": ("model.vision_model.", "model.connector."), "language": ("model.text_model.",)},
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
)
