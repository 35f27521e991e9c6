"""Images are resized in the recorded order of passes, bit for bit as the Pillow did it that had that order."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgekit.inputs.resizing import COLUMNS, NARROW_ROWS, ORDER, ORDERS, TALL_ROWS, installed_order, resize, rows_first

FILTERS = (Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("resample", FILTERS)
def test_two_passes_are_pillows_own(resample: Image.Resampling) -> None:
    """Of the Pillow that is installed; benchmarks of others are in docs/apps.md."""
    params = {"resample": int(resample), ORDER: installed_order()}
    rng = np.random.default_rng(int(resample))
    for seed in range(40):
        width, height, new_width, new_height = (int(edge) for edge in rng.integers(1, 130, 4))
        image, size = noise(width, height, seed), (new_width, new_height)
        assert resize(image, size, params).tobytes() == image.resize(size, resample).tobytes(), (image.size, size)


def test_which_axis_goes_first_by_hand() -> None:
    assert not rows_first((20, 300), (10, 10), COLUMNS)
    assert not rows_first((3, 300), (10, 10), NARROW_ROWS) and rows_first((3, 301), (10, 10), NARROW_ROWS)
    assert not rows_first((3, 301), (10, 301), NARROW_ROWS)  # no height is lost
    assert rows_first((20, 300), (10, 10), TALL_ROWS)
    assert not rows_first((20, 30), (10, 10), TALL_ROWS) and rows_first((20, 31), (10, 10), TALL_ROWS)  # 20 is 2 x 10
    assert not rows_first((20, 30), (40, 30), TALL_ROWS)  # no height is lost
    assert rows_first((20, 30), (40, 29), TALL_ROWS)


def test_the_orders_part_on_a_tall_image_alone() -> None:
    tall, wide = noise(20, 200), noise(200, 20)
    made = {
        (name, order): resize(image, (12, 12), {"resample": 1, ORDER: order}).tobytes()
        for name, image in (("tall", tall), ("wide", wide))
        for order in ORDERS
    }
    assert made["tall", COLUMNS] != made["tall", TALL_ROWS] and made["wide", COLUMNS] == made["wide", TALL_ROWS]


def test_without_a_recorded_order_the_installed_pillow_resizes() -> None:
    image = noise(20, 200)
    assert resize(image, (12, 12), {"resample": 1}).tobytes() == image.resize((12, 12), FILTERS[0]).tobytes()


def test_nearest_has_no_passes() -> None:
    image = noise(33, 90)
    for order in ORDERS:
        made = resize(image, (21, 14), {"resample": 0, ORDER: order})
        assert made.tobytes() == image.resize((21, 14), Image.Resampling.NEAREST).tobytes()
