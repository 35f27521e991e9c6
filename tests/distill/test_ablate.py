"""Ablations: the arms, their comparison by hand, and a whole one, stopped and resumed."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgekit.distill import ablate
from edgekit.distill.ablate import Ablation, arms_of, markdown
from edgekit.errors import EdgekitError
from edgekit.recipe import Recipe, ablation_recipe_path, load_recipe, read_recipe
from edgekit.stats import seeds_interval


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(ablation_recipe_path())


def test_arms(recipe: Recipe) -> None:
    arms = arms_of(recipe)
    assert list(arms) == list(ablate.ARMS)
    total = sum(recipe.steps(number) for number in range(2))
    for name, arm in arms.items():
        assert sum(arm.steps(number) for number in range(len(arm.teachers))) == total, name
        assert arm.masters.gen_data == recipe.masters.gen_data and arm.data == recipe.data
        assert arm.trainer.batch_questions == recipe.trainer.batch_questions
    assert arms["full"] == recipe
    masked = {name for name, arm in arms.items() if arm.r_max(0) != 0}
    rewarded = {name for name, arm in arms.items() if arm.masters.grpo_weight}
    ladder = {name for name, arm in arms.items() if len(arm.teachers) == 2}
    assert masked == {"mask", "full", "full_without_mid"}
    assert rewarded == {"rewards", "full", "full_without_mid"}
    assert ladder == {"mid", "mask", "rewards", "full"}
    assert arms["taid"].objective == {"taid": 1.0} and arms["align_kd"].trainer.attention == "eager"
    assert {arm.teachers[-1].checkpoint for arm in arms.values()} == {"demo:teacher"}


def test_arms_that_are_the_same_run_are_run_once(recipe: Recipe) -> None:
    alone = dataclasses.replace(recipe, teachers=recipe.teachers[1:])
    assert list(arms_of(alone)) == ["jsd", "mask", "rewards", "full", "taid", "align_kd"]
    assert list(arms_of(recipe, ["full"])) == ["jsd", "full"]  # never without what it is compared with
    with pytest.raises(EdgekitError, match="no arm 'fulll'"):
        arms_of(recipe, ["fulll"])


def test_seeds_interval_by_hand() -> None:
    low, high = seeds_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # t of 2 degrees of freedom at 97.5 %
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def scores(folder: Path, seed: int, arm: str, when: str, values: list[float]) -> None:
    reports = folder / f"seed-{seed}" / arm / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    (reports / f"accuracy-{when}.json").write_text(json.dumps({"ids": [], "answers": [], "scores": values}))


def test_report_by_hand(recipe: Recipe, tmp_path: Path) -> None:
    made = Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 2)
    for seed in (0, 1):
        scores(made.folder, seed, "jsd", "before", [0.0] * 100)
        scores(made.folder, seed, "jsd", "after", [1.0] * 50 + [0.0] * 50)
        scores(made.folder, seed, "full", "after", [1.0] * (60 + 2 * seed) + [0.0] * (40 - 2 * seed))
    result = made.report()
    plain, full = result["arms"]
    assert plain["gain"] is None and plain["accuracy"] == (0.5, 0.5) and plain["verdict"] == ""
    assert full["mean"] == pytest.approx(0.61) and full["gain"] == pytest.approx(0.11)
    assert full["over_seeds"] == pytest.approx(seeds_interval([0.10, 0.12]))
    low, high = full["over_questions"]
    assert 0.05 < low < 0.11 < high < 0.18 and full["verdict"] == "open"  # two seeds are never enough
    assert full["teacher_forwards"] == plain["teacher_forwards"] == 450 * 32 * 8
    assert "| full MASTERS | 61.00 (60.00, 62.00) | +11.00 |" in (made.folder / "report.md").read_text()
    assert markdown(result).count("\n| ") == 4
    assert b"<svg" in (made.folder / "gain.svg").read_bytes()


def test_what_is_unlearnt_has_a_column(recipe: Recipe, tmp_path: Path) -> None:
    other = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, retention="easy-vqa:train"))
    made = Ablation(other, tmp_path, tmp_path / "a", ["full"], 2)
    for seed in (0, 1):
        for arm, right in (("jsd", 70), ("full", 40 + 20 * seed)):
            scores(made.folder, seed, arm, "before", [0.0] * 100)
            scores(made.folder, seed, arm, "after", [1.0] * 50 + [0.0] * 50)
            scores(made.folder, seed, arm, "retention-before", [1.0] * 80 + [0.0] * 20)
            scores(made.folder, seed, arm, "retention-after", [1.0] * right + [0.0] * (100 - right))
    result = made.report()
    assert result["untouched"]["retention"] == 0.8
    plain, full = (arm["retention"] for arm in result["arms"])
    assert plain[0] == pytest.approx(-0.1) and full[0] == pytest.approx(-0.3)  # (0.4 + 0.6) / 2 - 0.8
    assert full[1] < -0.3 < full[2] < 0
    text = markdown(result)
    assert "verdict | what else it could |" in text and "| -30.00 [" in text and "| 80.00 |" in text


def test_verdicts() -> None:
    def arm(questions: Any, seeds: Any) -> str:
        return ablate.Arm("x", "x", (0.5,), 0.5, 0.1, questions, seeds, 1, 1).verdict

    assert arm((0.1, 0.2), (0.05, 0.3)) == "better" and arm((-0.2, -0.1), (-0.3, -0.1)) == "worse"
    assert arm((0.1, 0.2), (-0.05, 0.3)) == "open" and arm((0.1, 0.2), None) == ""


def test_another_recipe_in_the_folder_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 1)
    other = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, learning_rate=1e-4))
    with pytest.raises(EdgekitError, match="another recipe"):
        Ablation(other, tmp_path, tmp_path / "a", ["full"], 1)
    missing = read_recipe({**yaml.safe_load(ablation_recipe_path().read_text()), "student": {"checkpoint": "nowhere"}})
    with pytest.raises(EdgekitError):
        Ablation(missing, tmp_path, tmp_path / "b", None, 1)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_whole_ablation_killed_and_resumed(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, checkpoint_maker: Any
) -> None:
    """All arms on a ladder of two tiny teachers; killed in the middle it ends in the same report."""
    large = tmp_path / "large"
    large.mkdir()
    checkpoint_maker(large, seed=5, width=64)
    recipe = {
        "name": "tiny",
        "teachers": [{"checkpoint": str(tiny_teacher), "steps": 2}, {"checkpoint": str(large), "r_max": "auto"}],
        "student": {"checkpoint": str(tiny_checkpoint)},
        "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 24, "test_limit": 12},
        "masters": {
            "mask": {"r_max": 0.4, "step": 0.4},
            "probe": {"questions": 8, "step": 0.4},
            "gen_data": {"check_teacher": False, "max_new_tokens": 3, "shard_questions": 8},
        },
        "trainer": {"steps": 3, "batch_questions": 4, "learning_rate": 1e-3, "save_steps": 1, "threads": 1},
    }
    command = [sys.executable, "-m", "edgekit", "ablate", "--seeds", "2", "--json"]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    whole = subprocess.run(command, cwd=tmp_path / "whole", capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr[-3000:]
    expected = json.loads(whole.stdout)
    assert len(expected["arms"]) == 8 and expected["questions"] == 12
    folder = tmp_path / "killed/runs/tiny-ablation"
    for stop in ("seed-0/mid/manifest.json", "seed-0/taid/checkpoints", "seed-1/rewards/recipe.yaml"):
        with subprocess.Popen(command, cwd=tmp_path / "killed", stdout=-3, stderr=-3) as process:
            end = time.monotonic() + 300
            while process.poll() is None and not (folder / stop).exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(0.3)
            process.send_signal(signal.SIGKILL)
    resumed = subprocess.run(command, cwd=tmp_path / "killed", capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert json.loads(resumed.stdout) == expected
    arm = json.loads((folder / "seed-1/full/manifest.json").read_text())
    assert len(arm["schedule"]) == 2 and arm["schedule"][0]["mask_ratios"] == [0.4, 0.0]
    # One pass of responses per teacher and ratio serves all arms of a seed.
    passes = sorted(path.name for path in (folder / "seed-0/responses").iterdir())
    assert len(passes) == len(set(passes)) and "student-1" in passes
    assert not list(folder.glob("seed-*/*/checkpoints"))
    assert np.isfinite([arm["mean"] for arm in expected["arms"]]).all()
