"""One schedule and one optimiser over the whole ladder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from edgekit import api
from edgekit.data import samples
from edgekit.distill import carrying
from edgekit.distill.joint import JointTrainer
from edgekit.errors import RecipeError
from edgekit.recipe.reading import read_recipe

STEPS = (2, 3)
RATE = 1e-2


class Killed(BaseException):
    """As abrupt as a kill, for this process."""


@pytest.fixture(scope="module")
def workspace(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_teacher: Path
) -> Callable[..., Path]:
    """Makes a workspace with two teachers of 2 and 3 steps."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"id": one.id, "question": one.text, "image": str(one.images[0].path), "answer": one.answer}
        for one in samples("easy-vqa:test", limit=4)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**trainer: Any) -> Path:
        place = tmp_path_factory.mktemp("w")
        gen = {"check_teacher": False, "check_images": False, "max_new_tokens": 2}
        recipe = {
            "name": "two",
            "teachers": [
                {"checkpoint": str(tiny_teacher), "r_max": 0.0, "steps": STEPS[0]},
                {"checkpoint": str(tiny_checkpoint), "r_max": 0.0, "steps": STEPS[1]},
            ],
            "student": {"checkpoint": str(tiny_checkpoint)},
            "data": {"train": str(folder / "q.jsonl"), "test": str(folder / "q.jsonl")},
            "masters": {"gen_data": gen, "grpo_weight": 0.0},
            "trainer": {
                "batch_questions": 2,
                "learning_rate": RATE,
                "schedule": "cosine",
                "logging_steps": 1,
                "save_steps": 1,
                **trainer,
            },
        }
        (place / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
        return place

    return make


def distil(place: Path) -> str:
    return str(api.distill(place / "edgekit.yaml", workspace=place).student_sha256)


def rates(place: Path) -> list[float]:
    logs = [json.loads((place / f"runs/two/reports/training-{n}.json").read_text()) for n in (1, 2)]
    return [row["learning_rate"] for log in logs for row in log if "loss" in row]


def moments(place: Path, teacher: int, step: int) -> dict[int, dict[str, torch.Tensor]]:
    path = place / f"runs/two/checkpoints/teacher-{teacher}/checkpoint-{step}/optimizer.pt"
    state: dict[int, dict[str, torch.Tensor]] = torch.load(path, weights_only=True)["state"]
    return state


def test_one_schedule_and_its_moments_over_the_ladder(
    workspace: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    straight = workspace(across_teachers="continue")
    student = distil(straight)
    total = sum(STEPS)
    assert rates(straight) == pytest.approx([RATE * (1 + math.cos(math.pi * k / total)) / 2 for k in range(total)])
    # AdamW counts on: its bias corrections are those of five steps.
    assert {int(one["step"]) for one in moments(straight, 2, 3).values()} == {total}

    killed = workspace(across_teachers="continue")
    step, calls = JointTrainer.compute_loss, []

    def dying(at: int) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == at:
                raise Killed
            return step(self, *args, **kwargs)

        return call

    for at in (3, 5):  # before the second teacher's first checkpoint, and behind it
        calls.clear()
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(JointTrainer, "compute_loss", dying(at if at == 3 else 2))
            distil(killed)
    assert distil(killed) == student
    assert rates(killed) == rates(straight)

    anew = workspace()
    assert distil(anew) != student
    teacher_stages = [[RATE * (1 + math.cos(math.pi * k / n)) / 2 for k in range(n)] for n in STEPS]
    assert rates(anew) == pytest.approx([*teacher_stages[0], *teacher_stages[1]])
    assert {int(one["step"]) for one in moments(anew, 2, 3).values()} == {STEPS[1]}
    assert "starts anew" not in capfd.readouterr().err


def test_lost_moments_are_told(workspace: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    place = workspace(across_teachers="continue")
    begin = carrying.CarriedMoments.on_train_begin

    def lost(self: Any, *args: Any, **kwargs: Any) -> None:
        shutil.rmtree(self.before)
        self.before.mkdir()
        begin(self, *args, **kwargs)

    monkeypatch.setattr(carrying.CarriedMoments, "on_train_begin", lost)
    distil(place)
    assert "the optimiser starts anew" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("name", ["linear", "cosine", "constant_with_warmup", "inverse_sqrt", "polynomial"])
def test_a_shifted_schedule_is_the_rest_of_the_whole(name: str) -> None:
    """Of two groups of parameters, as Trainer makes them, each at its own rate."""

    def scheduler() -> LambdaLR:
        one, other = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        optimizer = torch.optim.AdamW([{"params": [one]}, {"params": [other], "lr": 0.1}], lr=0.3)
        made: LambdaLR = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=10)
        return made

    def run(one: LambdaLR, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            found += one.get_last_lr()
            one.optimizer.step()
            one.step()
        return found

    whole = run(scheduler(), 10)
    for first in (0, 2, 6):
        assert run(carrying.shifted(scheduler(), first), 10 - first) == pytest.approx(whole[2 * first :])


def test_moments_of_another_shape_are_left_behind() -> None:
    sizes: list[tuple[int, ...]] = [(2, 3), (4,), (3, 2)]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(size)) for size in sizes])
    kept = {
        number: {"step": torch.tensor(2.0), "exp_avg": torch.ones(shape), "exp_avg_sq": torch.ones(shape)}
        for number, shape in enumerate([(2, 3), (5,), (2, 3), (1,)])
    }
    assert list(carrying._fitting(kept, optimizer)) == [0]


def test_what_does_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(**trainer: Any) -> Any:
        models = {"teachers": [{"checkpoint": "a"}, {"checkpoint": "b"}], "student": {"checkpoint": "s"}}
        return read_recipe({**models, "data": {"train": "x", "test": "y"}, "trainer": trainer})

    with pytest.raises(RecipeError, match="needs all weights"):
        recipe(across_teachers="continue", lora={"rank": 2})
    # A warm-up may be longer than one teacher's share, not than the ladder.
    warm = {"schedule": "cosine", "steps": 10}
    assert recipe(across_teachers="continue", warmup_steps=15, **warm).trainer.warmup_steps == 15
    with pytest.raises(RecipeError, match="longer than the ladder's 20"):
        recipe(across_teachers="continue", warmup_steps=21, **warm)
    with pytest.raises(RecipeError, match="with teacher 1"):
        recipe(warmup_steps=15, **warm)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError, match="FSDP"):
        carrying.check(recipe(across_teachers="continue"))
    carrying.check(recipe())
