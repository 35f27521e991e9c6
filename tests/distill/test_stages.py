"""Gen-Data and training by stage: nothing twice, nothing lost, the optimiser goes on; runs through a server."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from openai_double import Answer, images, said, serve, share, text

from edgekit import api
from edgekit.checkpoint.folder import load_model
from edgekit.data import samples as read
from edgekit.distill import gen_data, masters, measuring
from edgekit.distill import shards as shard_files
from edgekit.distill.evaluate import Evaluation
from edgekit.distill.joint import JointTrainer
from edgekit.distill.responses import Responses
from edgekit.distill.teacher_stages import Stage, TeacherStage
from edgekit.errors import EdgekitError


class Killed(BaseException):
    """As abrupt as a kill, for this process: nothing of edgekit catches it."""


def workspace(folder: Path, student: Path, teacher: Path, **gen: Any) -> Path:
    folder.mkdir()
    (folder / "student").symlink_to(student)
    (folder / "teacher").symlink_to(teacher)
    settings = {"max_new_tokens": 3, "shard_questions": 8, "batch_questions": 8, **gen}
    recipe = {
        "name": "tiny",
        "teachers": [{"checkpoint": "teacher"}],
        "student": {"checkpoint": "student"},
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "train.jsonl"), "test_limit": 4},
        "masters": {"mask": {"r_max": 0.4, "step": 0.2}, "gen_data": {"check_teacher": False, **settings}},
        "trainer": {"steps": 9, "batch_questions": 4, "learning_rate": 1e-2, "save_steps": 2, "threads": 1},
    }
    (folder / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    rows = [
        {"id": one.id, "question": one.text, "image": str(one.images[0].path), "answer": one.answer}
        for one in read("easy-vqa:test", limit=16)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def distil(folder: Path, **overrides: str) -> dict[str, Any]:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    return api.distill(folder / "edgekit.yaml", workspace=folder, overrides=named).as_json()


def shards(folder: Path) -> dict[str, bytes]:
    base = folder / "runs/tiny/responses"
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in sorted(base.rglob("*.parquet"))}


def teachers(folder: Path, ratio: str) -> Path:
    """The folder of the teacher's responses at a mask ratio."""
    (found,) = (folder / "runs/tiny/responses").glob(f"teacher-*-mask-{ratio}")
    return found


@pytest.fixture(scope="module")
def per_stage(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_teacher: Path) -> Path:
    """A straight run whose student is asked anew at each stage."""
    folder = tmp_path_factory.mktemp("straight") / "w"
    distil(workspace(folder, tiny_checkpoint, tiny_teacher, student_refresh="per_stage"))
    return folder


def after(calls: int, action: Callable[..., Any]) -> Callable[..., Any]:
    """`action`, killed at its call number `calls`, from 0."""
    left = [calls]

    def run(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return action(*args, **kwargs)

    return run


def test_each_stage_asks_the_student_as_it_stands(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch, per_stage: Path
) -> None:
    asked: list[dict[str, torch.Tensor]] = []
    trained: list[dict[str, torch.Tensor]] = []
    write, train = Responses._write_student, masters.run_trainer

    def writing(self: Responses, folder: Path, load: Callable[[], Any], write_all: Any) -> None:
        model = load()
        asked.append({name: value.clone() for name, value in model.state_dict().items()})
        write(self, folder, lambda: model, write_all)

    def training(trainer: Any, *rest: Any) -> None:
        train(trainer, *rest)
        trained.append({name: value.clone() for name, value in trainer.model.state_dict().items()})

    monkeypatch.setattr(Responses, "_write_student", writing)
    monkeypatch.setattr(masters, "run_trainer", training)
    folder = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher, student_refresh="per_stage")
    manifest = distil(folder)
    assert len(asked) == len(trained) == 3
    for seen, was in zip(asked, [load_model(tiny_checkpoint).state_dict(), *trained], strict=False):
        assert all(torch.equal(seen[name], was[name]) for name in was)
    assert not all(torch.equal(asked[0][name], asked[1][name]) for name in asked[0])
    names = {re.sub("-[0-9a-f]{12}-", "-1-", name.partition("/")[0]) for name in shards(folder)}
    assert names == {f"{who}-1-mask-0.{ratio}000" for who in ("student", "teacher") for ratio in (4, 2, 0)}
    steps = [row["step"] for row in json.loads((folder / "runs/tiny/reports/training-1.json").read_text())]
    assert steps[-1] == 9 and manifest["student_sha256"] == _student(per_stage)


def _student(folder: Path) -> str:
    return str(json.loads((folder / "runs/tiny/manifest.json").read_text())["student_sha256"])


def test_training_in_stages_is_training_in_one(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch, per_stage: Path
) -> None:
    """On the same responses, one stretch of nine steps ends in the same weights as three of three: AdamW's moments,
    the schedule and the order of the questions go on from stage to stage."""
    folder = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher, student_refresh="per_stage")
    for name, data in shards(per_stage).items():
        (folder / "runs/tiny/responses" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "runs/tiny/responses" / name).write_bytes(data)
    monkeypatch.setattr(TeacherStage, "stages", property(lambda self: [Stage(self.ratios, 0, 9)]))
    trained = []
    train = masters.run_trainer
    monkeypatch.setattr(masters, "run_trainer", lambda *args: (trained.append(1), train(*args)))
    manifest = distil(folder, masters__gen_data__check_images="false")
    assert len(trained) == 1 and manifest["student_sha256"] == _student(per_stage)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
def test_killed_between_and_within_stages(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, per_stage: Path, checkpoint: bool
) -> None:
    folder = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher, student_refresh="per_stage")

    def kill(place: Any, name: str, calls: int) -> None:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(place, name, after(calls, getattr(place, name)))
            distil(folder)

    if checkpoint:
        kill(JointTrainer, "_save_checkpoint", 0)  # the first of all
        kill(JointTrainer, "_save_checkpoint", 1)  # the one that ends stage 1
        kill(Responses, "_write_student", 0)  # stage 1 is trained, stage 2 not begun
        kill(JointTrainer, "_save_checkpoint", 1)
    else:
        kill(gen_data, "write_shard", 3)  # the student's second shard of stage 1 (teacher first)
        kill(JointTrainer, "compute_loss", 2)
        kill(JointTrainer, "compute_loss", 2)
        kill(gen_data, "write_shard", 1)
        kill(gen_data, "write_shard", 2)
        kill(JointTrainer, "compute_loss", 1)
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs/tiny/responses").rglob("*.parquet")}
    manifest = distil(folder)
    assert manifest["student_sha256"] == _student(per_stage)
    assert shards(folder) == shards(per_stage)
    assert before == {path: path.stat().st_mtime_ns for path in before}  # nothing was written twice


@pytest.mark.slow
def test_what_a_trained_stage_loses_does_not_stop_the_next(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, per_stage: Path
) -> None:
    folder = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher, student_refresh="per_stage")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(JointTrainer, "compute_loss", after(6, JointTrainer.compute_loss))
        distil(folder)
    (folder / "runs/tiny/responses/student-1-mask-0.2000/shard-00001.parquet").unlink()
    assert (folder / "runs/tiny/checkpoints/teacher-1/checkpoint-6").exists()
    manifest = distil(folder)
    assert manifest["student_sha256"] == _student(per_stage)
    (lost,) = set(shards(per_stage)) - set(shards(folder))
    assert lost == "student-1-mask-0.2000/shard-00001.parquet"  # who said it is not kept


@pytest.mark.parametrize("place", ["within", "after"])
def test_a_kill_while_a_shard_is_written_costs_that_shard_and_doubles_none(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """After its bytes are written and before they get their name, and right after."""
    folder = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        write, replace = shard_files.write_bytes, Path.replace
        shard = "-mask-0.2000/shard-00001.parquet"

        def writing(path: Path, data: bytes) -> None:
            write(path, data)
            if place == "after" and path.as_posix().endswith(shard):
                raise Killed

        def renaming(self: Path, target: Path) -> Path:
            if place == "within" and Path(target).as_posix().endswith(shard):
                raise Killed
            return replace(self, target)

        patch.setattr(shard_files, "write_bytes", writing)
        patch.setattr(Path, "replace", renaming)
        distil(folder)
    there = shards(folder)
    assert any(name.endswith(shard) for name in there) == (place == "after")
    monkeypatch.setattr(JointTrainer, "compute_loss", after(0, JointTrainer.compute_loss))
    with pytest.raises(Killed):
        distil(folder)  # up to the first training step
    now = shards(folder)
    assert there == {name: now[name] for name in there} and len(now) == 8
    assert not [path for path in (folder / "runs/tiny/responses").rglob("*") if path.name.startswith(".")]
    ids = [row["id"] for path in sorted((folder / "runs/tiny/questions").glob("*.parquet")) for row in _rows(path)]
    student = folder / "runs/tiny/responses/student-1"
    wanted = {student: range(16), **{teachers(folder, ratio): rows for ratio, rows in VISITED.items()}}
    for drawn, places in wanted.items():
        rows = [row for path in sorted(drawn.glob("*.parquet")) for row in _rows(path)]
        expected = [(ids[place], k) for place in places for k in range(4)]
        assert [(row["question_id"], row["number"]) for row in rows] == expected


def test_what_else_it_could_is_asked_before_and_after(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, right = measuring.evaluate_model, {"before": 4, "after": 2, "retention-before": 1, "retention-after": 3}

    said: dict[str, Sequence[str]] = {}

    def scored(*given: Any, title: str, **settings: Any) -> Evaluation:
        """So many right ones at each measurement: a model of no weights to speak of is right about nothing."""
        found = measure(*given, title=title, **settings)
        said[title.split()[-1]] = found.answers
        return dataclasses.replace(found, scores=(np.arange(found.n) < right[title.split()[-1]]).astype(float))

    monkeypatch.setattr(measuring, "evaluate_model", scored)
    folder = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher)
    other = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()][:6]
    (folder / "other.jsonl").write_text("".join(json.dumps({**row, "id": f"o{row['id']}"}) + "\n" for row in other))
    settings = {"data__retention": str(folder / "other.jsonl"), "data__retention_limit": "5", "trainer__steps": "2"}
    manifest = distil(folder, objective="{ce: 1.0}", masters__grpo_weight="0", **settings)
    assert manifest["retention"]["n"] == 5 and manifest["retention"]["test"] == str(folder / "other.jsonl")
    reports = folder / "runs/tiny/reports"
    for when in ("before", "after"):
        kept = json.loads((reports / f"accuracy-retention-{when}.json").read_text())
        assert kept["ids"] == [f"o{row['id']}" for row in other[:5]]
        assert kept["answers"] == list(said[f"retention-{when}"]) and len(kept["answers"]) == 5
        assert manifest["retention"][when] == sum(kept["scores"]) / 5 == {"before": 0.2, "after": 0.6}[when]
    assert manifest["retention"]["delta"] == pytest.approx(0.4) and manifest["accuracy"]["delta"] == -0.5
    assert not (folder / "runs/tiny/responses").exists()  # reference answers alone were learnt from


# Rows of the 16 questions that 36 visits of seed 0 see at each ratio, by hand: three times 12 of the permutations.
PASSES = [np.random.default_rng((0, number)).permutation(16).tolist() for number in range(3)]
VISITED = {
    "0.4000": sorted(PASSES[0][:12]),
    "0.2000": sorted({*PASSES[0][12:], *PASSES[1][:8]}),
    "0.0000": sorted({*PASSES[1][8:], *PASSES[2][:4]}),
}


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


# ---------------------------------------------------------------------------------------------------- with a server


def seeing(body: dict[str, Any]) -> Answer:
    """Says which model it is, too: another answer for each mask ratio."""
    words = ["yes", "no", "red", "circle"]
    seed = str(body.get("seed", 0)).encode()
    key = (*images(body), text(body).encode(), body["model"].encode(), seed)
    return said(*[words[int(4 * share(*key, bytes([k])))] for k in range(body.get("n", 1))])


def test_a_whole_run_through_a_server(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> None:
    with serve(seeing) as double:
        server = {"url": double.url, "model": "{teacher}-{ratio}", "retries": 0}
        folder = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher, generator="openai", server=server)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(gen_data, "write_shard", after(3, gen_data.write_shard))
            distil(folder)
        assert len(shards(folder)) == 3
        double.bodies.clear()
        manifest = distil(folder)
        asked = [body["model"] for body in double.bodies if body.get("temperature") == 1.0]
    first = {ratio: sum(row < 8 for row in rows) for ratio, rows in VISITED.items()}  # in the first shard
    left = len(VISITED["0.2000"]) - first["0.2000"]
    # The stages and shards that were missing, and of them what is visited, once each.
    assert asked == ["1-0.2"] * left + ["1-0"] * len(VISITED["0.0000"])
    assert manifest["status"] == "finished"
    for name in VISITED:
        rows = _rows(teachers(folder, name) / "shard-00000.parquet")
        assert len(rows) == 4 * first[name] and {row["text"] for row in rows} <= {"yes", "no", "red", "circle"}
        image_use = json.loads((teachers(folder, name) / "sight.json").read_text())
        assert image_use["checked"] == "teacher" and image_use["moved"] > 0 and image_use["largest"] is None
    assert _rows(folder / "runs/tiny/responses/student-1/shard-00000.parquet")[0]["source"] == "student"


def test_a_blind_server_costs_no_budget(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> None:
    def blind(body: dict[str, Any]) -> Answer:
        return said(*[text(body)] * body.get("n", 1))

    with serve(blind) as double:
        server = {"url": double.url, "model": "{ratio}"}
        folder = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher, generator="openai", server=server)
        with pytest.raises(EdgekitError, match="teacher does not see the images"):
            distil(folder)
        assert all(body["temperature"] == 0 for body in double.bodies) and not shards(folder)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(JointTrainer, "compute_loss", after(0, JointTrainer.compute_loss))
            distil(folder, masters__gen_data__check_images="false")  # the same run goes on
        assert len(shards(folder)) == 8
        (teachers(folder, "0.0000") / "shard-00001.parquet").unlink()
        with pytest.raises(EdgekitError, match=r"does not see the images|do not depend on the images"):
            distil(folder)
