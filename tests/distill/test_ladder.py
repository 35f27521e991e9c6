"""A ladder of three teachers, each with its own schedule, objectives that keep state and layers; killed and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from edgekit import api
from edgekit.data import samples
from edgekit.distill import gen_data
from edgekit.distill.joint import JointTrainer
from edgekit.errors import EdgekitError
from edgekit.seal import read_sealed_json


class Killed(BaseException):
    """As abrupt as a kill, for this process."""


@pytest.fixture(scope="module")
def ladder(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, checkpoint_maker: Callable[..., Path]
) -> Callable[[], Path]:
    """Makes a workspace with a student and three teachers of rising width."""
    models = tmp_path_factory.mktemp("models")
    for number, width in enumerate((32, 48, 64)):
        (models / f"t{number}").mkdir()
        checkpoint_maker(models / f"t{number}", seed=number + 5, width=width)
    rows = [
        {"id": one.id, "question": one.text, "image": str(one.images[0].path), "answer": one.answer}
        for one in samples("easy-vqa:test", limit=8)
    ]
    (models / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make() -> Path:
        place = tmp_path_factory.mktemp("w")
        recipe = {
            "name": "ladder",
            "teachers": [
                {"checkpoint": str(models / "t0"), "r_max": 0.2, "r_step": 0.2, "steps": 2},
                {"checkpoint": str(models / "t1"), "r_max": 0.4, "r_step": 0.2, "steps": 3},
                {"checkpoint": str(models / "t2"), "r_max": 0.0},
            ],
            "student": {"checkpoint": str(tiny_checkpoint)},
            "data": {"train": str(models / "q.jsonl"), "test": str(models / "q.jsonl")},
            "objective": {"taid": 1.0, "align_kd": 0.5},
            "objective_settings": {"taid": {"t0": 0.1, "rate": 0.05}},
            "masters": {"gen_data": {"check_teacher": False, "max_new_tokens": 2}},
            "trainer": {
                "steps": 2,
                "batch_questions": 4,
                "learning_rate": 1e-2,
                "save_steps": 1,
                "logging_steps": 1,
                "attention": "eager",
            },
        }
        (place / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
        return place

    return make


def distil(place: Path) -> dict[str, Any]:
    return api.distill(place / "edgekit.yaml", workspace=place).as_json()


def test_three_teachers_killed_at_the_second(
    ladder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    straight = ladder()
    manifest = distil(straight)
    shown = capfd.readouterr().err
    assert [teacher_stage["mask_ratios"] for teacher_stage in manifest["schedule"]] == [
        [0.2, 0.0],
        [0.4, 0.2, 0.0],
        [0.0],
    ]
    assert "teacher 1 of 3, mask 0.20" in shown and "teacher 3 of 3, mask 0.00" in shown
    kept = read_sealed_json(straight / "runs/ladder/mask-thresholds.json")
    assert {name: list(ratios) for name, ratios in kept.items()} == {
        "teacher-1": ["0.2", "0"],
        "teacher-2": ["0.4", "0.2", "0"],
        "teacher-3": ["0"],
    }
    drawn = {path.name.partition("-mask-")[2] for path in (straight / "runs/ladder/responses").glob("teacher-*")}
    assert drawn == {"0.2000", "0.0000", "0.4000"}
    with safe_open(str(next((straight / "runs/ladder/student").glob("*.safetensors"))), "pt") as weights:
        assert not [name for name in weights.keys() if "adapter" in name]  # noqa: SIM118

    killed = ladder()
    step, calls = JointTrainer.compute_loss, []

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # the third step of the second teacher: two of its checkpoints are written
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(JointTrainer, "compute_loss", dying)
        distil(killed)
    state = json.loads((killed / "runs/ladder/checkpoints/teacher-2/checkpoint-2/objectives.json").read_text())
    assert state["taid"]["t"] > 0.1 and state["taid"]["previous"] > 0
    assert distil(killed)["student_sha256"] == manifest["student_sha256"]
    assert log_of(killed) == log_of(straight)


def log_of(place: Path) -> list[dict[str, float]]:
    """The second teacher's log, step by step, without what a clock decides."""
    rows = json.loads((place / "runs/ladder/reports/training-2.json").read_text())
    return [{key: row[key] for key in ("step", "loss", "taid", "align_kd", "mask")} for row in rows if "loss" in row]


def test_a_teacher_that_answers_nothing(ladder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of it is kept."""
    place = ladder()
    respond = gen_data._respond

    def mute(writer: Any, *rest: Any) -> Iterator[dict[str, Any]]:
        for row in respond(writer, *rest):
            yield {**row, "text": " "} if writer.source == "teacher" else row

    monkeypatch.setattr(gen_data, "_respond", mute)
    # Four responses to each of the four questions of the one step that is trained at mask 0.2.
    with pytest.raises(EdgekitError, match=r"t0 answers nothing: all 16 responses .* at mask ratio 0\.2"):
        distil(place)
    assert not list((place / "runs/ladder/responses").glob("*/shard-*"))
    monkeypatch.undo()
    assert distil(place)["status"] == "finished"
