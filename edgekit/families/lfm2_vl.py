"""LFM2-VL: images of any size as flattened patches, and a decoder of attention and short convolutions.

A small image is one view in whole blocks of downsample x downsample patches, each block a token. A large one becomes
tiles and a view of the whole. The decoder's cache holds keys and values of its attention layers, and the last inputs of
its convolutions. An export takes such views one by one; or it is for one or a few image sizes of one view, and resizes
each image to the nearest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import EdgekitError
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
)
from edgekit.families._lfm2_clip import mmproj
from edgekit.families._lfm2_tower import any_view, one_size, weighted_blocks
from edgekit.families.decoding import State, convolution
from edgekit.families.sizes import fit_image
from edgekit.inputs.image_settings import (
    Settings,
    read_image_settings,
    read_model_settings,
    read_normalisation,
    refuse_other_modes,
)
from edgekit.inputs.images import as_rgb, cut_tiles, denormalise, normalise, resize_bilinear

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

IMAGE, START, END, WHOLE = "<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"
NUMBERS = {
    "downsample_factor": 2,
    "min_tiles": 2,
    "max_tiles": 10,
    "min_image_tokens": 64,
    "max_image_tokens": 256,
    "encoder_patch_size": 16,
    "tile_size": 512,
}
MOST_TILES = 144  # the hub's folders say 10; all shapes up to it are tried for each image
IMAGE_PROCESSORS = ("Lfm2VlImageProcessor",)


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Image parameters of an LFM2-VL checkpoint.

    Returns:
        resample, downsample_factor (patches per token, each way), min_tiles, max_tiles, min_image_tokens and
        max_image_tokens (of one view), encoder_patch_size and tile_size (pixels), use_thumbnail, max_pixels_tolerance
        (an image of more times max_image_tokens is cut into tiles), table_edge (positions of the vision encoder's
        table, each way), rescale_factor, mean, std.

    Raises:
        CheckpointError: a setting that is none, that is not known here, or that the model contradicts.
    """
    settings = read_image_settings(folder, IMAGE_PROCESSORS)
    refuse_other_modes(settings)
    if (resample := settings.resample(Image.Resampling.BILINEAR)) != Image.Resampling.BILINEAR:
        settings.refuse("resample", "Only 2, bilinear, is known here.")
    if not settings.flag("do_pad", True):
        settings.refuse("do_pad", "The model would not be told the shapes of its images.")
    numbers = {name: settings.whole(name, default) for name, default in NUMBERS.items()}
    model = read_model_settings(folder)
    _check_numbers(settings, numbers, model)
    if not settings.flag("do_image_splitting", True):
        numbers |= {"min_tiles": 1, "max_tiles": 1}
    return {
        "resample": resample,
        **numbers,
        "use_thumbnail": settings.flag("use_thumbnail", True),
        "max_pixels_tolerance": settings.number("max_pixels_tolerance", 2.0),
        "table_edge": math.isqrt(256 if model is None else model.inner("vision_config").whole("num_patches", 256)),
        **read_normalisation(settings, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    }


def contradictions(config: Any) -> Iterator[tuple[str, str]]:
    """Fields that do not go together, each with what it says, after its own name."""
    kinds = sorted(set(config.text_config.layer_types or ()) - {"conv", "full_attention"})
    if kinds:
        yield "text_config.layer_types", f"holds {kinds[0]!r}; a layer is conv or full_attention"
    patches = config.vision_config.num_patches
    if math.isqrt(patches) ** 2 != patches:
        yield "vision_config.num_patches", f"is {patches}, no square"


def _check_numbers(settings: Settings, numbers: dict[str, int], model: Settings | None) -> None:
    """What would end in images of no patches, or in other patches than the model's."""
    if model is not None:
        patch = model.inner("vision_config").whole("patch_size", 16)
        settings.agree("encoder_patch_size", numbers["encoder_patch_size"], patch, "vision_config.patch_size")
        factor = model.whole("downsample_factor", 2)
        settings.agree("downsample_factor", numbers["downsample_factor"], factor, "downsample_factor")
    block = numbers["encoder_patch_size"] * numbers["downsample_factor"]
    if numbers["max_tiles"] > MOST_TILES:
        settings.refuse("max_tiles", f"More than {MOST_TILES} are not cut here.")
    if numbers["min_tiles"] > numbers["max_tiles"]:
        settings.refuse("min_tiles", f"It is above max_tiles, {numbers['max_tiles']}.")
    if numbers["min_image_tokens"] > numbers["max_image_tokens"]:
        settings.refuse("min_image_tokens", f"It is above max_image_tokens, {numbers['max_image_tokens']}.")
    if numbers["tile_size"] % block:
        settings.refuse("tile_size", f"It must be a multiple of {block}, a token's edge in pixels.")


def preprocess(images: list[Image.Image], params: dict[str, Any]) -> Pixels:
    """Images to flattened patches, as Lfm2VlImageProcessor makes them.

    Args:
        images: Any mode and size.
        params: From `read_preprocessing`.

    Returns:
        values (patches of all views, 3 * patch * patch); a grid is (rows, columns) of tiles, (1, 1) where there are
        none, and (rows, columns) of the whole view's patches, (0, 0) where there is none.
    """
    values, grids, parts = [], [], []
    for image in map(as_rgb, images):
        views, grid = _views(fit_image(image, params), params)
        patches = [_patches(view, params) for view in views]
        values += patches
        grids.append(grid)
        parts.append(sum(map(len, patches)))
    return Pixels(np.concatenate(values), grids, parts)


def _views(image: Image.Image, params: dict[str, Any]) -> tuple[list[Image.Image], Grid]:
    tile, patch = params["tile_size"], params["encoder_patch_size"]
    if params.get("sizes"):  # of one view each, and `fit_image` has made it that
        return [image], (1, 1, image.height // patch, image.width // patch)
    width, height = _resized(image.width, image.height, params)
    cols, rows = _tiling(image.width, image.height, params)
    whole = (resize_bilinear(image, (width, height)), height // patch, width // patch)
    if rows * cols == 1:
        return [whole[0]], (1, 1, *whole[1:])
    tiles = cut_tiles(resize_bilinear(image, (cols * tile, rows * tile)), (tile, tile))
    return ([*tiles, whole[0]], (rows, cols, *whole[1:])) if params["use_thumbnail"] else (tiles, (rows, cols, 0, 0))


def _patches(view: Image.Image, params: dict[str, Any]) -> NDArray[np.float32]:
    patch = params["encoder_patch_size"]
    pixels = normalise(np.asarray(view), params).transpose(1, 2, 0)
    rows, cols = pixels.shape[0] // patch, pixels.shape[1] // patch
    blocks = pixels.reshape(rows, patch, cols, patch, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(blocks.reshape(rows * cols, patch * patch * 3))


def _block(params: dict[str, Any]) -> int:
    """Pixels of a token, each way."""
    return int(params["encoder_patch_size"] * params["downsample_factor"])


def _resized(width: int, height: int, params: dict[str, Any]) -> tuple[int, int]:
    """(width, height) of the whole view: whole blocks, so many as one view may have, the ratio kept where it can be."""
    block = _block(params)
    lowest, highest = (params[f"{end}_image_tokens"] * block**2 for end in ("min", "max"))
    rows, cols = (max(1, round(edge / block)) for edge in (height, width))
    if rows * cols * block**2 > highest:
        shrink = math.sqrt(height * width / highest)
        rows, cols = (max(1, math.floor(edge / shrink / block)) for edge in (height, width))
    elif rows * cols * block**2 < lowest:
        grow = math.sqrt(lowest / (height * width))
        rows, cols = (math.ceil(edge * grow / block) for edge in (height, width))
    return cols * block, rows * block


def _is_split(width: int, height: int, params: dict[str, Any]) -> bool:
    """Whether an image is too large for one view, and may be cut into tiles."""
    if params["min_tiles"] == params["max_tiles"] == 1:
        return False
    block = _block(params)
    # An edge below half a block counts as one patch, as in the reference.
    edges = [max(params["encoder_patch_size"], round(edge / block) * block) for edge in (height, width)]
    return bool(math.prod(edges) > params["max_image_tokens"] * block**2 * params["max_pixels_tolerance"])


def _tiling(width: int, height: int, params: dict[str, Any]) -> tuple[int, int]:
    """(columns, rows) of tiles: the nearest to the image's shape; of two as near, the one its area fills half."""
    if not _is_split(width, height, params):
        return 1, 1
    counts = range(params["min_tiles"], params["max_tiles"] + 1)
    # The reference sorts a set by area alone: of shapes of one area, the set's own order is kept.
    shapes = {(c, r) for count in counts for c in range(1, count + 1) for r in range(1, count + 1) if c * r in counts}
    best, nearest = (1, 1), math.inf
    for cols, rows in sorted(shapes, key=math.prod):
        gap = abs(width / height - cols / rows)
        fills = width * height > 0.5 * params["tile_size"] ** 2 * cols * rows
        if gap < nearest or (gap == nearest and fills):
            best, nearest = (cols, rows), gap
    return best


def fix_sizes(params: dict[str, Any], sizes: Sequence[Size] | None) -> dict[str, Any]:
    """The parameters of an export: `sizes` in them are the only ones an image is resized to, of one view each.

    Args:
        params: From `read_preprocessing`.
        sizes: (width, height) in pixels; None for images of any size, in tiles where they are large.

    Raises:
        EdgekitError: an edge is no multiple of a token's pixels, or the tokens are more or fewer than one view has.
    """
    if sizes is None:
        return params
    block, lowest, highest = _block(params), params["min_image_tokens"], params["max_image_tokens"]
    for width, height in sizes:
        tokens = (width // block) * (height // block)
        if width % block or height % block or not lowest <= tokens <= highest:
            raise EdgekitError(
                f"This model takes no images of {width}x{height} pixels.",
                why=f"Both edges must be multiples of {block}, and one view has {lowest} to {highest} tokens of "
                f"{block} x {block} pixels; an export for chosen sizes cuts no tiles.",
                fix=f"For example:  --image-size {math.isqrt(highest) * block}x{math.isqrt(highest) * block}\n"
                "Or leave --image-size out: images of any size then, and tiles.",
            )
    kept = {name: value for name, value in params.items() if name != "table_edge"}  # positions are constants then
    return {**kept, "sizes": [list(size) for size in dict.fromkeys(map(tuple, sizes))]}


def view_tokens(params: dict[str, Any]) -> int:
    """Tokens of the largest view: a tile, or an image that is one view."""
    return max(int(params["max_image_tokens"]), int(params["tile_size"] // _block(params)) ** 2)


def expand(text: str, grids: list[Grid], params: dict[str, Any]) -> str:
    """Replace each `<image>` of a rendered prompt by the placeholders of its image's views."""
    return fill_places(text, IMAGE, [_placeholders(grid, params) for grid in grids])


def _placeholders(grid: Grid, params: dict[str, Any]) -> str:
    rows, cols, *whole = grid
    slots = IMAGE * (math.prod(whole) // params["downsample_factor"] ** 2)
    if rows * cols > 1:
        tile = IMAGE * (params["tile_size"] // _block(params)) ** 2
        marked = (f"<|img_row_{row + 1}_col_{col + 1}|>{tile}" for row in range(rows) for col in range(cols))
        slots = "".join(marked) + (WHOLE + slots if params["use_thumbnail"] else "")
    return f"{START}{slots}{END}"


def _shapes(grids: list[Grid], patches: int) -> list[list[tuple[int, int]]]:
    """(rows, columns) of patches of each image's views, in order.

    Args:
        grids: Of the images.
        patches: Of all of them; what the whole views leave is shared by the tiles alike.
    """
    tiles = sum(grid[0] * grid[1] for grid in grids if grid[0] * grid[1] > 1)
    edge = math.isqrt((patches - sum(grid[2] * grid[3] for grid in grids)) // tiles) if tiles else 0
    shapes = []
    for rows, cols, *whole in grids:
        own = [(edge, edge)] * (rows * cols) if rows * cols > 1 else []
        shapes.append(own + ([(whole[0], whole[1])] if whole[0] else []))
    return shapes


def _padded(pixel_values: Tensor, grids: list[Grid]) -> dict[str, Tensor]:
    """Patches of all images (P, patch) as the untouched model takes them: a row for each view, filled up."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    shapes = [shape for own in _shapes(grids, len(pixel_values)) for shape in own]
    views = list(torch.split(pixel_values, [rows * cols for rows, cols in shapes]))
    masks = [torch.ones(len(view), dtype=torch.int32, device=view.device) for view in views]
    return {
        "pixel_values": pad_sequence(views, batch_first=True),
        "pixel_attention_mask": pad_sequence(masks, batch_first=True),
        "spatial_shapes": torch.tensor(shapes, device=pixel_values.device),
    }


def images(pixels: Pixels, params: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """The views as images (H, W, 3), for a runtime that normalises by itself."""
    patch, made, start = params["encoder_patch_size"], [], 0
    for rows, cols in (shape for own in _shapes(pixels.grids, len(pixels.values)) for shape in own):
        blocks = pixels.values[start : start + rows * cols].reshape(rows, cols, patch, patch, 3)
        view = blocks.transpose(4, 0, 2, 1, 3).reshape(3, rows * patch, cols * patch)
        made.append(denormalise(view, params))
        start += rows * cols
    return made


def views(pixels: Pixels, params: dict[str, Any]) -> list[NDArray[np.float32]]:
    """The views as an encoder of any view takes them, in order: see `weighted_blocks`."""
    made, start = [], 0
    for rows, cols in (shape for own in _shapes(pixels.grids, len(pixels.values)) for shape in own):
        view = pixels.values[start : start + rows * cols].reshape(rows, cols, -1)
        made.append(weighted_blocks(view, params["table_edge"], params["downsample_factor"]))
        start += rows * cols
    return made


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """Embeddings of all images by the untouched model; keeps gradients."""
    import torch

    inner: Any = model.model
    views = inner.get_image_features(**_padded(pixel_values, grids), return_dict=True).pooler_output
    lengths = iter(map(len, views))
    counts = [sum(next(lengths) for _ in own) for own in _shapes(grids, len(pixel_values))]
    return Features(torch.cat(list(views)), counts)


def forward_inputs(model: PreTrainedModel, pixel_values: Tensor, ids: Tensor, grids: list[Grid]) -> dict[str, Any]:
    """The images as `forward` of the untouched model takes them."""
    return dict(_padded(pixel_values, grids))


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The plain modules: one vision encoder of any view, or one for each size, its resampled positions baked in.

    Args:
        model: Loaded.
        sizes: (width, height) in pixels, multiples of a token's; None for any view.
    """
    from edgekit.families._modules import decoder, sizes_of

    inner: Any = model.model
    text_config = model.config.text_config
    names = ["" if len(sizes) == 1 else f"{width}x{height}" for width, height in sizes] if sizes else []
    shape = sizes_of(model, text_config)
    keys = (shape["kv_heads"], None, shape["head_dim"])
    state = (text_config.hidden_size, text_config.conv_L_cache)
    states: list[State] = []
    for layer, kind in enumerate(text_config.layer_types):
        one = [convolution(layer, state)]
        states += one if kind == "conv" else [State(layer, part, keys) for part in ("key", "value")]
    text, text_decoder = decoder(inner.language_model, model.lm_head, states=states)
    edge = inner.vision_tower.embeddings.position_embedding_size
    params = {"table_edge": edge, "downsample_factor": model.config.downsample_factor}
    of_sizes = {name: one_size(model, size) for name, size in zip(names, sizes or (), strict=True)}
    return Split(
        vision=of_sizes or {"": any_view(model)},
        token_embedding=model.get_input_embeddings(),
        text=text,
        text_decoder=text_decoder,
        **{
            **shape,
            "layers": len(text_config.layer_types) - text_config.layer_types.count("conv"),
            "states": tuple(states),
        },
        views=None if sizes else partial(views, params=params),
        view_tokens=None if sizes else view_tokens,
    )


FAMILY = Family(
    name="lfm2_vl",
    model_types=("lfm2_vl",),
    prefixes=TOWER_AND_PROJECTOR,
    image_token=IMAGE,
    read_preprocessing=read_preprocessing,
    preprocess=preprocess,
    expand=expand,
    positions=plain_positions,
    encode_images=encode_images,
    forward_inputs=forward_inputs,
    fix_sizes=fix_sizes,
    split=split,
    images=images,
    views=views,
    mmproj=mmproj,
    contradictions=contradictions,
    adds_special_tokens=False,  # its processor leaves the beginning to the template
)
