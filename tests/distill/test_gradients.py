"""The gradients of the loss's terms, by hand and in a run, and what a run's end says of rewards and gradients."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from edgekit import api
from edgekit.commands.distill import _print_training
from edgekit.data import samples
from edgekit.distill import processes
from edgekit.distill.gradients import at_war, term_gradients, training_summary
from edgekit.distill.masters import Pipeline
from edgekit.errors import RecipeError
from edgekit.recipe.reading import read_recipe


def test_norms_and_angle_by_hand() -> None:
    one, two = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))
    frozen = nn.Parameter(torch.tensor(1.0), requires_grad=False)
    # Gradients (3, 4; 0), (-3, 0; 4) and none at all: product -9, norms 5 and 5.
    terms = {
        "objective": 3 * one[0] + 4 * one[1] * frozen,
        "policy": -3 * one[0] + 4 * two,
        "kl": torch.zeros(()),
    }
    found = term_gradients(terms, [one, two, frozen])
    expected = {"objective": 5.0, "policy": 5.0, "kl": 0.0, "cosine": -9 / 25}
    assert found == pytest.approx({f"gradient_{name}": value for name, value in expected.items()})
    assert one.grad is None and two.grad is None
    assert not at_war(found)  # not larger
    assert at_war({**found, "gradient_policy": 5.1}) and not at_war({**found, "gradient_cosine": 0.1})
    assert term_gradients({"objective": terms["objective"]}, [one])["gradient_objective"] == pytest.approx(5)


def test_a_gradient_of_zero_has_no_angle() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    found = term_gradients({"objective": weight[0], "policy": 0 * weight[0]}, [weight])
    assert found["gradient_cosine"] == 0.0


def test_summary_weighs_by_steps(capsys: pytest.CaptureFixture[str]) -> None:
    look = {"gradient_objective": 1.0, "gradient_policy": 3.0, "gradient_kl": 0.5, "gradient_cosine": -0.5, "step": 0}
    calm = {**look, "gradient_cosine": 0.25, "step": 2}
    log: list[dict[str, Any]] = [
        look,
        {"loss": 1.0, "no_advantage": 0.5, "cancelled": 0.0, "step": 2},
        calm,
        {"loss": 1.0, "no_advantage": 0.25, "cancelled": 0.2, "step": 8},
        {"train_runtime": 3, "step": 8},
    ]
    second = [{"loss": 1.0, "no_advantage": 1.0, "cancelled": 1.0, "step": 2}]
    found = training_summary([log, second])
    assert found["no_advantage"] == pytest.approx((2 * 0.5 + 6 * 0.25 + 2 * 1.0) / 10)
    assert found["cancelled"] == pytest.approx((6 * 0.2 + 2 * 1.0) / 10)
    assert found["gradients"]["measured"] == 2 and found["gradients"]["at_war"] == 1
    assert found["gradients"]["means"] == {"objective": 1.0, "policy": 3.0, "kl": 0.5, "cosine": -0.125}
    _print_training(found)
    shown = capsys.readouterr()
    assert "no response preferred in 45.0% of the groups, in 32.0% as they cancel" in shown.out
    assert "At 1 of 2 looks" in " ".join(shown.err.split())
    _print_training(training_summary([[{"loss": 1.0, "jsd": 0.1, "step": 2}]]))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("extra", [{}, {"gradient_checkpointing": True, "gradient_accumulation": 2}])
def test_a_look_changes_nothing_of_the_training(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, extra: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": one.id, "question": one.text, "image": str(one.images[0].path), "answer": one.answer}
        for one in samples("easy-vqa:test", limit=4)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "teachers": [{"checkpoint": str(tiny_teacher), "r_max": 0.0}],
        "student": {"checkpoint": str(tiny_checkpoint)},
        "data": {"train": str(tmp_path / "q.jsonl"), "test": str(tmp_path / "q.jsonl")},
        "masters": {"gen_data": {"check_teacher": False, "check_images": False, "max_new_tokens": 2}},
        "trainer": {"steps": 4, "batch_questions": 2, "learning_rate": 1e-2, "logging_steps": 2, **extra},
    }
    logs, hashes = [], []
    for every in (0, 2):
        place = tmp_path / str(every)
        place.mkdir()
        recipe["trainer"]["log_gradients"] = every  # type: ignore[index]
        (place / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
        manifest = api.distill(place / "edgekit.yaml", workspace=place).as_json()
        hashes.append(manifest["student_sha256"])
        logs.append(json.loads((place / "runs/masters/reports/training-1.json").read_text()))
    assert hashes[0] == hashes[1]
    looks = [row for row in logs[1] if "gradient_policy" in row]
    assert [row["step"] for row in looks] == [0, 2] and not [row for row in logs[0] if "gradient_policy" in row]
    assert manifest["training"]["gradients"]["measured"] == 2 and 0 <= manifest["training"]["no_advantage"] <= 1
    assert all(math.isfinite(row[f"gradient_{name}"]) for row in looks for name in ("policy", "objective", "kl"))
    assert looks[0]["gradient_objective"] > 0 and abs(looks[0]["gradient_kl"]) < 1e-3  # pi_ref is the student still
    assert ("larger than the objective's" in " ".join(capfd.readouterr().err.split())) == any(map(at_war, looks))


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"teachers": [{"checkpoint": "demo:teacher"}], "student": {"checkpoint": "demo:student"}}
    data = {"train": "easy-vqa:train", "test": "easy-vqa:test"}
    recipe = read_recipe({**models, "data": data, "trainer": {"log_gradients": 5}})
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(RecipeError, match="log_gradients: 5 works in one process, and there are 2"):
        Pipeline(recipe, tmp_path)
