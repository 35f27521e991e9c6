"""Resizing as one recorded Pillow did it, whichever is installed.

Pillow resizes in two passes, each rounded to whole numbers, and the order of the two shows in the pixels. Up to 12 the
columns always go first; since 13 (python-pillow/Pillow#9549) the rows do where a picture loses much more height than
width. So the order is part of what a model was fed by: a bundle records it, and it is followed here by two
resizes of one axis each, which give what Pillow's own two passes give.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

ORDER = "resize_order"
"""The parameter's name."""
COLUMNS, TALL_ROWS = "columns_first", "tall_rows_first"
ORDERS = (COLUMNS, TALL_ROWS)
Size = tuple[int, int]


def rows_first(size: Size, wanted: Size, order: str) -> bool:
    """Whether rows are resized before columns.

    Args:
        size, wanted: (width, height) before and after, pixels.
        order: One of ORDERS.
    """
    (width, height), (new_width, new_height) = size, wanted
    lost = height - new_height
    return order == TALL_ROWS and lost > 0 and lost > 2 * (width - new_width)


def resize(image: Image, size: Size, params: Mapping[str, Any]) -> Image:
    """The picture in another size.

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

    noise = np.random.default_rng(0).integers(0, 256, (200, 20, 3), dtype=np.uint8)
    image, size = pillow.fromarray(noise), (12, 12)
    own = image.resize(size, pillow.Resampling.LANCZOS).tobytes()
    params = {"resample": int(pillow.Resampling.LANCZOS)}
    same = [order for order in ORDERS if resize(image, size, {**params, ORDER: order}).tobytes() == own]
    if len(same) != 1:
        raise AssertionError("this Pillow resizes in an order of its own")
    return same[0]
