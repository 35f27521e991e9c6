"""What all families' preprocessing shares: an image as RGB, and pixels as normalised numbers.

Both follow transformers' pillow image processors to the last bit, which is tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_TILES = 4096
"""Of one image."""


def as_rgb(image: Image) -> Image:
    """The image in mode RGB, what is transparent laid over white, as the Hugging Face processors do.

    Args:
        image: Any mode; an image that turned by EXIF is not turned here (the reference does not either).
    """
    from PIL import Image as pillow

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return pillow.alpha_composite(pillow.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")


def upright(image: Image) -> Image:
    """The image of a file as a person sees it: turned by its EXIF tag, 16-bit grey brought to 8 bits.

    transformers turns an image when it loads a file or an address itself (`load_image`), and never when it is given
    a loaded image. It clips 16-bit grey at 255, so that nearly everything is white; that is not followed here.

    Args:
        image: As `PIL.Image.open` gives it.
    """
    from PIL import Image as pillow
    from PIL import ImageOps

    with suppress(Exception):  # damaged tags, at which anything is raised, say nothing of the pixels
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def cut_tiles(image: Image, tile: tuple[int, int]) -> list[Image]:
    """An image's tiles, row by row.

    Args:
        image: Of whole tiles.
        tile: (width, height) in pixels.
    """
    width, height = tile
    count = -(-image.width // width) * -(-image.height // height)
    if count > MOST_TILES:
        raise DataError(
            f"An image would be cut into {count:,} tiles of {width} x {height}.",
            why=f"No model takes more than {MOST_TILES:,}.",
            fix="Copy the model's own preprocessor_config.json.",
        )
    corners = [(x, y) for y in range(0, image.height, height) for x in range(0, image.width, width)]
    return [image.crop((x, y, x + width, y + height)) for x, y in corners]


def resize_bilinear(image: Image, size: tuple[int, int]) -> Image:
    """The image resized as torch does it (uint8, bilinear, antialiased), for models with no other image processor.

    Pillow's own filter is the same, but torch rounds its weights to 15 bits: in images of noise one value in 65 then
    differs by one. Columns come first, then rows, each rounded to whole numbers.

    Source: ATen's UpSampleKernel.cpp and UpSampleKernelAVXAntialias.h, torch 2.13.

    Args:
        image: Mode RGB.
        size: (width, height) in pixels.
    """
    from PIL import Image as pillow

    pixels = _resize_axis(np.asarray(image).transpose(1, 0, 2), size[0]).transpose(1, 0, 2)
    return pillow.fromarray(np.ascontiguousarray(_resize_axis(pixels, size[1])))


def _resize_axis(pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """uint8 (N, ...) -> (count, ...)."""
    length = len(pixels)
    if length == count:
        return pixels
    scale = length / count
    support = max(scale, 1.0)
    centre = scale * (np.arange(count) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    taps = np.minimum((centre + support + 0.5).astype(np.int64), length) - first
    places = np.arange(taps.max())
    weights = np.maximum(0.0, 1.0 - np.abs((places + first[:, None] - centre[:, None] + 0.5) / support))
    weights[places >= taps[:, None]] = 0.0
    weights /= weights.sum(1, keepdims=True)
    bits = next(bits for bits in range(22) if int(0.5 + weights.max() * (1 << (bits + 1))) >= 1 << 15)
    whole = (weights * (1 << bits) + 0.5).astype(np.int32)
    total = np.full((count, *pixels.shape[1:]), 1 << (bits - 1), dtype=np.int32)
    for tap in places:
        share = whole[:, tap].reshape(-1, *[1] * (pixels.ndim - 1))
        total += share * pixels[np.minimum(first + tap, length - 1)]
    rounded: NDArray[np.uint8] = np.clip(total >> bits, 0, 255).astype(np.uint8)
    return rounded


def from_unit(params: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation for one who starts from pixels in [0, 1], as other programs do.

    Args:
        params: With rescale_factor, mean and std, which start from pixels in [0, 255] times the factor.
    """
    scale = 255 * params["rescale_factor"]
    if math.isclose(scale, 1.0, rel_tol=1e-12):  # the usual: the very numbers of the settings
        return list(params["mean"]), list(params["std"])
    return [value / scale for value in params["mean"]], [value / scale for value in params["std"]]


def denormalise(values: NDArray[np.float32], params: dict[str, Any]) -> NDArray[np.uint8]:
    """What `normalise` was given: float32 (3, H, W) to uint8 (H, W, 3)."""
    mean, std = (np.array(params[key], dtype=np.float64)[:, None, None] for key in ("mean", "std"))
    scaled = (values.astype(np.float64) * std + mean) / params["rescale_factor"]
    return np.ascontiguousarray(scaled.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def normalise(pixels: NDArray[np.uint8], params: dict[str, Any]) -> NDArray[np.float32]:
    """uint8 (H, W, 3) to float32 (3, H, W); rescaled in double precision first, as the reference does."""
    scaled = (pixels.astype(np.float64) * params["rescale_factor"]).astype(np.float32)
    mean, std = (np.array(params[key], dtype=np.float32) for key in ("mean", "std"))
    return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1))
