"""Image sizes: of exports for some sizes, and of families that take images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.families import Size, Split

if TYPE_CHECKING:
    from PIL.Image import Image


def read_size(text: str) -> Size:
    """(width, height) from "448x336".

    Raises:
        EdgekitError: it is no size.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and height.isascii() and width.isdigit() and height.isdigit()):
        raise EdgekitError(f"{text!r} is no image size.", fix="Write width x height in pixels, such as 448x336.")
    return int(width), int(height)


def prefer_size(image_size: Size, sizes: Sequence[Size]) -> Size:
    """The size an image is resized to: the nearest in shape, then in area, by their logarithms; then the first.

    Args:
        image_size: (width, height) of the image.
        sizes: At least one.
    """

    def gap(size: Size) -> tuple[float, float]:
        shape = math.log(size[0] / size[1]) - math.log(image_size[0] / image_size[1])
        area = math.log(size[0] * size[1]) - math.log(image_size[0] * image_size[1])
        return round(abs(shape), 6), round(abs(area), 6)  # or the last bit of a logarithm would choose

    return min(sizes, key=gap)


def fit_image(image: Image, params: dict[str, Any]) -> Image:
    """The image as an export for some sizes takes it; itself where any size goes.

    It is what a reference must be shown, so that both see the same pixels: a second time it changes nothing.

    Args:
        image: Any mode and size.
        params: `sizes` in them are an export's.
    """
    if not params.get("sizes"):
        return image
    from edgekit.inputs.images import as_rgb
    from edgekit.inputs.resizing import resize

    sizes = [(width, height) for width, height in params["sizes"]]
    return resize(as_rgb(image), prefer_size(image.size, sizes), params)


def with_view_tokens(split: Split, params: dict[str, Any]) -> Split:
    """A split whose encoder of any view, where it has such a one, says how many tokens the largest view has.

    Args:
        split: As a family made it.
        params: Of the image processor.
    """
    if split.view_tokens is None:
        return split
    tokens = split.view_tokens(params)
    return replace(split, vision={name: replace(part, tokens=tokens) for name, part in split.vision.items()})


def tiles_only(params: dict[str, Any], sizes: Sequence[Size] | None) -> dict[str, Any]:
    """`fix_sizes` of a family that cuts any image into tiles of one size.

    Raises:
        EdgekitError: sizes were chosen.
    """
    if sizes:
        raise EdgekitError(
            f"This family has no image sizes to choose, so {sizes[0][0]}x{sizes[0][1]} cannot be one.",
            why="It cuts an image of any size into tiles of one size, and takes any number of them.",
            fix="Leave --image-size out.",
        )
    return params
