"""Whole distillation runs of each family, by the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from edgekit.checkpoint.folder import load_model
from edgekit.data import samples
from edgekit.demo.tiny import NAMES
from edgekit.distill.batch import encode_prompts
from edgekit.distill.generators.transformers import greedy
from edgekit.inputs.chat import question as ask
from edgekit.inputs.processor import Processor

Maker = Callable[..., Path]


def recipe() -> dict[str, Any]:
    return {
        "name": "tiny",
        "teachers": [{"checkpoint": "teacher"}],
        "student": {"checkpoint": "student"},
        "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 6, "test_limit": 4},
        "masters": {
            "mask": {"r_max": 0.2, "step": 0.1},
            "gen_data": {"check_teacher": False, "max_new_tokens": 3, "batch_questions": 6},
        },
        "trainer": {"steps": 3, "batch_questions": 2, "learning_rate": 1e-3, "threads": 1, "bf16": True},
    }


def run(folder: Path, student: Path, teacher: Path) -> dict[str, Any]:
    """`edgekit distill` in its own process; the run's manifest."""
    folder.mkdir()
    (folder / "student").symlink_to(student)
    (folder / "teacher").symlink_to(teacher)
    (folder / "edgekit.yaml").write_text(yaml.safe_dump(recipe()))
    command = [sys.executable, "-m", "edgekit", "distill", "--json"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    manifest: dict[str, Any] = json.loads((folder / "runs/tiny/manifest.json").read_text())
    return manifest


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_run_ends_in_a_loadable_student(tiny_of: Maker, name: str, tmp_path: Path) -> None:
    """Teacher wider than the student; the student's head padded beyond the teacher's."""
    student = tiny_of(name, seed=1, vocab_padding=64)
    manifest = run(tmp_path / "work", student, tiny_of(name, seed=2, width=48))
    assert manifest["status"] == "finished"
    made = tmp_path / "work/runs/tiny/student"
    trained, untrained = load_model(made), load_model(student)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), untrained.parameters(), strict=True))
    processor = Processor.load(made)
    questions = list(samples("easy-vqa:test", limit=4))
    with torch.no_grad():
        assert len(greedy(trained, processor, encode_prompts(processor, questions), 3)) == len(questions)
    log = json.loads((tmp_path / "work/runs/tiny/reports/training-1.json").read_text())
    assert np.isfinite(log[-1]["train_loss"])


@pytest.mark.slow
def test_a_run_whose_teacher_has_other_image_tokens(tiny_of: Maker, tmp_path: Path) -> None:
    """The teacher sees four times the pixels: its prompts are longer, the answers align all the same."""
    teacher = tmp_path / "sharp"
    shutil.copytree(tiny_of("qwen2_5_vl", seed=2, width=48), teacher)
    path = teacher / "preprocessor_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "min_pixels": 28 * 28 * 16, "max_pixels": 28 * 28 * 64})
    )
    image = Image.new("RGB", (64, 64), "red")
    lengths = [
        Processor.load(folder).encode(ask("q"), [image]).ids.shape[1]
        for folder in (teacher, tiny_of("qwen2_5_vl", seed=1))
    ]
    assert lengths[0] > lengths[1]
    assert run(tmp_path / "work", tiny_of("qwen2_5_vl", seed=1), teacher)["status"] == "finished"


@pytest.mark.slow
def test_a_run_over_images_in_tiles(tiny_of: Maker, tmp_path: Path) -> None:
    """LFM2-VL, both sides cutting each image into four tiles with a view of the whole."""
    folders = []
    for name, given in (("sharp", {"seed": 1}), ("wide", {"seed": 2, "width": 48})):
        folders.append(tmp_path / name)
        shutil.copytree(tiny_of("lfm2_vl", **given), folders[-1])
        path = folders[-1] / "preprocessor_config.json"
        settings = {"min_image_tokens": 1, "max_image_tokens": 2, "max_pixels_tolerance": 1.0}
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    (first,) = samples("easy-vqa:train", limit=1)
    inputs = Processor.load(folders[0]).encode(first.messages, [image.open() for image in first.images])
    assert inputs.pixels is not None and [grid[:2] for grid in inputs.pixels.grids] == [(2, 2)]
    assert run(tmp_path / "work", *folders)["status"] == "finished"
