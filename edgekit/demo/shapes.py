"""Freshly drawn images in the manner of easy-VQA: one plain shape on a pale ground.

They warm up the vision tower of the demo models (specs: trained end to end from scratch, shapes stay at chance).
No image of easy-VQA is read here, so none of its test split can leak in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SHAPES = ("circle", "rectangle", "triangle")
COLORS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}


def draw(seed: int, size: int = 64) -> tuple[Image.Image, int, int]:
    """One image and its labels, the same for the same seed.

    Args:
        seed: Chooses shape, colour, place, size and ground.
        size: Edge in pixels.

    Returns:
        The RGB image, the index of its shape in `SHAPES`, the index of its colour in `COLORS`.
    """
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    shape, color = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLORS)))
    ground = tuple(int(v) for v in rng.integers(228, 256, 3))
    image = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(image)
    fill = list(COLORS.values())[color]
    width, height = (int(v) for v in rng.integers(size // 8, size // 2, 2))
    if SHAPES[shape] == "circle":
        height = width
    elif SHAPES[shape] == "triangle":
        height = max(2, round(width * 0.866))
    left, top = int(rng.integers(0, size - width)), int(rng.integers(0, size - height))
    box = (left, top, left + width, top + height)
    if SHAPES[shape] == "circle":
        pen.ellipse(box, fill=fill)
    elif SHAPES[shape] == "rectangle":
        pen.rectangle(box, fill=fill)
    else:
        pen.polygon([(left, top + height), (left + width, top + height), (left + width // 2, top)], fill=fill)
    return image, shape, color
