"""Resizing as one recorded Pillow did it, whichever is installed.

Pillow resizes in two passes, each rounded to whole numbers, and the order of the two shows in the pixels. Columns went
first always up to 12.1; since 12.2 rows do for an image more than a hundred times as high as wide that loses height
(python-pillow/Pillow#9524), and since 13 wherever an image loses much more height than width (#9549). So the order is
part of what a model was fed by: a bundle records it, and it is followed here by two resizes of one axis each, which
give what Pillow's own two passes give.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

ORDER = "resize_order"
"""The parameter's name."""
COLUMNS, NARROW_ROWS, TALL_ROWS = "columns_first", "narrow_rows_first", "tall_rows_first"
ORDERS = (COLUMNS, NARROW_ROWS, TALL_ROWS)
NARROW = 100
"""So many times as high as wide, and more."""
Size = tuple[int, int]


def rows_first(size: Size, wanted: Size, order: str) -> bool:
    """Whether rows are resized before columns.

    Args:
        size, wanted: (width, height) before and after, pixels.
        order: One of ORDERS.
    """
    (width, height), (new_width, new_height) = size, wanted
    lost = height - new_height
    if order == NARROW_ROWS:
        return lost > 0 and height > NARROW * width
    return order == TALL_ROWS and lost > 0 and lost > 2 * (width - new_width)


def resize(image: Image, size: Size, params: Mapping[str, Any]) -> Image:
    """The image in another size.

    Args:
        image: Mode RGB.
        size: (width, height) in pixels.
        params: Of a family: `resample`, Pillow's number of a filter, and `resize_order`; without that the installed
            Pillow's own order is taken, as the Hugging Face processor beside it does.
    """
    from PIL import Image as pillow

    resample = pillow.Resampling(params["resample"])
    order = params.get(ORDER)
    if order is None or resample == pillow.Resampling.NEAREST:  # which has no passes
        return image.resize(size, resample)
    across, down = (size[0], image.height), (image.width, size[1])
    between = down if rows_first(image.size, size, order) else across
    return image.resize(between, resample).resize(size, resample)


@cache
def installed_order() -> str:
    """The order of the Pillow that is installed: what it does, and not what its version says."""
    import numpy as np
    from PIL import Image as pillow

    noise = np.random.default_rng(0).integers(0, 256, (400, 20, 3), dtype=np.uint8)
    images, size = [pillow.fromarray(noise), pillow.fromarray(noise[:, :3])], (12, 12)
    params = {"resample": int(pillow.Resampling.LANCZOS)}

    def made(given: Mapping[str, Any]) -> list[bytes]:
        return [resize(image, size, given).tobytes() for image in images]

    same = [order for order in ORDERS if made({**params, ORDER: order}) == made(params)]
    if len(same) != 1:
        raise AssertionError("this Pillow resizes in an order of its own")
    return same[0]
