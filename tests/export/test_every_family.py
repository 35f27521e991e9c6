"""Every family at every precision through one contract: export a tiny checkpoint, run it, compare with PyTorch."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint, of_this_machine
from PIL import Image
from tracing import traced_once

from edgekit.checkpoint.folder import load_model
from edgekit.data import ImageRef, Sample
from edgekit.demo.tiny import BLUEPRINTS, MID, NAMES
from edgekit.errors import CheckpointError, DataError, EdgekitError
from edgekit.export import TARGETS, coreai, gguf
from edgekit.export.bundling import _check_needs, baked_against_original
from edgekit.export.genai import check_genai
from edgekit.export.parity import empty_cache
from edgekit.families import Pixels, Size, family_of, qwen3_vl
from edgekit.families.merging import by_bucket
from edgekit.families.sizes import fit_image, prefer_size, read_size
from edgekit.formats.counting import Inspection
from edgekit.formats.inspecting import inspect
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor
from edgekit.report.tolerances import judge, random_tolerances_of
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import answer, follow
from edgekit.stats import kl_divergence, largest_gap

Maker = Callable[..., Path]
FAMILIES = list(NAMES)
SIZES = {name: list(BLUEPRINTS.load(name).sizes) for name in NAMES if BLUEPRINTS.load(name).sizes}
BLOCK = {name: sizes[1][0] for name, sizes in SIZES.items()}
PRECISIONS = ["fp32", "fp16", "int8", "int4"]


def an_image(size: Size, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def questions() -> list[Sample]:
    """Six prompts, for a parity run at export that is shorter than its own 32."""
    made = []
    for seed, size in enumerate([(64, 64), (96, 48), (48, 96), (640, 480), (113, 37), (9, 200)]):
        png = io.BytesIO()
        an_image(size, seed).save(png, "PNG")
        made.append(Sample(str(seed), (ImageRef(data=png.getvalue()),), question("what is there?")))
    return made


def sizes_for(family: str) -> list[Size] | None:
    """Two buckets of odd shapes; their windows at the edge are cut short."""
    return SIZES.get(family)


GGUF = ["smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "lfm2_vl"]
# Largest difference of a logit, of standard deviation 1.0 to 1.1. Measured: fp32 9.5e-6, fp16 2.5e-2, int8 0.44, int4
# 5.4, where every token is a close call; the mean KL of the bundle's parity run is the sharper tolerance there.
GAP = {**dict.fromkeys(gguf.PRECISIONS, 12.0), "bf16": 1.0, "q6_k": 3.0}
GAP |= {"pal8": 1.5, "pal6": 3.0, "pal4": 12.0}
GAP |= {"fp32": 1e-4, "fp16": 0.1, "int8": 1.5, "int8-static": 3.0, "int4": 12.0}
TARGET_GAP = {("gguf", "fp32"): 2e-2}

# The usual run has a family in fp32 of each kind that test_onnx.py does not have, and one in few bits; all have their
# baked modules compared with the untouched model there. The slow run adds each family and each precision once or more,
# a minute each; the rest is marked `matrix` too, and is measured by `edgekit targets --matrix` too.
USUAL = {
    ("onnx", "lfm2_vl", "fp32"),
    ("onnx", "qwen3_5", "fp32"),
    ("onnx", "qwen3_vl", "fp32"),
    ("onnx", "qwen3_vl", "int4"),
}
# In fp32 every family is exported to ONNX at mid size below and, but for three, in test_verify.py; each of Core AI's
# precisions is on a trained student in test_coreai.py.
SLOW = {
    ("onnx", "smolvlm", "int4"), ("onnx", "qwen2_5_vl", "fp16"), ("onnx", "qwen3_vl", "int8"),
    ("onnx", "internvl", "int8"), ("onnx", "gemma3", "int8"), ("onnx", "gemma3", "fp32"), ("onnx", "lfm2_vl", "int4"),
    ("onnx", "llava_onevision", "int8"), ("onnx", "qwen3_5", "int8"), ("onnx", "qwen3_5", "int4"),
    ("executorch", "internvl", "int4"), ("executorch", "qwen3_vl", "int8"),
    ("executorch", "lfm2_vl", "fp32"), ("executorch", "lfm2_vl", "int4"),
    ("executorch", "smolvlm", "int8-static"), ("executorch", "qwen2_5_vl", "fp32"),
    ("gguf", "lfm2_vl", "fp32"), ("gguf", "lfm2_vl", "int4"),
    ("gguf", "qwen2_5_vl", "fp32"), ("gguf", "internvl", "fp16"), ("gguf", "smolvlm", "bf16"),
    ("gguf", "qwen3_vl", "int8"), ("gguf", "internvl", "q6_k"), ("gguf", "qwen2_5_vl", "q5_k_m"),
    ("gguf", "qwen3_5", "fp32"),
    ("coreai", "internvl", "fp16"), ("coreai", "qwen3_vl", "int8"), ("coreai", "smolvlm", "int4"),
    ("coreai", "qwen2_5_vl", "pal8"),
    ("gguf", "qwen3_vl", "q4_k_m-imatrix"), ("gguf", "internvl", "int4"), ("gguf", "qwen2_5_vl", "iq4_nl"),
    ("executorch", "llava_onevision", "fp32"), ("coreai", "llava_onevision", "int8"),
    ("executorch", "qwen3_5", "fp32"), ("executorch", "qwen3_5", "int4"),
    ("executorch", "gemma3", "int8"), ("coreai", "gemma3", "fp16"),
}  # fmt: skip


def row(target: str, family: str, precision: str) -> Any:
    name = (target, family, precision)
    slow, rest = pytest.mark.slow, pytest.mark.matrix
    return pytest.param(*name, marks=[] if name in USUAL else [slow] if name in SLOW else [slow, rest])


ROWS = [row("onnx", family, precision) for family in FAMILIES for precision in PRECISIONS]
ROWS += [
    row("executorch", family, precision) for family in FAMILIES for precision in ("fp32", "int8", "int8-static", "int4")
]
ROWS += [row("gguf", family, precision) for family in GGUF for precision in gguf.PRECISIONS]
ROWS += [
    row("coreai", family, precision)
    for family in (*GGUF[:4], "llava_onevision", "gemma3")
    for precision in coreai.PRECISIONS
]


def compare_insides(ours: Inspection, theirs: Inspection) -> None:
    """The same model: what a graph is counted to hold and do, beside PyTorch's own count."""
    # PyTorch's step of LFM2 runs its short convolutions over their padding too.
    assert ours.per_token.flops == pytest.approx(theirs.per_token.flops, rel=5e-3)
    assert ours.components["token_embedding"].parameters == theirs.components["token_embedding"].parameters
    assert ours.program_bytes > 0


@pytest.mark.parametrize(("target", "family", "precision"), ROWS)
def test_contract(target: str, family: str, precision: str, tiny_of: Maker, tmp_path: Path) -> None:
    checkpoint = tiny_of(family, **TARGETS.load(target).tiny.get(family, {}))
    with traced_once(checkpoint, sizes_for(family)):
        _holds(target, family, precision, checkpoint, tmp_path)


# Heads of 64 in groups, six layers, a vocabulary of 16,000: what a graph of real size meets and the tiny ones do not.
MIDDLE = [("onnx", family, "fp32") for family in FAMILIES]
MIDDLE += [("onnx", "qwen3_vl", "int4"), ("onnx", "qwen2_5_vl", "int8"), ("coreai", "qwen3_vl", "fp32")]
MIDDLE += [("executorch", "smolvlm", "fp32"), ("executorch", "qwen3_vl", "int4")]
BEYOND = [("onnx", family, "int4") for family in FAMILIES if family != "qwen3_vl"] + [("onnx", "internvl", "fp16")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "family", "precision"), [*MIDDLE, *(pytest.param(*row, marks=pytest.mark.matrix) for row in BEYOND)]
)
def test_contract_at_mid_size(target: str, family: str, precision: str, tiny_of: Maker, tmp_path: Path) -> None:
    _holds(target, family, precision, tiny_of(family, shape=MID, vocab_padding=16_000), tmp_path)


def _holds(target: str, family: str, precision: str, checkpoint: Path, tmp_path: Path) -> None:
    asked = questions()
    if any(find_spec(package) is None for package in TARGETS.load(target).packages):
        pytest.skip(f"{target} is not installed: pip install 'edgekit[{TARGETS.load(target).extra}]'")
    shown = asked if TARGETS.load(target).needs_calibration(precision) else []
    bundle = export_checkpoint(
        checkpoint, target, precision, tmp_path / "b", sizes=sizes_for(family), samples=asked, calibration=shown
    )
    parity, params = bundle.manifest.parity, bundle.manifest.preprocessing
    assert parity is not None and parity["samples"] == 6 and parity["questions"] == "given"
    assert parity["baked_vision_max_abs"] < 5e-5 and parity["baked_logits_max_abs"] < 5e-5
    assert all(check["held"] for check in judge(parity, random_tolerances_of(precision, target)).values()), parity
    assert of_this_machine(bundle.folder, checkpoint) == []
    compare_insides(inspect(bundle.folder, tokens=50), inspect(checkpoint, tokens=50))
    theirs = RUNTIMES.load("pytorch").open_session(checkpoint, 1)
    ours = RUNTIMES.load(runtime_for(bundle.folder)).open_session(bundle.folder, 1)
    for sizes in ([(100, 60)], [(37, 300), (80, 80)], []):
        messages = question("what is there?", len(sizes))
        images = [an_image(size, seed) for seed, size in enumerate(sizes)]
        shown = [fit_image(image, params) for image in images]
        np.testing.assert_array_equal(ours.prepare(messages, images).ids, theirs.prepare(messages, shown).ids)
        wanted = answer(theirs, messages, shown, max_new_tokens=8).token_ids
        if precision == "fp32" and target != "gguf":  # whose float32 lets close calls turn round
            assert answer(ours, messages, images, max_new_tokens=8).token_ids == wanted
        pairs = zip(follow(theirs, messages, shown, wanted), follow(ours, messages, images, wanted), strict=True)
        assert max(largest_gap(a, b) for a, b in pairs) < TARGET_GAP.get((target, precision), GAP[precision])
    ours.close()


def test_the_contract_notices_another_image(tiny_of: Maker) -> None:
    """What tolerances on random weights are worth: PyTorch's distributions for two images lie far outside them."""
    session = RUNTIMES.load("pytorch").open_session(tiny_of("internvl"), 1)
    a, b = (next(follow(session, question("what?"), [an_image((100, 60), seed)], [0])) for seed in (0, 1))
    assert kl_divergence(a, b) > random_tolerances_of("int8")["mean_kl"]


@pytest.mark.parametrize("family", FAMILIES)
def test_baked_modules_equal_the_untouched_model(family: str, tiny_of: Maker) -> None:
    model: Any = load_model(tiny_of(family))
    module, plain = family_of(model.config.model_type), Processor.load(tiny_of(family))
    block = BLOCK.get(family)
    chosen: list[list[Size] | None] = [None]
    if block is not None:
        smallest = (2 * block, 2 * block) if family == "lfm2_vl" else (block, block)
        chosen += [sizes_for(family), [(5 * block, block)], [(3 * block, 3 * block), smallest]]
    for sizes in chosen:
        processor = plain.for_sizes(sizes)
        split = module.split(model, processor.params.get("sizes"))
        for shapes in ([(100, 60)], [(37, 300), (80, 80), (300, 20)], [(1, 1)]):
            images = [an_image(shape, seed) for seed, shape in enumerate(shapes)]
            gaps = baked_against_original(model, module, split, [processor.encode(question("?", len(images)), images)])
            assert set(gaps) == {"baked_vision_max_abs", "baked_logits_max_abs"} and max(gaps.values()) < 5e-5


def test_deepstack_reaches_the_decoder(tiny_of: Maker) -> None:
    """Without its second output the same prompt gives other logits, so that the parity above means something."""
    from edgekit.export.parity import TorchModules, encode_images
    from edgekit.export.parity import follow as follow_parts

    class Blind(TorchModules):
        def encode_image(self, pixel_values: Any, bucket: str = "") -> list[Any]:
            embeds, layers = super().encode_image(pixel_values, bucket)
            return [embeds, np.zeros_like(layers)]

    processor = Processor.load(tiny_of("qwen3_vl")).for_sizes(None)
    split = qwen3_vl.FAMILY.split(load_model(tiny_of("qwen3_vl")), processor.params["sizes"])
    inputs = processor.encode(question("what?"), [an_image((100, 60))])
    assert inputs.pixels is not None
    features = encode_images(TorchModules(split), split, inputs.pixels)
    assert {name: value.shape for name, value in features.extra.items()} == {
        "deepstack_features": (2, *features.embeds.shape)
    }
    seen, blind = (follow_parts(parts(split), split, inputs, [0], 1)[0][0] for parts in (TorchModules, Blind))
    assert np.abs(seen - blind).max() > 0.1


def test_any_cache_may_be_given(tiny_of: Maker) -> None:
    """`Split.text` with a static cache of transformers', for targets with buffers of their own."""
    import torch
    from transformers import StaticCache

    model: Any = load_model(tiny_of("qwen3_vl"))
    split = qwen3_vl.FAMILY.split(model)
    embeds, mask = torch.randn(1, 6, split.width), torch.ones(1, 6, dtype=torch.int64)
    positions = torch.arange(6).expand(3, 1, -1)
    features = torch.randn(split.features[0].sized(1, 6))
    with torch.no_grad():
        static = StaticCache(config=model.config.text_config, max_cache_len=6)
        logits = split.text(embeds, mask, positions, static, features)
        expected, *_ = split.text_decoder(embeds, mask, positions, features)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_the_tokens_of_an_image_see_each_other(tiny_of: Maker) -> None:
    """Gemma 3 with positions that say nothing of images gives other logits, so that the parity above means much."""
    from edgekit.export.parity import TorchModules
    from edgekit.export.parity import follow as follow_parts

    processor, model = Processor.load(tiny_of("gemma3")), load_model(tiny_of("gemma3"))
    split = family_of("gemma3").split(model)
    inputs = processor.encode(question("what?"), [an_image((100, 60))])
    causal = replace(inputs, positions=np.stack([inputs.positions[0]] * 2))
    seen, blind = (follow_parts(TorchModules(split), split, given, [0], 1)[0][0] for given in (inputs, causal))
    assert np.abs(seen - blind).max() > 1e-2


def test_gemma3_takes_any_cache(tiny_of: Maker) -> None:
    """One that keeps its window only, a static one, and the explicit one, over a prompt in two parts."""
    import torch
    from transformers import DynamicCache, StaticCache

    model: Any = load_model(tiny_of("gemma3"))
    split, config = family_of("gemma3").split(model), model.config.text_config
    embeds, mask = torch.randn(1, 23, split.width), torch.ones(1, 23, dtype=torch.int64)
    blocks = torch.tensor([0, 1, 1, 1, *range(4, 15), 15, 15, 15, *range(18, 23)])
    positions = torch.stack([torch.arange(23), blocks])[:, None]
    with torch.no_grad():
        whole, *_ = split.text_decoder(embeds, mask, positions)
        _, *past = split.text_decoder(embeds[:, :14], mask[:, :14], positions[..., :14])
        explicit, *_ = split.text_decoder(embeds[:, 14:], mask, positions[..., 14:], *past)
        torch.testing.assert_close(explicit, whole[:, 14:], atol=1e-5, rtol=0)
        for cache in (DynamicCache(config=config), StaticCache(config=config, max_cache_len=40), DynamicCache()):
            split.text(embeds[:, :14], mask[:, :14], positions[..., :14], cache)
            logits = split.text(embeds[:, 14:], mask, positions[..., 14:], cache)
            torch.testing.assert_close(logits, whole[:, 14:], atol=1e-5, rtol=0)


def test_states_are_part_of_the_cache(tiny_of: Maker) -> None:
    """LFM2-VL: a prompt in two parts gives what it gives whole, and other states give something else."""
    import torch

    split = family_of("lfm2_vl").split(load_model(tiny_of("lfm2_vl")), [(96, 64)])
    assert [(t.layer, t.kind) for t in split.states] == [(0, "conv"), (1, "key"), (1, "value"), (2, "conv")]
    assert split.layers == 1 and split.states[0].shape == (32, 3)
    embeds, mask, positions = torch.randn(1, 9, 32), torch.ones(1, 9, dtype=torch.int64), torch.arange(9)[None]
    empty = [torch.from_numpy(array) for array in empty_cache(split)]
    with torch.no_grad():
        whole, *_ = split.text_decoder(embeds, mask, positions, *empty)
        _, *past = split.text_decoder(embeds[:, :5], mask[:, :5], positions[:, :5], *empty)
        kept = [tensor.clone() for tensor in past]
        rest, *_ = split.text_decoder(embeds[:, 5:], mask, positions[:, 5:], *past)
        other, *_ = split.text_decoder(embeds[:, 5:], mask, positions[:, 5:], empty[0], *past[1:])
    torch.testing.assert_close(rest, whole[:, 5:], atol=1e-5, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(past, kept, strict=True))  # what is passed in is not written to
    assert (other - rest).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["gemma3", "lfm2_vl", "llava_onevision", "qwen3_5"])
def test_targets_that_would_get_it_wrong_refuse(family: str, tiny_of: Maker) -> None:
    split = family_of(family).split(load_model(tiny_of(family)), [(64, 64)] if family == "lfm2_vl" else None)
    knowing_none = replace(TARGETS.load("gguf"), knows=frozenset(), lacks={"pack": "No newlines."})
    with pytest.raises(EdgekitError, match="Target 'gguf' cannot hold this model") as caught:
        _check_needs(knowing_none, split)
    (kind, about), *_ = sorted(split.needs().items())
    said = f"{about[0].upper()}{about[1:]}. No newlines." if kind == "pack" else f"It knows of no such model: {about}."
    assert said in str(caught.value) and "onnx" in str(caught.value).rpartition("Targets that can: ")[2]
    with pytest.raises(EdgekitError, match="onnxruntime-genai cannot run this family"):
        check_genai(split)


def test_why_gguf_holds_no_tiles_that_are_packed(tiny_of: Maker, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="with no newlines and the canvas's padding in") as caught:
        export_checkpoint(tiny_of("llava_onevision"), "gguf", "fp32", tmp_path / "b")
    assert "Targets that can: coreai, coreml, executorch, onnx." in str(caught.value) and list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- image sizes


def test_prefer_size() -> None:
    """By shape first, then area; worked by hand."""
    sizes = [(448, 448), (672, 448), (448, 672), (1344, 896)]
    assert prefer_size((100, 100), sizes) == (448, 448)
    assert prefer_size((600, 400), sizes) == (672, 448)  # 3 : 2 at 240,000 pixels: nearer to 301,056 than 1,204,224
    assert prefer_size((3000, 2000), sizes) == (1344, 896)
    assert prefer_size((10, 90), sizes) == (448, 672)


@pytest.mark.parametrize("family", BLOCK)
def test_an_image_is_resized_to_the_nearest_size(family: str, tiny_of: Maker) -> None:
    block = BLOCK[family]
    processor = Processor.load(tiny_of(family)).for_sizes(sizes_for(family))
    for size, grid in (((100, 60), (1, 4, 6)), ((10, 300), (1, 8, 2)), ((80, 80), (1, 4, 6))):
        image = an_image(size)
        pixels = processor.encode(question("?"), [image]).pixels
        again = processor.encode(question("?"), [fit_image(image, processor.params)]).pixels
        assert pixels is not None and again is not None
        assert pixels.grids == [(1, *grid) if family == "lfm2_vl" else grid]
        np.testing.assert_array_equal(pixels.values, again.values)
    assert processor.params["sizes"] == [[3 * block, 2 * block], [block, 4 * block]]


def test_default_size(tiny_of: Maker) -> None:
    """448 squared within the processor's limits: the tiny folder allows 16 blocks of 28 x 28 pixels, 112 squared."""
    params = Processor.load(tiny_of("qwen2_5_vl")).params
    fix = family_of("qwen2_5_vl").fix_sizes
    assert fix(params, None)["sizes"] == [[112, 112]]
    assert fix({**params, "max_pixels": 28 * 28 * 1280}, None)["sizes"] == [[448, 448]]
    assert fix({**params, "min_pixels": 500 * 500, "max_pixels": 28 * 28 * 1280}, None)["sizes"] == [[504, 504]]


def test_sizes_that_cannot_be(tiny_of: Maker, tmp_path: Path) -> None:
    def fails(family: str, sizes: list[Size], *messages: str) -> None:
        with pytest.raises(EdgekitError) as caught:
            export_checkpoint(tiny_of(family), "onnx", "fp32", tmp_path / "b", sizes=sizes)
        assert all(message in str(caught.value) for message in messages), caught.value
        assert list(tmp_path.iterdir()) == []

    fails("qwen2_5_vl", [(84, 56), (100, 56)], "no images of 100x56", "multiples of 28", "--image-size 112x56")
    fails("qwen3_vl", [(112, 112)], "no images of 112x112", "multiples of 32")
    fails("qwen3_vl", [(0, 32)], "no images of 0x32")
    fails("qwen2_5_vl", [(448, 448)], "area is 200,704", "between 784 and 12,544")
    fails("lfm2_vl", [(96, 60)], "no images of 96x60", "multiples of 32")
    fails("lfm2_vl", [(160, 128)], "no images of 160x128", "4 to 16 tokens", "--image-size 128x128")
    fails("llava_onevision", [(384, 384)], "no image sizes to choose")
    fails("internvl", [(448, 448)], "no image sizes to choose", "Leave --image-size out")
    fails("smolvlm", [(64, 64)], "no image sizes to choose")
    for text in ("448", "448x", "x448", "a4xb", "-28x28", "28×28"):
        with pytest.raises(EdgekitError, match="is no image size"):
            read_size(text)
    assert read_size("448X336") == (448, 336)


def test_an_image_without_a_bucket() -> None:
    pixels = Pixels(np.zeros((8, 3), np.float32), [(1, 2, 4)])
    assert [name for name, _ in by_bucket({"": (1, 2, 4)}, pixels)] == [""]
    with pytest.raises(DataError, match="1 x 2 x 4 patches has no vision encoder"):
        list(by_bucket({"": (1, 4, 4)}, pixels))


def test_tiles_of_another_size_than_the_model_takes(tiny_of: Maker, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_of("internvl"), copy)
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": {"height": 28, "width": 28}}))
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: size is 28 x 28; the model's is 56 x 56"):
        export_checkpoint(copy, "onnx", "fp32", tmp_path / "b")


def test_internvl_with_features_from_elsewhere(tiny_of: Maker) -> None:
    model: Any = load_model(tiny_of("internvl"))
    model.config.vision_feature_layer = -2
    with pytest.raises(CheckpointError, match="from layer -2 of its tower"):
        family_of("internvl").split(model)


# ----------------------------------------------------------------------------------------------------- the reference


@pytest.mark.parametrize("family", BLOCK)
def test_a_prompt_without_images_after_one_with(family: str, tiny_of: Maker) -> None:
    """Qwen-VL keeps the shift of the last prompt's positions; the reference must forget it."""
    session = RUNTIMES.load("pytorch").open_session(tiny_of(family), 1)
    fresh = answer(session, question("what?", 0), [], max_new_tokens=6)
    first = list(follow(session, question("what?", 0), [], fresh.token_ids))
    answer(session, question("what?"), [an_image((300, 40))], max_new_tokens=2)
    again = list(follow(session, question("what?", 0), [], fresh.token_ids))
    np.testing.assert_array_equal(np.stack(first), np.stack(again))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_the_models_own_generate(family: str, tiny_of: Maker) -> None:
    from edgekit.inputs.official import load_processor

    session = RUNTIMES.load("pytorch").open_session(tiny_of(family), 1)
    messages, images = question("what is there?", 2), [an_image((100, 60)), an_image((40, 90), 1)]
    said = answer(session, messages, images, max_new_tokens=6).token_ids
    processor, model = load_processor(tiny_of(family)), load_model(tiny_of(family))
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)  # type: ignore[operator]
    assert out[0, inputs["input_ids"].shape[1] :].tolist() == said


def test_a_processor_that_cannot_be_loaded(tiny_of: Maker, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_of("qwen2_5_vl"), copy)
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": "NoSuchImageProcessor"}))
    with pytest.raises(CheckpointError, match="cannot load the processor"):
        RUNTIMES.load("pytorch").open_session(copy, 1)
