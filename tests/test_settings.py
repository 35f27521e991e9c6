"""Settings of processor files: followed as transformers follows them, or refused by the names of file and field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.demo.tiny import NAMES
from edgekit.errors import CheckpointError
from edgekit.inputs.agreement import _compare, odd_images
from edgekit.inputs.chat import question
from edgekit.inputs.images import from_unit
from edgekit.inputs.official import load_processor
from edgekit.inputs.processor import Processor

Maker = Callable[..., Path]
IMAGES, PROCESSOR, TOKENIZER = "preprocessor_config.json", "processor_config.json", "tokenizer.json"
STEPS: list[dict[str, Any]] = [
    {"do_rescale": False, "resample": 0}, {"do_rescale": None, "rescale_factor": None, "resample": 4},
    {"rescale_factor": 1 / 127.5, "resample": 5}, {"rescale_factor": 2, "do_normalize": False},
    {"do_normalize": False, "do_rescale": False}, {"image_mean": 0.4, "image_std": [0.2, 0.3, 0.4]},
    {"image_mean": None, "image_std": None, "do_normalize": None},
]  # fmt: skip
OWN: dict[str, list[dict[str, Any]]] = {
    "smolvlm": [
        {"size": {"height": 100, "width": 150}}, {"size": 90}, {"size": {"longest_edge": 70}},
        {"size": {"shortest_edge": 20, "longest_edge": 130}}, {"size": [80, 130]}, {"do_image_splitting": None},
        {"do_image_splitting": False}, {"do_resize": False}, {"do_resize": False, "do_image_splitting": False},
        {"do_resize": None, "size": None, "resample": None},
        {"do_resize": None, "resample": None, "do_image_splitting": None},
        {"do_pad": None}, {"do_center_crop": True, "crop_size": {"height": 9, "width": 9}},
    ],
    "internvl": [
        {"size": 56}, {"size": [56, 56]}, {"min_patches": 3}, {"max_patches": 1}, {"do_resize": None, "resample": None},
        {"crop_to_patches": None}, {"do_resize": False}, {"min_patches": 5, "max_patches": 2},
        {"do_center_crop": True, "crop_size": 9},
    ],
    "qwen2_5_vl": [
        {"min_pixels": None, "size": {"shortest_edge": 3136, "longest_edge": 99999}}, {"max_pixels": 4000},
        {"min_pixels": None, "max_pixels": None, "size": {"shortest_edge": 900, "longest_edge": 40000}},
        {"min_pixels": None, "max_pixels": None, "size": None}, {"do_resize": None, "resample": None, "size": None},
        {"do_resize": False}, {"do_center_crop": True, "crop_size": 28},
    ],
    "qwen3_vl": [{"size": {"shortest_edge": 1024, "longest_edge": 5000}}, {"min_pixels": 4096}, {"do_resize": False}],
    "llava_onevision": [
        {"size": 42}, {"size": {"shortest_edge": 42}}, {"do_resize": False}, {"do_center_crop": False},
        {"crop_size": 42}, {"crop_size": {"height": 42, "width": 42}, "do_center_crop": True},
    ],
    "gemma3": [
        {"size": 56}, {"size": [56, 56]}, {"do_convert_rgb": False}, {"do_pan_and_scan": None},
        {"do_pad": True, "pad_size": 99},
    ],
    "lfm2_vl": [],
    "qwen3_5": [{"min_pixels": 4096}],
}  # fmt: skip
ALONE = (
    "qwen3_vl",
    "qwen3_5",
    "lfm2_vl",
)  # two share their code, one has no other without torchvision
FOLLOWED = [(name, change) for name in NAMES for change in [*(STEPS if name not in ALONE else []), *OWN[name]]]


def changed(folder: Path, out: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """A copy of a checkpoint, values of its JSON files replaced."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors"))
    for name, values in changes.items():
        path = out / name
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**before, **values}))
    return out


def check_equal(folder: Path) -> None:
    """Ids and pixels are those of transformers' own processor, for images of odd shapes and modes."""
    ours, theirs = Processor.load(folder), load_processor(folder)
    for image in list(odd_images())[1:7]:
        if image.width < 1000:
            assert _compare(ours, theirs, question("what is there?"), [image]) == (True, 0.0)


@pytest.mark.parametrize(("name", "change"), FOLLOWED, ids=lambda value: json.dumps(value).replace(" ", "")[:60])
def test_settings_are_followed(tiny_of: Maker, tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    check_equal(changed(tiny_of(name), tmp_path / "m", {IMAGES: change}))


WRONG: list[dict[str, Any]] = [
    {"resample": 99}, {"resample": "bicubic"}, {"rescale_factor": 0}, {"rescale_factor": "1/255"},
    {"image_mean": [0.5, 0.5]}, {"image_mean": "grey"}, {"image_std": [0.5, 0.0, 0.5]}, {"image_std": [0.5] * 4},
    {"do_normalize": "yes"}, {"do_rescale": 3}, {"image_processor_type": "CLIPImageProcessor"},
    {"image_processor_type": 7}, {"resample": None}, {"rescale_factor": None}, {"image_mean": None},
    {"image_std": None},
]  # fmt: skip
OWN_WRONG: dict[str, list[dict[str, Any]]] = {
    "smolvlm": [
        {"size": {"longest_edge": 0}}, {"size": {"shortest_edge": 64}}, {"size": "large"}, {"size": {"edge": 3}},
        {"max_image_size": {"longest_edge": 32}}, {"max_image_size": {"height": 64, "width": 64}},
        {"max_image_size": {"longest_edge": 0}}, {"do_convert_rgb": False}, {"do_image_splitting": "no"},
        {"do_convert_rgb": None}, {"size": None}, {"max_image_size": None},
        {"size": {"longest_edge": -5}}, {"size": {"longest_edge": 1e9}}, {"size": {"longest_edge": 10**9}},
    ],
    "internvl": [
        {"size": {"shortest_edge": 56}}, {"size": {"height": 28, "width": 56}}, {"size": {"height": 0, "width": 56}},
        {"max_patches": None}, {"size": None}, {"max_patches": 0}, {"max_patches": "twelve"}, {"max_patches": 10**9},
        {"do_convert_rgb": False},
        {"do_resize": False, "max_patches": 1},
    ],
    "qwen2_5_vl": [
        {"size": {"height": 28, "width": 28}}, {"min_pixels": 9000, "max_pixels": 100}, {"patch_size": 16},
        {"merge_size": 3}, {"temporal_patch_size": 1}, {"min_pixels": 0}, {"max_pixels": "many"},
        {"do_convert_rgb": False},
    ],
    "qwen3_vl": [{"size": {"shortest_edge": 1024}}, {"size": 448}, {"patch_size": 14}, {"merge_size": 0}],
    "qwen3_5": [{"size": 448}, {"patch_size": 14}],
    "llava_onevision": [
        {"size": 28}, {"size": {"height": 42, "width": 28}}, {"crop_size": 14}, {"do_center_crop": True},
        {"image_grid_pinpoints": [[42, 42]]}, {"image_grid_pinpoints": [[42, 50]]}, {"image_grid_pinpoints": "all"},
        {"image_grid_pinpoints": [[0, 42]]},
    ],
    "gemma3": [{"size": {"height": 28, "width": 28}}, {"do_resize": False}, {"size": {"shortest_edge": 56}}],
    "lfm2_vl": [
        {"tile_size": 50}, {"encoder_patch_size": 8}, {"downsample_factor": 3}, {"min_tiles": 9}, {"do_pad": False},
        {"min_image_tokens": 99}, {"max_tiles": 10**6}, {"tile_size": 0}, {"resample": 3},
    ],
}  # fmt: skip
REFUSED = [(name, change) for name in NAMES for change in [*WRONG, *OWN_WRONG[name]]]


@pytest.mark.parametrize(("name", "change"), REFUSED, ids=lambda value: json.dumps(value).replace(" ", "")[:60])
def test_settings_are_refused_by_name(tiny_of: Maker, tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    folder = changed(tiny_of(name), tmp_path / "m", {IMAGES: change})
    with pytest.raises(CheckpointError) as caught:
        Processor.load(folder)
    assert IMAGES in caught.value.what and any(field in caught.value.what for field in change)


CONTRADICTIONS: list[tuple[str, dict[str, dict[str, Any]], str]] = [
    ("smolvlm", {PROCESSOR: {"image_seq_len": 9}}, "image_seq_len is 9; the model's is 4"),
    ("smolvlm", {PROCESSOR: {"image_seq_len": None}}, "image_seq_len is None"),
    ("smolvlm", {PROCESSOR: {"image_seq_len": "four"}}, "image_seq_len is 'four'"),
    ("internvl", {PROCESSOR: {"image_seq_length": 16}}, "image_seq_length is 16; the model's is 4"),
    ("gemma3", {PROCESSOR: {"image_seq_length": 256}}, "image_seq_length is 256; the model's is 4"),
    ("llava_onevision", {PROCESSOR: {"num_image_tokens": 729}}, "num_image_tokens is 729; the model's is 9"),
    ("llava_onevision", {PROCESSOR: {"num_image_tokens": None}}, "num_image_tokens is None"),
    ("llava_onevision", {PROCESSOR: {"vision_aspect_ratio": "anyres_max_9"}}, "vision_aspect_ratio is anyres_max_9"),
    ("llava_onevision", {PROCESSOR: {"vision_aspect_ratio": None}}, "vision_aspect_ratio is None"),
    ("llava_onevision", {PROCESSOR: {"vision_feature_select_strategy": "default"}}, "vision_feature_select_strategy"),
    ("llava_onevision", {"config.json": {"vision_feature_select_strategy": "default"}}, "config.json: vision_feature"),
    ("qwen2_5_vl", {"config.json": {"vision_config": "large"}}, "config.json: vision_config is 'large'"),
    ("smolvlm", {"config.json": {"scale_factor": 0}}, "config.json: scale_factor is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "words"), CONTRADICTIONS)
def test_what_the_model_contradicts(
    tiny_of: Maker, tmp_path: Path, name: str, changes: dict[str, dict[str, Any]], words: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        Processor.load(changed(tiny_of(name), tmp_path / "m", changes))
    assert words in caught.value.what and next(iter(changes)) in caught.value.what


def test_mean_and_deviation_of_pixels_from_0_to_1() -> None:
    """(255 * factor * p - mean) / std is (p - mean') / std', for p from 0 to 1."""
    params = {"rescale_factor": 1 / 127.5, "mean": [1.0, 0.5, 0.0], "std": [1.0, 2.0, 0.5]}
    mean, std = from_unit(params)
    assert mean == pytest.approx([0.5, 0.25, 0.0]) and std == pytest.approx([0.5, 1.0, 0.25])
    usual = {"rescale_factor": 1 / 255, "mean": [0.48145466] * 3, "std": [0.26862954] * 3}
    assert from_unit(usual) == (usual["mean"], usual["std"])
