"""The web library's pixels, prompts' images and positions beside edgekit's own, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from web_library import array_of, ask, base64_of, image_of

from edgekit.families import FAMILIES, gemma3, llava_onevision
from edgekit.inputs.images import as_rgb
from edgekit.inputs.resizing import ORDERS, installed_order, rows_first

ORDER = installed_order()
SIZES = [
    ((7, 5), (7, 9)),
    ((64, 48), (31, 17)),
    ((30, 200), (64, 64)),
    ((1, 1), (5, 3)),
    ((3, 200), (64, 8)),
    ((120, 90), (121, 90)),
]
IMAGES = [(64, 64), (90, 37), (37, 150), (1, 1), (200, 9), (130, 128), (61, 60)]
HALF: dict[str, Any] = {"rescale_factor": 1 / 255, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
CLIP: dict[str, Any] = {
    "rescale_factor": 1 / 255,
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
PARAMS: dict[str, list[dict[str, Any]]] = {
    "idefics3": [
        {**HALF, "resample": 1, "do_resize": True, "longest_edge": 64, "tile": 64, "split": False, "image_seq_len": 4},
        {**HALF, "resample": 1, "do_resize": True, "longest_edge": 192, "tile": 64, "split": True, "image_seq_len": 4},
        {
            **CLIP,
            "resample": 3,
            "do_resize": True,
            "longest_edge": 90,
            "resized": [90, 70],
            "tile": 32,
            "split": True,
            "image_seq_len": 2,
        },
        {**HALF, "resample": 2, "do_resize": False, "longest_edge": 64, "tile": 48, "split": True, "image_seq_len": 1},
    ],
    "internvl": [
        {
            **CLIP,
            "resample": 3,
            "do_resize": True,
            "tile": [56, 56],
            "min_tiles": 1,
            "max_tiles": 6,
            "image_seq_len": 4,
        },
        {
            **CLIP,
            "resample": 2,
            "do_resize": True,
            "tile": [40, 30],
            "min_tiles": 2,
            "max_tiles": 12,
            "image_seq_len": 4,
        },
        {
            **CLIP,
            "resample": 3,
            "do_resize": True,
            "tile": [56, 56],
            "min_tiles": 1,
            "max_tiles": 1,
            "image_seq_len": 4,
        },
    ],
    "gemma3": [{**HALF, "resample": 2, "do_resize": True, "tile": [56, 40], "image_seq_len": 4, "image_token_id": 7}],
    "qwen2_5_vl": [
        {
            **CLIP,
            "resample": 3,
            "do_resize": True,
            "min_pixels": 784,
            "max_pixels": 12544,
            "patch": 14,
            "temporal_patch": 2,
            "merge": 2,
            "image_token_id": 6,
            "sizes": [[56, 56], [84, 56], [56, 112]],
        },
    ],
    "lfm2_vl": [
        {
            **HALF,
            "resample": 2,
            "downsample_factor": 2,
            "min_tiles": 2,
            "max_tiles": 4,
            "min_image_tokens": 4,
            "max_image_tokens": 16,
            "encoder_patch_size": 16,
            "tile_size": 64,
            "use_thumbnail": True,
            "max_pixels_tolerance": 2.0,
            "sizes": [[64, 64], [96, 32]],
        },
    ],
    "llava_onevision": [
        {
            **CLIP,
            "resample": 3,
            "tile": 42,
            "canvases": [[42 * r, 42 * c] for r in range(1, 4) for c in range(1, 4)],
            "per_side": 3,
            "max_tiles": most,
        }
        for most in (1, 2, 9)
    ],
}
PARAMS["qwen3_vl"] = [{**params, "patch": 16, "sizes": [[64, 64], [96, 64]]} for params in PARAMS["qwen2_5_vl"]]
PARAMS["qwen3_5"] = PARAMS["qwen3_vl"][:1]


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise over a gradient, so that filters overshoot and the order of passes shows."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("filter", range(6))
def test_resizing_is_pillows(filter: int, tmp_path: Path) -> None:
    calls, wanted = [], []
    for number, ((width, height), size) in enumerate(SIZES):
        pixels = noise(width, height, number)
        calls.append(
            {"call": "resize", "width": size[0], "height": size[1], "filter": filter, "order": ORDER, **_given(pixels)}
        )
        wanted.append(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling(filter))))
    for (ours, theirs), ((width, height), size) in zip(
        zip(ask(calls, tmp_path), wanted, strict=True), SIZES, strict=True
    ):
        np.testing.assert_array_equal(
            array_of(ours, np.uint8).reshape(theirs.shape), theirs, str((width, height, size))
        )


def _given(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    return {"picture": image_of(pixels)}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_passes_is_the_recorded_one(order: str, tmp_path: Path) -> None:
    """By Pillow one axis at a time; the newer rule is rows first where h - th > 0 and h - th > 2 (w - tw)."""
    cases = [
        ((30, 200), (20, 100), {"tall_rows_first"}),
        ((30, 200), (20, 180), set()),
        ((30, 50), (40, 60), set()),
        ((60, 61), (61, 60), {"tall_rows_first"}),
        ((30, 120), (20, 99), {"tall_rows_first"}),
        ((30, 120), (20, 100), set()),
        ((3, 301), (9, 200), {"tall_rows_first", "narrow_rows_first"}),
        ((3, 300), (9, 200), {"tall_rows_first"}),
        ((3, 301), (9, 302), set()),
    ]
    calls, wanted = [], []
    for (width, height), size, rows_go_first in cases:
        pixels = noise(width, height)
        calls.append(
            {"call": "resize", "width": size[0], "height": size[1], "filter": 1, "order": order, **_given(pixels)}
        )
        image = Image.fromarray(pixels)
        assert rows_first((width, height), size, order) == (order in rows_go_first)
        first = (width, size[1]) if order in rows_go_first else (size[0], height)
        wanted.append(np.asarray(image.resize(first, Image.Resampling.LANCZOS).resize(size, Image.Resampling.LANCZOS)))
    for ours, theirs, case in zip(ask(calls, tmp_path), wanted, cases, strict=True):
        np.testing.assert_array_equal(array_of(ours, np.uint8).reshape(theirs.shape), theirs, str(case))


def test_what_is_transparent_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (64, 256, 4), dtype=np.uint8)
    rgba[..., 3] = np.arange(256)
    (ours,) = ask([{"call": "white", "rgba": base64_of(rgba), "width": 256, "height": 64}], tmp_path)
    np.testing.assert_array_equal(
        array_of(ours, np.uint8).reshape(64, 256, 3), np.asarray(as_rgb(Image.fromarray(rgba, "RGBA")))
    )


@pytest.mark.parametrize("family", PARAMS)
def test_pixels_and_places_are_edgekits(family: str, tmp_path: Path) -> None:
    module = FAMILIES.load(family)
    calls, wanted, fillings = [], [], []
    for params in ({**params, "resize_order": ORDER} for params in PARAMS[family]):
        for number, (width, height) in enumerate(IMAGES):
            pixels = noise(width, height, number)
            calls.append({"call": "preprocess", "family": family, "params": params, **_given(pixels)})
            wanted.append(module.preprocess([Image.fromarray(pixels)], params))
            grid = wanted[-1].grids[0]
            calls.append({"call": "filling", "family": family, "params": params, "grid": list(grid)})
            place = gemma3.START if family == "gemma3" else module.image_token
            fillings.append(module.expand(f"a{place}b", [grid], params)[1:-1])
    answers = ask(calls, tmp_path)
    for ours, theirs in zip(answers[::2], wanted, strict=True):
        assert (tuple(ours["shape"]), tuple(ours["grid"])) == (theirs.values.shape, tuple(theirs.grids[0]))
        np.testing.assert_array_equal(array_of(ours["values"], np.float32).reshape(theirs.values.shape), theirs.values)
    assert answers[1::2] == fillings
    assert len({tuple(pixels.grids[0]) for pixels in wanted}) > (family in ("idefics3", "internvl", "llava_onevision"))


@pytest.mark.parametrize("family", PARAMS)
def test_positions_are_edgekits(family: str, tmp_path: Path) -> None:
    module, params = FAMILIES.load(family), PARAMS[family][0]
    token = params.get("image_token_id", 6)
    ids = [1, 2, *[token] * 4, 3, *[token] * 6, 4, 5]
    grids = [(1, 4, 4), (1, 4, 6)]
    (ours,) = ask([{"call": "positions", "family": family, "ids": ids, "grids": grids, "params": params}], tmp_path)
    theirs = module.positions(ids, grids, params)
    assert ours == (theirs if theirs.ndim == 2 else theirs[None]).tolist()


def test_packing_is_edgekits(tmp_path: Path) -> None:
    module, rng = llava_onevision, np.random.default_rng(0)
    calls, wanted = [], []
    for params in PARAMS["llava_onevision"]:
        grids = [(height, width) for width, height in [(64, 64), (90, 37), (37, 150), (200, 9), (41, 200)]]
        tiles = sum(1 + h // 42 * (w // 42) for h, w in (module._canvas(grid, params["canvases"]) for grid in grids))
        features = rng.normal(size=(tiles, 10, 8)).astype(np.float32)
        calls.append(
            {
                "call": "pack",
                "family": "llava_onevision",
                "features": base64_of(features),
                "width": 8,
                "grids": grids,
                "params": params,
            }
        )
        wanted.append(module.pack(features, grids, params))
    for ours, theirs in zip(ask(calls, tmp_path), wanted, strict=True):
        np.testing.assert_array_equal(array_of(ours, np.float32).reshape(theirs.shape), theirs)


def test_a_prompt_with_another_number_of_places_is_refused(tmp_path: Path) -> None:
    fill = {"call": "fill", "text": "a<image>b<image>c", "place": "<image>"}
    right, wrong, none = ask(
        [
            {**fill, "fillings": ["1", "$&"]},
            {**fill, "fillings": ["1"]},
            {**fill, "family": "x", "call": "filling", "grid": [1], "params": {}},
        ],
        tmp_path,
    )
    assert right == "a1b$&c"
    assert wrong["error"] == "EdgekitError" and "one image part for each of its 1 images" in wrong["message"]
    assert "No app library speaks for" in none["message"]


def test_a_large_image_at_random_sizes(tmp_path: Path) -> None:
    """Sizes nobody chose: coefficients of long filters, rounded to 22 bits."""
    draw, calls, wanted = random.Random(0), [], []
    pixels = noise(611, 403)
    for _ in range(12):
        size = (draw.randrange(1, 700), draw.randrange(1, 500))
        calls.append(
            {
                "call": "resize",
                "width": size[0],
                "height": size[1],
                "filter": draw.choice([1, 2, 3]),
                "order": ORDER,
                **_given(pixels),
            }
        )
        wanted.append(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling(calls[-1]["filter"]))))
    for ours, theirs in zip(ask(calls, tmp_path), wanted, strict=True):
        np.testing.assert_array_equal(array_of(ours, np.uint8).reshape(theirs.shape), theirs)
