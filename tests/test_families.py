"""Each family's pixels and prompts against the Hugging Face processors', which need no torchvision for pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.chat import question
from edgekit.errors import DataError, EdgekitError
from edgekit.families import FAMILIES, Grid, family_of, internvl, qwen2_5_vl, qwen3_vl
from edgekit.processor import Processor

NAMES = ["qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"]
MODES = ["L", "RGBA", "P", "LA"]
SIZES = [(56, 56), (500, 37), (37, 500), (1, 1), (1, 190), (113, 111), (640, 480), (63, 65), (2000, 1501), (13, 29)]
Maker = Callable[..., Path]


def picture(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
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
        kinds, given["video_processor"] = getattr(transformers, name), None
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    assert type(images).__name__.endswith("Pil")
    return kinds(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template, **given)


def pixels_of(inputs: Any, name: str) -> Any:
    return inputs["pixel_values"][0] if name == "smolvlm" else inputs["pixel_values"]


@pytest.mark.parametrize("name", NAMES)
def test_pixels_and_prompts_equal_the_hugging_face_processor(
    tiny_of: Maker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_of(name)
    theirs, ours = official(folder, monkeypatch), Processor.load(folder)
    cases = [[picture(size)] for size in SIZES] + [[picture((40, 30), mode)] for mode in MODES]
    cases += [[picture((200, 90)), picture((30, 80), seed=1)], []]
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
            np.testing.assert_array_equal(got.pixels.values, pixels_of(expected, name))
        if "image_grid_thw" in expected:
            assert got.pixels is not None and got.pixels.grids == [tuple(row) for row in expected["image_grid_thw"]]
    assert len(seen) > 4  # the pictures do have different numbers of tokens


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_pixels_at_the_hubs_own_sizes(name: str) -> None:
    """The real limits, where a large picture has to be shrunk and a small one enlarged."""
    from transformers import Qwen2VLImageProcessorPil

    old = {"min_pixels": 3136, "max_pixels": 1003520}
    new = {"size": {"shortest_edge": 65536, "longest_edge": 1048576}, "patch_size": 16}
    settings: dict[str, Any] = old if name == "qwen2_5_vl" else new
    theirs = Qwen2VLImageProcessorPil(**settings)
    for size in [(2500, 1300), (1, 1), (31, 57), (3000, 20)]:
        expected = theirs([picture(size)], return_tensors="np")
        got = FAMILIES.load(name).preprocess([picture(size)], read(settings, qwen2_5_vl))
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
        expected = theirs([picture(size)], crop_to_patches=True, return_tensors="np")
        got = internvl.preprocess([picture(size)], read(given, internvl))
        np.testing.assert_array_equal(got.values, expected["pixel_values"])
        assert got.grids == [(int(expected["num_patches"][0]),)]


def test_a_picture_too_long_is_a_clear_error(tiny_of: Maker) -> None:
    processor = Processor.load(tiny_of("qwen2_5_vl"))
    processor.encode(question("q"), [picture((200, 1))])
    with pytest.raises(DataError, match="201 x 1 pixels is too long"):
        processor.encode(question("q"), [picture((201, 1))])


@pytest.mark.parametrize("name", NAMES)
def test_an_image_token_in_a_question_is_refused(tiny_of: Maker, name: str) -> None:
    token = {"internvl": "<IMG_CONTEXT>", "smolvlm": "<image>"}.get(name, "<|image_pad|>")
    with pytest.raises(DataError, match="does not have one image part for each of its 1 images"):
        Processor.load(tiny_of(name)).encode(question(f"what is {token}?"), [picture((8, 8))])


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_answer_ends_with_the_token_that_ends_a_turn(tiny_of: Maker, name: str) -> None:
    """For objectives that learn from the data's own answers."""
    processor = Processor.load(tiny_of(name))
    end = "<end_of_utterance>" if name == "smolvlm" else "<|im_end|>"
    ids = processor.answer_ids(question("what colour?"), "red circle")
    assert processor.tokenizer.decode(ids, skip_special_tokens=False).strip() == f"red circle{end}"


def test_positions_by_hand() -> None:
    """Two words, a picture of 2 x 3 tokens, a word: rows and columns count from where the text stopped."""
    params = {"image_token_id": 9, "merge": 2}
    got = qwen2_5_vl.positions([1, 2, 9, 9, 9, 9, 9, 9, 3], [(1, 4, 6)], params)
    assert got.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_equal_the_models_own(tiny_of: Maker, name: str) -> None:
    import torch

    from edgekit.checkpoint import load_model

    model: Any = load_model(tiny_of(name))
    processor = Processor.load(tiny_of(name))
    for sizes in ([(200, 90)], [(30, 300)], [(60, 90), (100, 40), (8, 8)]):
        inputs = processor.encode(question("what is there?", len(sizes)), [picture(size) for size in sizes])
        assert inputs.pixels is not None
        grids: list[Grid] = inputs.pixels.grids
        got = processor.family.positions(inputs.ids[0].tolist(), grids, processor.params)
        ids = torch.from_numpy(inputs.ids)
        kinds = (ids == model.config.image_token_id).int()
        expected, _ = model.model.get_rope_index(ids, kinds, torch.tensor(grids))
        np.testing.assert_array_equal(got, expected[:, 0].numpy())


def test_model_types() -> None:
    assert family_of("smolvlm").__name__.endswith(".idefics3")
    assert family_of("qwen3_vl") is qwen3_vl and family_of("qwen2_5_vl") is qwen2_5_vl
    with pytest.raises(EdgekitError, match="qwen3_vl"):
        family_of("llava")


def test_settings_nested_in_processor_config(tiny_of: Maker, tmp_path: Path) -> None:
    """Newer folders keep them there; what the processor itself says stays beside them."""
    folder = tmp_path / "m"
    shutil.copytree(tiny_of("internvl"), folder)
    expected = internvl.read_preprocessing(folder)
    nested = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested, "image_seq_length": 4}))
    assert internvl.read_preprocessing(folder) == expected
