"""Core ML weights whose grids are chosen for the inputs of calibration prompts."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint
from numpy.typing import NDArray
from odd_decoders import bundle_folder

from edgekit import api
from edgekit.checkpoint.folder import load_model
from edgekit.errors import EdgekitError
from edgekit.export import coreml
from edgekit.export._grids import BLOCK, Grids, best_palette, best_scales, nearest, rounded
from edgekit.export._moments import FLOOR, Moments, measure
from edgekit.export.bundling import drawn_samples, parity_inputs
from edgekit.export.onnx_precision import calibration_feeds
from edgekit.families import Split, family_of
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor
from edgekit.manifest import TensorSpec

needs_coremltools = pytest.mark.skipif(
    find_spec("coremltools") is None, reason="coremltools is not installed: pip install 'edgekit[coreml]'"
)
Maker = Callable[..., Path]
Array = NDArray[Any]


def opened(checkpoint: Path) -> tuple[Split, Processor]:
    """The modules and the processor of an export with its own image sizes."""
    processor, model = Processor.load(checkpoint).for_sizes(None), load_model(checkpoint)
    config: Any = model.config
    return family_of(config.model_type).split(model, processor.params.get("sizes")), processor


def error(weight: Array, made: Array, importance: Array) -> float:
    """What is to be small: the square errors, each counted by its input."""
    return float((importance * (weight.astype(np.float64) - made.astype(np.float64)) ** 2).sum())


def from_blocks(scales: Array, whole: Array) -> Array:
    return np.repeat(scales.astype(np.float64), BLOCK, axis=1) * whole


def palettised(weight: Array, bits: int, importance: Array | None = None) -> Array:
    palette = best_palette(weight, bits, importance)
    made: Array = palette[nearest(palette, weight)].reshape(weight.shape)
    return made


def drawn(seed: int, outputs: int = 16, inputs: int = 64) -> tuple[Array, Array]:
    """A weight of float16 and an importance over three decades."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((outputs, inputs)).astype(np.float16), 10.0 ** rng.uniform(-2, 1, inputs)


# ----------------------------------------------------------------------------------------------------------- the grids


@needs_coremltools
def test_a_palette_goes_where_the_inputs_are_large() -> None:
    """Two values for 0, 1 and 5: plainly 0.5 and 5; where 0 and 1 count most they get their own."""
    weight = np.array([[0.0, 1.0, 5.0]], np.float16)
    np.testing.assert_array_equal(palettised(weight, 1), [[0.5, 0.5, 5.0]])
    # The other is the mean of 1 and 5, weighed: (100 + 0.05) / 100.01, which float16 has at 1 + 2^-11, rounded to 1.
    np.testing.assert_array_equal(palettised(weight, 1, np.array([100.0, 100.0, 0.01])), [[0.0, 1.0, 1.0]])


@needs_coremltools
def test_a_palette_has_the_column_that_matters() -> None:
    """16 values for 1,024 numbers, 16 of which count: these are in the palette."""
    weight, _ = drawn(0)
    importance = np.full(64, 1e-6)
    importance[5] = 1.0
    np.testing.assert_allclose(palettised(weight, 4, importance)[:, 5], weight[:, 5], atol=2e-3)
    assert np.abs(palettised(weight, 4)[:, 5] - weight[:, 5]).max() > 0.05


@needs_coremltools
def test_equal_importance_is_the_plain_palette_and_few_numbers_are_exact() -> None:
    weight, _ = drawn(1)
    np.testing.assert_allclose(best_palette(weight, 4), best_palette(weight, 4, np.full(64, 3.0)), atol=1e-3)
    few = np.array([[1.0, 2.0, 1.0, 4.0]], np.float16)
    palette = best_palette(few, 4, np.ones(4))
    np.testing.assert_array_equal(palette, [1, 2, 4])
    np.testing.assert_array_equal(nearest(palette, few), [0, 1, 0, 2])
    assert palette.dtype == np.float16 and nearest(palette, few).dtype == np.uint8
    np.testing.assert_array_equal(nearest(np.float16([7]), np.full((2, 2), 7, np.float16)), [0, 0, 0, 0])


@needs_coremltools
@pytest.mark.parametrize("bits", [4, 6])
def test_the_nearest_places_are_those_of_exact_k_means(bits: int) -> None:
    """No palette of so many values has a smaller square error: coremltools' own centroids, before they are rounded."""
    from coremltools._deps import _kmeans1d

    weight, _ = drawn(3)
    found = _kmeans1d.cluster(weight.ravel().tolist(), 1 << bits)
    best = np.array(found.centroids)[np.array(found.clusters)].reshape(weight.shape)
    # Rounding a value to float16 moves it by at most 2^-11 of itself.
    slack = weight.size * (2.0**-11 * float(np.abs(weight).max())) ** 2
    ones = np.ones(weight.shape[1])
    assert error(weight, best, ones) <= error(weight, palettised(weight, bits), ones) + 1e-9
    assert error(weight, palettised(weight, bits), ones) < error(weight, best, ones) + slack


@needs_coremltools
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bits", [4, 6])
def test_a_calibrated_palette_is_never_worse_where_it_counts(seed: int, bits: int) -> None:
    weight, importance = drawn(seed)
    plain, calibrated = (
        error(weight, made, importance) for made in (palettised(weight, bits), palettised(weight, bits, importance))
    )
    assert calibrated < plain


def test_a_block_leaves_an_outlier_that_no_input_meets() -> None:
    """The plain scale, 10/7, would make 1.43 of each 1; the outlier's input is nearly nothing, so the scale is 1."""
    weight = np.tile(np.array([1.0, -1.0], np.float16), 16)[None]
    weight[0, 4] = 10
    importance = np.ones(32)
    importance[4] = 1e-7
    scales = best_scales(weight, importance)
    assert scales.dtype == np.float16 and scales.shape == (1, 1) and scales[0, 0] == 1
    np.testing.assert_array_equal(rounded(weight, scales), np.where(weight == 10, 7, weight))


def test_a_block_has_the_eighth_step_below_zero() -> None:
    weight = np.resize(np.arange(-8, 8), 64)[None].astype(np.float16)
    weight[0, 32:] *= 0.25
    scales = best_scales(weight)
    np.testing.assert_array_equal(scales, [[1, 0.25]])
    np.testing.assert_array_equal(rounded(weight, scales)[0], np.resize(np.arange(-8, 8), 64))


@pytest.mark.parametrize("seed", range(8))
def test_a_calibrated_block_is_never_worse_where_it_counts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, importance = drawn(seed)
    steps = (np.abs(weight.astype(np.float32)).reshape(16, 2, BLOCK).max(-1) / 7).astype(np.float16)
    plain = np.clip(np.rint(weight / np.repeat(steps, BLOCK, axis=1)), -7, 7)
    scales = best_scales(weight, importance)
    whole = rounded(weight, scales)
    worse = error(weight, from_blocks(steps, plain), importance)
    assert error(weight, from_blocks(scales, whole), importance) < worse
    assert np.abs(whole).max() <= 8 and whole.max() <= 7
    # A few rows at a time come to the same.
    monkeypatch.setattr("edgekit.export._grids.AT_ONCE", 200)
    apart = Grids(Moments([(weight, importance)]), threads=3).blocks(weight, calibrated=True)
    np.testing.assert_array_equal(apart[0], best_scales(weight, importance / importance.mean()))
    np.testing.assert_array_equal(apart[1], rounded(weight, apart[0]))


def test_blocks_of_zeros_stay_zeros() -> None:
    weight = np.zeros((2, 64), np.float16)
    scales = best_scales(weight)
    assert np.isfinite(scales).all() and not rounded(weight, scales).any()


class Shown:
    """A progress bar that keeps what it is told."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, float]] = []
        self.done: list[tuple[int, float]] = []

    def add_task(self, description: str, *, total: float, completed: float = 0) -> int:
        self.tasks.append((description, total))
        return len(self.tasks) - 1

    def update(self, task: int, *, completed: float, description: str | None = None) -> None:
        self.done.append((task, completed))


def test_a_weight_that_is_met_again_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its numbers: another copy of them is found, another number is not, nor is what inputs counted differently."""
    searched: list[float] = []

    def search(weight: Array, bits: int, importance: Array | None) -> Array:
        searched.append(float(weight[0, 0]))
        return np.float16([0 if importance is None else 1])

    monkeypatch.setattr("edgekit.export._grids.best_palette", search)
    weight, importance = drawn(4, outputs=32)
    bar = Shown()
    grids = Grids(Moments([(weight, importance)]), bar, threads=1)
    with grids.shown("prefill", 3 * weight.size):
        first = grids.palettes(weight, 4, 16, calibrated=False)
        assert searched == [weight[0, 0], weight[16, 0]] and len(first) == 2
        assert grids.palettes(weight.copy(), 4, 16, calibrated=False) == first and len(searched) == 2
    with grids.shown("decode", weight.size):
        assert grids.palettes(weight, 4, 16, calibrated=True) == [1, 1] and len(searched) == 4
    assert len(grids.palettes(weight, 4, 32, calibrated=False)) == 1 and len(searched) == 5
    assert len(grids.palettes(weight, 6, 16, calibrated=False)) == 2 and len(searched) == 7
    changed = weight.copy()
    changed[31, 63] += 1
    grids.palettes(changed, 4, 16, calibrated=False)
    assert len(searched) == 9
    size = weight.size
    assert bar.tasks == [("prefill", 3 * size), ("decode", size)]
    assert bar.done == [(0, size), (0, 2 * size), (0, 3 * size), (1, size)]


@needs_coremltools
def test_threads_find_the_same() -> None:
    weight, importance = drawn(5, outputs=64, inputs=128)
    known = Moments([(weight, importance)])
    alone, together = Grids(known, threads=1), Grids(known, threads=4)
    for calibrated in (False, True):
        pairs = zip(*(one.palettes(weight, 4, 16, calibrated=calibrated) for one in (alone, together)), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
        for a, b in zip(*(one.blocks(weight, calibrated=calibrated) for one in (alone, together)), strict=True):
            np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------------------------------------- the inputs


def test_layers_are_told_by_their_numbers() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((4, 3)).astype(np.float32) for _ in range(2))
    twin = a.copy()
    known = Moments([(a, np.array([1.0, 2.0, 3.0])), (b, np.array([0.0, 0.0, 4.0])), (twin, np.array([3.0, 2.0, 1.0]))])
    # The layer and its twin add up, to 4, 4, 4; a silent input keeps the least there is. The mean is 1.
    np.testing.assert_allclose(known.of(a.astype(np.float16)), [1, 1, 1])  # type: ignore[arg-type]
    np.testing.assert_allclose(known.of(b), np.array([FLOOR, FLOOR, 1]) * 3 / (1 + 2 * FLOOR))  # type: ignore[arg-type]
    changed = a.copy()
    changed[3, 2] += 0.1
    assert known.of(changed) is None and known.of(a.T.copy()) is None
    np.testing.assert_array_equal(Moments([(a, np.zeros(3))]).of(a), np.ones(3))


def test_what_is_measured(tiny_checkpoint: Path) -> None:
    """The first decoder layer is given its norm of the embeddings, of the image too; the head, last tokens alone."""
    import torch

    split, processor = opened(tiny_checkpoint)
    prompts = parity_inputs(processor, (), stock=2)
    known = measure(split, prompts, {"text": "int4-calibrated"})
    text: Any = split.text
    layer = text.text_model.layers[0]
    # The last token of an answer is nobody's input.
    feeds = [feed["inputs_embeds"][:, :-1] for feed in calibration_feeds(split, prompts)["text_decoder"]]
    with torch.no_grad():
        normed = np.concatenate([layer.input_layernorm(torch.from_numpy(feed))[0].numpy() for feed in feeds])
    wanted = (normed.astype(np.float64) ** 2).mean(0)
    found = known.of(layer.self_attn.q_proj.weight.detach().numpy())
    np.testing.assert_allclose(found, wanted / wanted.mean(), rtol=1e-4)  # type: ignore[arg-type]
    answers = sum(feed.shape[1] - prompt.ids.shape[1] + 1 for feed, prompt in zip(feeds, prompts, strict=True))
    hidden: list[Array] = []
    hook = text.lm_head.register_forward_hook(lambda _, given, __: hidden.append(given[0][0, -1].numpy()))
    calls = measure(split, prompts, {"text": "int4-calibrated"})
    hook.remove()
    head = (np.array(hidden, np.float64) ** 2).mean(0)
    assert len(hidden) == answers
    found = calls.of(text.lm_head.weight.detach().numpy())
    np.testing.assert_allclose(found, head / head.mean(), rtol=1e-4)  # type: ignore[arg-type]
    vision = next(part for part in split.vision[""].module.modules() if isinstance(part, torch.nn.Linear))
    assert known.of(vision.weight.detach().numpy()) is None
    assert not any(part._forward_hooks for part in split.text.modules())


def test_nothing_to_calibrate_with(tiny_checkpoint: Path, tmp_path: Path) -> None:
    split, processor = opened(tiny_checkpoint)
    with pytest.raises(EdgekitError, match=r"pal4-calibrated needs questions[\s\S]*--calibration-data"):
        measure(split, [], {"vision": "pal4-calibrated"})
    words = [processor.encode(question("what?", 0), [])]
    with pytest.raises(EdgekitError, match="pal4-calibrated needs images to calibrate the vision encoder"):
        measure(split, words, {"vision": "pal4-calibrated", "text": "pal4-calibrated"})
    assert measure(split, words, {"text": "int4-calibrated"}).layers
    if find_spec("coremltools") is not None:
        with pytest.raises(EdgekitError, match="pal6-calibrated needs questions"):
            export_checkpoint(tiny_checkpoint, "coreml", "pal6-calibrated", tmp_path / "b")
        with pytest.raises(EdgekitError, match=r"pal4-calibrated needs questions.*a checkpoint alone names none"):
            api.export(tiny_checkpoint, targets=["coreml"], precisions=["pal4-calibrated"], out=tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- the program


@needs_coremltools
def test_a_calibrated_program_is_nearer_on_such_inputs(tmp_path: Path) -> None:
    """Inputs whose channels differ by a hundred times; the type of the weights in the file is the plain one's."""
    import torch
    from torch import nn

    from edgekit.formats.coreml.mil import Package

    torch.manual_seed(0)
    model = nn.Linear(64, 64).eval()
    size = 10.0 ** torch.linspace(-1, 1, 64)[torch.randperm(64)]
    inputs = torch.randn(200, 64) * size
    weight = model.weight.detach()
    known = Moments([(weight.numpy(), (inputs.double() ** 2).mean(0).numpy())])
    shape = (TensorSpec("x", "float16", (200, 64)),), (TensorSpec("y", "float16", (200, 64)),)
    program = coreml.Program("p", model, (inputs,), *shape, "text", "")
    wanted = model(inputs).detach().numpy()
    # A palette is for all inputs alike, so it can do less.
    for word, kind, bar in (("int4", "constexpr_blockwise_shift_scale", 0.8), ("pal4", "constexpr_lut_to_dense", 0.95)):
        gaps, bytes_ = [], []
        for name in (word, f"{word}-calibrated"):
            with coreml.quiet():
                coreml.convert(program, coreml.plan(name, {}), Grids(known)).save(str(tmp_path / f"{name}.mlpackage"))
            package = Package(tmp_path / f"{name}.mlpackage")
            found = [one.type for one in package.block("main").operations if one.type.startswith("constexpr")]
            assert found == [kind]
            gaps.append(float(((package.function().predict({"x": inputs.numpy()})["y"] - wanted) ** 2).mean()))
            bytes_.append((tmp_path / f"{name}.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size)
        assert gaps[1] < bar * gaps[0], (word, gaps)
        assert bytes_[0] == bytes_[1]


@needs_coremltools
def test_every_weight_is_known_and_searched_once_and_it_is_shown(
    tiny_of: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole package of two functions that share their weights; other families below."""
    from edgekit.export import _grids

    searched: list[bytes] = []
    known: list[bool] = []
    plain, of = best_palette, Moments.of

    def asked(self: Moments, weight: Array) -> Array | None:
        found = of(self, weight)
        known.append(found is not None)
        return found

    def spy(weight: Array, bits: int, importance: Array | None = None) -> Array:
        searched.append(weight.tobytes())
        return plain(weight, bits, importance)

    monkeypatch.setattr(_grids, "best_palette", spy)
    monkeypatch.setattr(Moments, "of", asked)
    split, processor = opened(tiny_of("smolvlm"))
    shown_prompts = parity_inputs(processor, drawn_samples(4))
    folder = bundle_folder(tiny_of("smolvlm"), tmp_path / "b")
    coreml.write(split, "pal4-calibrated", folder, shown_prompts, options={"context": "64"})
    assert len(known) >= 12 and all(known)
    # The tiny model's norms are ones and its biases zeros, but no two groups of its layers are alike.
    assert searched and len(searched) == len(set(searched))
    shown = capfd.readouterr().err
    for name in ("vision_encoder", "text_decoder", "decode"):
        assert f"{name}: weights to pal4-calibrated: 0 %" in shown, shown
        assert f"{name}: weights to pal4-calibrated: 100 %" in shown, shown


@needs_coremltools
def test_plain_int4_is_searched_too(tmp_path: Path) -> None:
    """An identity gives the layer's weights: the file holds what the search finds with all inputs counted alike."""
    import torch
    from torch import nn

    from edgekit.formats.coreml.mil import Package

    torch.manual_seed(0)
    model, inputs = nn.Linear(64, 64, bias=False).eval(), torch.eye(64)
    shape = (TensorSpec("x", "float16", (64, 64)),), (TensorSpec("y", "float16", (64, 64)),)
    with coreml.quiet():
        made = coreml.convert(coreml.Program("p", model, (inputs,), *shape, "text", ""), coreml.plan("int4", {}))
        made.save(str(tmp_path / "p.mlpackage"))
    found = Package(tmp_path / "p.mlpackage").function().predict({"x": inputs.numpy()})["y"].T
    weight = model.weight.detach().numpy().astype(np.float16)
    scales = best_scales(weight)
    np.testing.assert_array_equal(found, from_blocks(scales, rounded(weight, scales)).astype(np.float16))
    steps = np.repeat(np.abs(weight).reshape(64, 2, BLOCK).max(-1) / np.float16(7), BLOCK, axis=1)
    plain = np.clip(np.rint(weight / steps), -7, 7) * steps  # coremltools' own grid
    assert error(weight, found, np.ones(64)) < 0.9 * error(weight, plain, np.ones(64))


FAMILIES = ["internvl", "qwen2_5_vl", "qwen3_vl"]


@needs_coremltools
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_weight_of_a_program_is_known(family: str, tiny_of: Maker) -> None:
    """Converters fold, rename and share; a weight that is not found again would silently stay uncalibrated."""
    asked: list[bool] = []

    class Spy(Moments):
        def of(self, weight: Array) -> Array | None:
            asked.append((found := super().of(weight)) is not None)
            return found

    split, processor = opened(tiny_of(family))
    shown = parity_inputs(processor, drawn_samples(4))
    known = Spy(measure(split, shown, dict.fromkeys(("vision", "text"), "pal4-calibrated")).layers)
    chosen = coreml.plan("pal4-calibrated", {"context": "64", "layout": "separate"})
    for program in coreml.programs(split, chosen):
        with coreml.quiet():
            coreml.convert(program, chosen, Grids(known))
    assert len(asked) >= 12 and all(asked)
