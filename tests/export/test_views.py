"""Encoders that take views of any size, on each target that holds them: LFM2-VL's tiles and thumbnail."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint
from PIL import Image

from edgekit import api
from edgekit.apps import PLATFORMS
from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import load_model
from edgekit.data import ImageRef, Sample
from edgekit.errors import DataError, UnsupportedError
from edgekit.export import TARGETS
from edgekit.families import ANY_GRID, Pixels, Size, lfm2_vl
from edgekit.families._lfm2_tower import resampling, weighted_blocks
from edgekit.families.merging import by_bucket
from edgekit.formats.inspecting import inspect
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor
from edgekit.report.tolerances import judge, random_tolerances_of
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import answer, follow
from edgekit.stats import largest_gap

Maker = Callable[..., Path]
HOLDING = ["onnx", *(pytest.param(target, marks=pytest.mark.slow) for target in ("executorch", "coreml", "gguf"))]
# The tiny folder: tokens of 32 x 32 pixels, 4 to 16 a view; up to four tiles of 64 x 64 above 32 tokens' worth.
IMAGES: dict[str, list[Size]] = {
    "tiny": [(9, 7)],
    "square": [(64, 64)],
    "wide": [(480, 160)],
    "tall": [(90, 400)],
    "larger than all tiles": [(1100, 900)],
    "two, one of them in tiles": [(37, 200), (300, 220)],
}
GRIDS = {
    "tiny": [(1, 1, 4, 6)],
    "square": [(1, 1, 4, 4)],
    "wide": [(1, 3, 4, 12)],
    "tall": [(4, 1, 16, 2)],
    "larger than all tiles": [(2, 2, 6, 8)],
    "two, one of them in tiles": [(1, 1, 12, 2), (2, 2, 6, 8)],
}
GAP = {"gguf": 2e-2}
"""Of a logit, where it is not 1e-4: llama.cpp sums in float16 here and there."""


def pictures(sizes: list[Size]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def needed(target: str) -> None:
    if any(find_spec(package) is None for package in TARGETS.load(target).packages):
        pytest.skip(f"{target} is not installed: pip install 'edgekit[{TARGETS.load(target).extra}]'")


@pytest.fixture(scope="module", params=HOLDING)
def bundle(request: pytest.FixtureRequest, tiny_of: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    needed(request.param)
    out = tmp_path_factory.mktemp(request.param) / "b"
    return export_checkpoint(tiny_of("lfm2_vl"), request.param, "fp32", out, prompts=4).folder


def test_every_shape_of_image_is_seen_as_by_the_model(bundle: Path, tiny_of: Maker) -> None:
    """Ids, pixels, features and logits of images that are one view, and of images in tiles with a view of the whole."""
    import torch

    model: Any = load_model(tiny_of("lfm2_vl"))
    theirs: Any = RUNTIMES.load("pytorch").open_session(tiny_of("lfm2_vl"), 1)
    ours: Any = RUNTIMES.load(runtime_for(bundle)).open_session(bundle, 1)
    atol = GAP.get(ours.manifest.target, 1e-4)
    for name, sizes in IMAGES.items():
        messages, images = question("what is there?", len(sizes)), pictures(sizes)
        prepared, official = ours.prepare(messages, images), theirs.prepare(messages, images)
        np.testing.assert_array_equal(prepared.ids, official.ids, err_msg=name)
        assert prepared.grids == GRIDS[name]
        with torch.no_grad():
            given = {key: official.vision[key] for key in ("pixel_values", "spatial_shapes", "pixel_attention_mask")}
            wanted = torch.cat(list(model.model.get_image_features(**given, return_dict=True).pooler_output)).numpy()
        np.testing.assert_allclose(ours.encode_image(prepared).embeds, wanted, atol=atol, rtol=0, err_msg=name)
        said = answer(theirs, messages, images, max_new_tokens=4).token_ids
        pairs = zip(follow(theirs, messages, images, said), follow(ours, messages, images, said), strict=True)
        assert max(largest_gap(a, b) for a, b in pairs) < atol, name
    ours.close()


def test_what_the_manifest_says(bundle: Path) -> None:
    manifest = Bundle.load(bundle).manifest
    (bucket,) = manifest.buckets.values()
    assert (bucket.component, bucket.grid, bucket.tokens) == ("vision_encoder", ANY_GRID, 16)
    assert "sizes" not in manifest.preprocessing and manifest.preprocessing["table_edge"] == 4
    (pixels,) = manifest.components["vision_encoder"].inputs
    assert isinstance(pixels.shape[0], str) and pixels.shape[1:] == (4, 3 * 16 * 16 + 2 * 4)
    assert manifest.parity is not None and manifest.parity["passed"]


# Each precision whose grid is found by running the encoder, or by a compiler, on views of several sizes.
FEWER_BITS = [("executorch", "int8-static"), ("onnx", "int8-static"), ("coreml", "int4"), ("onnx", "int4")]


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize(("target", "precision"), FEWER_BITS)
def test_fewer_bits(target: str, precision: str, tiny_of: Maker, tmp_path: Path) -> None:
    needed(target)
    asked = []
    for number, sizes in enumerate(IMAGES.values()):
        files = [io.BytesIO() for _ in sizes]
        for file, image in zip(files, pictures(sizes), strict=True):
            image.save(file, "PNG")
        images = tuple(ImageRef(data=file.getvalue()) for file in files)
        asked.append(Sample(str(number), images, question("what is there?", len(sizes))))
    shown = asked if TARGETS.load(target).needs_calibration(precision) else []
    made = export_checkpoint(
        tiny_of("lfm2_vl"), target, precision, tmp_path / "b", samples=asked, calibration=shown, prompts=len(asked)
    )
    parity = made.manifest.parity
    assert parity is not None and parity["samples"] == len(asked)
    assert all(check["held"] for check in judge(parity, random_tolerances_of(precision, target)).values()), parity


def test_an_image_that_is_a_line(bundle: Path) -> None:
    """Of one token's breadth and hundreds of lengths it would be more than a view holds; it is refused by name."""
    session: Any = RUNTIMES.load(runtime_for(bundle)).open_session(bundle, 1)
    with pytest.raises(DataError, match=r"seen as 33 tokens at once, and this bundle's vision encoder takes 16"):
        answer(session, question("?"), pictures([(550, 8)]), max_new_tokens=1)
    session.close()


def test_looking_into_it_counts_the_largest_view(bundle: Path, tiny_of: Maker) -> None:
    """The same work for an image as PyTorch counts, of a view of 16 tokens."""
    if Bundle.load(bundle).manifest.target == "coreml":
        pytest.skip("free sizes are not counted in a Core ML program, and its inspection says so")
    ours, theirs = (inspect(folder, tokens=50).components["vision_encoder"] for folder in (bundle, tiny_of("lfm2_vl")))
    assert ours.flops == pytest.approx(theirs.flops, rel=0.1)


@pytest.mark.parametrize("platform", ["android", "ios", "web"])
def test_an_app_refuses_it_by_name(platform: str, bundle: Path, tmp_path: Path) -> None:
    """Its library prepares images of chosen sizes, and would show the model another image."""
    if Bundle.load(bundle).manifest.target not in PLATFORMS.load(platform).targets:
        pytest.skip("a target that this platform does not run")
    with pytest.raises(UnsupportedError, match=r"cuts no tiles of family 'lfm2_vl'") as caught:
        api.app(str(bundle), platforms=platform, out=tmp_path / "app")
    assert "--image-size 512x512" in str(caught.value) and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- what goes into it


def test_positions_are_resampled_as_torch_does_it() -> None:
    """To fewer, as many and more, down to one."""
    import torch

    table = torch.randn(1, 3, 16, 16, generator=torch.manual_seed(0))
    for rows, cols in [(16, 16), (2, 34), (32, 32), (1, 1), (44, 6), (13, 200)]:
        wanted = torch.nn.functional.interpolate(table, (rows, cols), mode="bilinear", antialias=True)[0].numpy()
        got = np.einsum("ri,cj,dij->drc", resampling(rows, 16), resampling(cols, 16), table[0].numpy())
        np.testing.assert_allclose(got, wanted, atol=5e-6, rtol=0)


def test_blocks_by_hand() -> None:
    """2 x 4 patches of one number, in blocks of 2 x 2; a table of one position has the weight 1 everywhere."""
    view = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
    assert weighted_blocks(view, 1, 2)[..., 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert (weighted_blocks(view, 1, 2)[..., 1:] == 1).all()
    # Two rows to a table of two are its own rows; four columns of it lie a quarter from its middles.
    rows, cols = weighted_blocks(view, 2, 2)[0, :, 1:3], weighted_blocks(view, 2, 2)[0, :, 3:]
    assert rows.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert cols.tolist() == [[1, 0], [0.75, 0.25]] * 2


def test_the_untouched_model_is_given_tiles_first() -> None:
    """By hand: four tiles of 4 x 4 patches, the whole view of them, then an image of one view; each filled up."""
    import torch

    values = torch.arange(4 * 16 + 6 * 8 + 4 * 6, dtype=torch.float32)[:, None]
    given = lfm2_vl._padded(values, [(2, 2, 6, 8), (1, 1, 4, 6)])
    assert given["spatial_shapes"].tolist() == [[4, 4]] * 4 + [[6, 8], [4, 6]]
    assert given["pixel_attention_mask"].sum(1).tolist() == [16] * 4 + [48, 24]
    assert given["pixel_values"][:, 0, 0].tolist() == [0, 16, 32, 48, 64, 112]


def test_views_go_one_by_one() -> None:
    pixels = Pixels(np.zeros((8 * 16 + 6 * 8, 3), np.float32), [(2, 4, 6, 8)])
    params = {"table_edge": 4, "downsample_factor": 2}
    runs = list(by_bucket({"": ANY_GRID}, pixels, lambda given: lfm2_vl.views(given, params)))
    assert [values.shape for _, values in runs] == [(4, 4, 3 + 8)] * 8 + [(12, 4, 3 + 8)]


@pytest.mark.slow
def test_odd_tiles_and_no_view_of_the_whole(tiny_of: Maker, tmp_path: Path) -> None:
    """Tiles of 3 x 3 tokens, three at least, and no thumbnail; exported, verified against the processor, and run."""
    needed("onnx")
    copy = tmp_path / "model"
    shutil.copytree(tiny_of("lfm2_vl"), copy)
    path = copy / "preprocessor_config.json"
    odd = {"tile_size": 96, "min_tiles": 3, "max_tiles": 6, "use_thumbnail": False, "max_pixels_tolerance": 1.0}
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd}))
    folder = export_checkpoint(copy, "onnx", "fp32", tmp_path / "b", prompts=2).folder
    theirs = RUNTIMES.load("pytorch").open_session(copy, 1)
    ours: Any = RUNTIMES.load("onnxruntime").open_session(folder, 1)
    messages, images = question("what?", 2), pictures([(600, 400), (100, 60)])
    assert ours.prepare(messages, images).grids == [(2, 3, 0, 0), (1, 1, 4, 6)]
    wanted = answer(theirs, messages, images, max_new_tokens=4).token_ids
    assert answer(ours, messages, images, max_new_tokens=4).token_ids == wanted
    ours.close()


def test_a_checkpoint_that_splits_nothing(tiny_of: Maker) -> None:
    """do_image_splitting false: one view of any size, however large the image."""
    params = {**Processor.load(tiny_of("lfm2_vl")).params, "min_tiles": 1, "max_tiles": 1}
    assert lfm2_vl.preprocess(pictures([(1100, 900)]), params).grids == [(1, 1, 6, 8)]
