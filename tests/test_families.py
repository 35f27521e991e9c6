"""Each family's pixels and prompts against the Hugging Face processors', which need no torchvision for images."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import CheckpointError, DataError, EdgekitError
from edgekit.families import (
    FAMILIES,
    Grid,
    family_of,
    gemma3,
    internvl,
    lfm2_vl,
    llava_onevision,
    qwen2_5_vl,
    qwen3_5,
    qwen3_vl,
)
from edgekit.inputs.chat import question
from edgekit.inputs.images import resize_bilinear
from edgekit.inputs.processor import Processor

NAMES = ["qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "llava_onevision", "gemma3", "qwen3_5"]
ALL = [*NAMES, "lfm2_vl"]  # whose image processor wants torchvision
PLACES = {"internvl": "<IMG_CONTEXT>", "qwen2_5_vl": "<|image_pad|>", "qwen3_vl": "<|image_pad|>"}
PLACES |= {"gemma3": "<start_of_image>", "qwen3_5": "<|image_pad|>"}
ENDS = {"smolvlm": "<end_of_utterance>", "gemma3": "<end_of_turn>"}
MODES = ["L", "RGBA", "P", "LA"]
SIZES = [(56, 56), (500, 37), (37, 500), (1, 1), (1, 190), (113, 111), (640, 480), (63, 65), (2000, 1501), (13, 29)]
Maker = Callable[..., Path]


def an_image(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8), "RGBA")
    return noise.convert(mode)


def official(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The family's own processor class, with no video processor: there is none without torchvision."""
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.processing_utils import ProcessorMixin

    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    nested = folder / "processor_config.json"
    given = json.loads(nested.read_text()) if nested.exists() else {}
    given.pop("processor_class", None)
    name = settings["processor_class"]
    if name == "SmolVLMProcessor":  # it wants num2words, for videos only; Idefics3's differs in nothing else
        kinds: Any = transformers.Idefics3Processor
    else:
        kinds = getattr(transformers, name)
        if "video_processor" in inspect.signature(kinds.__init__).parameters:
            given["video_processor"] = None
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    assert type(images).__name__.endswith("Pil")
    return kinds(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template, **given)


def pixels_of(inputs: Any, name: str, parts: list[int]) -> Any:
    if name == "llava_onevision":  # a row of tiles for each image, filled up with zeros
        rows = inputs["pixel_values"]
        assert all(not row[count:].any() for row, count in zip(rows, parts, strict=True))
        return np.concatenate([row[:count] for row, count in zip(rows, parts, strict=True)])
    if name == "lfm2_vl":
        return inputs["pixel_values"][inputs["pixel_attention_mask"].astype(bool)]
    return inputs["pixel_values"][0] if name == "smolvlm" else inputs["pixel_values"]


@pytest.mark.parametrize("name", NAMES)
def test_pixels_and_prompts_equal_the_hugging_face_processor(
    tiny_of: Maker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_of(name)
    theirs, ours = official(folder, monkeypatch), Processor.load(folder)
    cases = [[an_image(size)] for size in SIZES] + [[an_image((40, 30), mode)] for mode in MODES]
    cases += [[an_image((200, 90)), an_image((30, 80), seed=1)], []]
    seen = set()
    for images in cases:
        messages = question("what is there?", len(images))
        text = theirs.apply_chat_template(messages, add_generation_prompt=True)
        given = {"images": images} if images else {}
        expected = theirs(text=[text], return_tensors="np", add_special_tokens=False, **given)
        got = ours.encode(messages, images)
        np.testing.assert_array_equal(got.ids, expected["input_ids"])
        seen.add(got.ids.shape[1])
        if images:
            assert got.pixels is not None
            np.testing.assert_array_equal(got.pixels.values, pixels_of(expected, name, got.pixels.parts))
        if "image_grid_thw" in expected:
            assert got.pixels is not None and got.pixels.grids == [tuple(row) for row in expected["image_grid_thw"]]
    # The images do have different numbers of tokens, where they may.
    assert len(seen) == 3 if name == "gemma3" else len(seen) > 4


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_pixels_at_the_hubs_own_sizes(name: str) -> None:
    """The real limits, where a large image has to be shrunk and a small one enlarged."""
    from transformers import Qwen2VLImageProcessorPil

    old = {"min_pixels": 3136, "max_pixels": 1003520}
    new = {"size": {"shortest_edge": 65536, "longest_edge": 1048576}, "patch_size": 16}
    settings: dict[str, Any] = old if name == "qwen2_5_vl" else new
    theirs = Qwen2VLImageProcessorPil(**settings)
    for size in [(2500, 1300), (1, 1), (31, 57), (3000, 20)]:
        expected = theirs([an_image(size)], return_tensors="np")
        got = FAMILIES.load(name).preprocess([an_image(size)], read(settings, qwen2_5_vl))
        np.testing.assert_array_equal(got.values, expected["pixel_values"])
        assert got.grids == [tuple(row) for row in expected["image_grid_thw"]]


def read(settings: dict[str, Any], family: Any) -> dict[str, Any]:
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "preprocessor_config.json").write_text(json.dumps({"do_resize": True, **settings}))
        found: dict[str, Any] = family.read_preprocessing(Path(made))
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"max_patches": 12},
        {"max_patches": 1},
        {"min_patches": 3, "max_patches": 4},
        {"do_normalize": False, "resample": 2},
        {"do_rescale": False},
        {"size": {"height": 28, "width": 42}},
    ],
)
def test_internvl_settings(settings: dict[str, Any]) -> None:
    from transformers import GotOcr2ImageProcessorPil

    given = {"size": {"height": 28, "width": 28}, "max_patches": 6, **settings}
    theirs = GotOcr2ImageProcessorPil(**given)
    for size in [(28, 28), (90, 30), (56, 56), (57, 56), (1, 1), (300, 220), (17, 300)]:
        expected = theirs([an_image(size)], crop_to_patches=True, return_tensors="np")
        got = internvl.preprocess([an_image(size)], read(given, internvl))
        np.testing.assert_array_equal(got.values, expected["pixel_values"])
        assert got.grids == [(int(expected["num_patches"][0]),)]


def test_an_image_too_long_is_a_clear_error(tiny_of: Maker) -> None:
    processor = Processor.load(tiny_of("qwen2_5_vl"))
    processor.encode(question("q"), [an_image((200, 1))])
    with pytest.raises(DataError, match="201 x 1 pixels is too long"):
        processor.encode(question("q"), [an_image((201, 1))])


@pytest.mark.parametrize("name", ALL)
def test_an_image_token_in_a_question_is_refused(tiny_of: Maker, name: str) -> None:
    token = PLACES.get(name, "<image>")
    with pytest.raises(DataError, match="does not have one image part for each of its 1 images"):
        Processor.load(tiny_of(name)).encode(question(f"what is {token}?"), [an_image((8, 8))])


@pytest.mark.parametrize("name", ALL)
def test_a_reference_answer_ends_with_the_token_that_ends_a_turn(tiny_of: Maker, name: str) -> None:
    """For objectives that learn from the data's own answers."""
    processor = Processor.load(tiny_of(name))
    end = ENDS.get(name, "<|im_end|>")
    if name == "llava_onevision":  # its template writes "assistant " and a new line, and asks without the space
        with pytest.raises(DataError, match="in another way than it asks for one"):
            processor.answer_ids(question("what colour?"), "red circle")
        return
    ids = processor.answer_ids(question("what colour?"), "red circle")
    assert processor.tokenizer.decode(ids, skip_special_tokens=False).strip() == f"red circle{end}"


def test_lfm2_vl_equals_the_hugging_face_processor(tiny_of: Maker) -> None:
    """Its image processor is torchvision's; rescaling and normalising are one step there, which rounds otherwise."""
    pytest.importorskip("torchvision", reason="transformers has no image processor of LFM2-VL without torchvision")
    from transformers import AutoProcessor

    folder = tiny_of("lfm2_vl")
    theirs: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
    ours = Processor.load(folder)
    cases = [[an_image(size)] for size in SIZES] + [[an_image((40, 30), mode)] for mode in MODES]
    cases += [
        [an_image((200, 90)), an_image((30, 80), seed=1)],
        *([an_image(size)] for size in [(300, 220), (700, 100), (90, 800)]),
    ]
    tiled = 0
    for images in cases:
        messages = question("what is there?", len(images))
        text = theirs.apply_chat_template(messages, add_generation_prompt=True)
        expected = theirs(text=[text], images=images, return_tensors="np")
        got = ours.encode(messages, images)
        assert got.pixels is not None
        np.testing.assert_array_equal(got.ids, expected["input_ids"])
        wanted = pixels_of(expected, "lfm2_vl", [])
        np.testing.assert_allclose(got.pixels.values, wanted, atol=3e-7, rtol=0)
        tiled += any(grid[0] * grid[1] > 1 for grid in got.pixels.grids)
    assert tiled > 4


def test_lfm2_vl_layouts_by_hand(tiny_of: Maker) -> None:
    """The tiny folder: tokens of 32 x 32 pixels, 4 to 16 a view, tiles of 64 x 64 above 32 tokens' worth."""
    params = Processor.load(tiny_of("lfm2_vl")).params
    # (100, 60): 3 x 2 tokens. (1, 1) grows to 2 x 2. (160, 130): 5 x 4 is too many, shrunk by sqrt(20800 / 16384).
    wanted = {(100, 60): (1, 1, 4, 6), (1, 1): (1, 1, 4, 4), (160, 130): (1, 1, 6, 8)}
    # (300, 220): 9 x 7 tokens is above 32, so tiles: of up to four, 1 : 1 is nearest to 1.36. The whole view is
    # shrunk by sqrt(66000 / 16384), to 4 x 3 tokens; that of (640, 150) by sqrt(96000 / 16384), to 8 x 1.
    wanted |= {(300, 220): (2, 2, 6, 8), (640, 150): (1, 4, 2, 16)}
    for size, grid in wanted.items():
        pixels = lfm2_vl.preprocess([an_image(size)], params)
        assert pixels.grids == [grid], size
        tiles = 0 if grid[:2] == (1, 1) else grid[0] * grid[1]
        assert len(pixels.values) == 16 * tiles + grid[2] * grid[3]
    text = lfm2_vl.expand("a<image>b", [(1, 2, 4, 4)], params)
    tile = "<image>" * 4
    marks = ("<|image_start|>", "<|img_row_1_col_1|>", "<|img_row_1_col_2|>", "<|img_thumbnail|>", "<|image_end|>")
    assert text == f"a{marks[0]}{marks[1]}{tile}{marks[2]}{tile}{marks[3]}{tile}{marks[4]}b"


def test_patches_of_a_view_by_hand() -> None:
    """Row by row, each with its pixels row by row and its colours together."""
    params = {"encoder_patch_size": 2, "rescale_factor": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
    values = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    patches = lfm2_vl._patches(Image.fromarray(values), params)
    assert patches.tolist() == [[*range(6), *range(12, 18)], [*range(6, 12), *range(18, 24)]]


@pytest.mark.parametrize("size", [(100, 60), (37, 300), (1, 1), (640, 480), (13, 29)])
def test_resize_bilinear_is_torchs(size: tuple[int, int]) -> None:
    """Bit for bit, larger and smaller, with another shape."""
    import torch

    image = an_image(size)
    given = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    for width, height in [(512, 512), (64, 96), (256, 192), size, (32, 700)]:
        wanted = torch.nn.functional.interpolate(given, (height, width), mode="bilinear", antialias=True)
        np.testing.assert_array_equal(
            np.asarray(resize_bilinear(image, (width, height))), wanted[0].permute(1, 2, 0).numpy()
        )


@pytest.mark.parametrize("aspect", ["anyres_max_1", "anyres_max_9"])
def test_llava_onevision_packs_as_the_model_does(tiny_of: Maker, aspect: str) -> None:
    """Unpadding, scaling down and newlines, over shapes that leave out rows and columns."""
    import torch

    from edgekit.checkpoint.folder import load_model

    model: Any = load_model(tiny_of("llava_onevision"))
    params = {**Processor.load(tiny_of("llava_onevision")).params, "max_tiles": int(aspect[-1])}
    rng = np.random.default_rng(0)
    scaled = 0
    for size in [(42, 42), (500, 37), (37, 500), (1, 1), (113, 111), (640, 480), (64, 100), (13, 29)]:
        tiles = len(llava_onevision.preprocess([an_image(size)], params).values)
        features = rng.normal(size=(tiles, 10, 32)).astype(np.float32)
        features[:, -1] = features[0, -1]
        grid = (size[1], size[0])
        wanted, _ = model.model.pack_image_features(
            [torch.from_numpy(features[:, :-1])], [grid], torch.from_numpy(features[0, -1]), aspect
        )
        got = llava_onevision.pack(features, [grid], params)
        np.testing.assert_allclose(got, wanted[0].numpy(), atol=1e-6, rtol=0)
        assert len(got) == llava_onevision.tokens_of(grid, params)
        scaled += llava_onevision._layout(grid, params)[2:4] != llava_onevision._layout(grid, params)[4:]
    assert scaled == (3 if aspect == "anyres_max_1" else 0)  # nine, nine and six tiles


def test_gemma3_positions_by_hand() -> None:
    """A word, two images of two tokens with a word between, a word."""
    got = gemma3.positions([1, 9, 9, 2, 9, 9, 3], [(1,), (1,)], {"image_token_id": 9})
    assert got.tolist() == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 1, 3, 4, 4, 6]]


def test_pan_and_scan_is_refused(tiny_of: Maker, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_of("gemma3"), folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_pan_and_scan": True}))
    with pytest.raises(CheckpointError, match="pan and scan, which is not known"):
        Processor.load(folder)


def test_positions_by_hand() -> None:
    """Two words, an image of 2 x 3 tokens, a word: rows and columns count from where the text stopped."""
    params = {"image_token_id": 9, "merge": 2}
    got = qwen2_5_vl.positions([1, 2, 9, 9, 9, 9, 9, 9, 3], [(1, 4, 6)], params)
    assert got.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_positions_equal_the_models_own(tiny_of: Maker, name: str) -> None:
    import torch

    from edgekit.checkpoint.folder import load_model

    model: Any = load_model(tiny_of(name))
    processor = Processor.load(tiny_of(name))
    for sizes in ([(200, 90)], [(30, 300)], [(60, 90), (100, 40), (8, 8)]):
        inputs = processor.encode(question("what is there?", len(sizes)), [an_image(size) for size in sizes])
        assert inputs.pixels is not None
        grids: list[Grid] = inputs.pixels.grids
        got = processor.family.positions(inputs.ids[0].tolist(), grids, processor.params)
        ids = torch.from_numpy(inputs.ids)
        kinds = (ids == model.config.image_token_id).int()
        expected, _ = model.model.get_rope_index(ids, kinds, torch.tensor(grids))
        np.testing.assert_array_equal(got, expected[:, 0].numpy())


def test_qwen3_5_shares_heads_of_keys_evenly(tiny_of: Maker) -> None:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(tiny_of("qwen3_5"), local_files_only=True)
    assert list(qwen3_5.contradictions(config)) == []
    config.text_config.linear_num_key_heads, config.text_config.linear_num_value_heads = 2, 3
    (found,) = qwen3_5.contradictions(config)
    assert found == ("text_config.linear_num_value_heads", "is 3, which linear_num_key_heads (2) does not divide")


def test_model_types() -> None:
    assert family_of("smolvlm").name == "idefics3"
    assert family_of("qwen3_vl") is qwen3_vl.FAMILY and family_of("qwen2_5_vl") is qwen2_5_vl.FAMILY
    with pytest.raises(EdgekitError, match="qwen3_vl"):
        family_of("llava")
    with pytest.raises(CheckpointError, match="is a model of timm, which imports torchvision") as caught:
        family_of("fast_vlm")
    assert "Use a model of another type: gemma3, idefics3" in str(caught.value)


def test_settings_nested_in_processor_config(tiny_of: Maker, tmp_path: Path) -> None:
    """Newer folders keep them there; what the processor itself says stays beside them."""
    folder = tmp_path / "m"
    shutil.copytree(tiny_of("internvl"), folder)
    expected = internvl.read_preprocessing(folder)
    nested = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested, "image_seq_length": 4}))
    assert internvl.read_preprocessing(folder) == expected
