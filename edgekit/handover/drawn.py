"""Images that are always the same, for the golden vectors: drawn by NumPy alone, so that no library's pen shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION, QUARTER = 0x0112, 6
"""The EXIF tag, and its value for an image that is turned clockwise to be seen upright."""


@cache
def drawn_images() -> dict[str, tuple[str, bytes]]:
    """The suffix and the bytes of each image's file, by name."""
    plain = {
        "square": (64, 64), "odd": (101, 67), "wide": (203, 31), "tall": (40, 233), "tiny": (3, 5), "large": (512, 384),
    }  # fmt: skip
    found = {name: (".png", _png(_rgb(*size, seed))) for seed, (name, size) in enumerate(plain.items())}
    found["noise"] = (".png", _png(np.random.default_rng(99).integers(0, 256, (49, 57, 3), dtype=np.uint8)))
    found["grey"] = (".png", _png(_rgb(61, 45, 7)[..., 1]))
    found["alpha"] = (".png", _png(np.concatenate([_rgb(48, 72, 8), _alpha(48, 72)], axis=2)))
    found["exif"] = (".jpg", _turned_jpeg())
    return found


def _rgb(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """A slope of colour with discs and boxes on it, and a corner of noise: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    slope = np.stack([255 * across // max(width - 1, 1), 255 * down // max(height - 1, 1)], axis=2)
    pixels = np.concatenate([slope // 32 * 32, np.full((height, width, 1), 96)], axis=2).astype(np.uint8)
    shapes: tuple[Callable[[int, int, int], NDArray[np.bool_]], ...] = (
        lambda x, y, r: (across - x) ** 2 + (down - y) ** 2 <= r * r,
        lambda x, y, r: (abs(across - x) <= r) & (abs(down - y) <= r // 2),
    )
    for number in range(4):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        inside = shapes[number % 2](x, y, max(1, min(width, height) // 4))
        pixels[inside] = rng.integers(0, 256, 3, dtype=np.uint8)
    rows, cols = height // 4, width // 6
    pixels[:rows, :cols] = rng.integers(0, 256, (rows, cols, 3), dtype=np.uint8)
    return pixels


def _alpha(width: int, height: int) -> NDArray[np.uint8]:
    """Every opacity from none to full: uint8 (height, width, 1)."""
    values = np.arange(width * height) * 255 // (width * height - 1)
    found: NDArray[np.uint8] = values.astype(np.uint8).reshape(height, width, 1)
    return found


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image as pillow

    return _saved(pillow.fromarray(pixels), "PNG", optimize=True)


def _turned_jpeg() -> bytes:
    """A JPEG that lies on its side, by its tag; blocks of one grey each, which every decoder reads alike."""
    from PIL import Image as pillow

    greys = np.random.default_rng(5).integers(0, 256, (8, 12), dtype=np.uint8)
    blocks = np.repeat(np.repeat(greys, 8, axis=0), 8, axis=1)
    tags = pillow.Exif()
    tags[ORIENTATION] = QUARTER
    image = pillow.fromarray(np.repeat(blocks[..., None], 3, axis=2))
    return _saved(image, "JPEG", quality=100, subsampling=0, exif=tags)


def _saved(image: Image, form: str, **settings: object) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()
