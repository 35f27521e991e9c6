"""Where a teacher stage of several stages goes on, by what is left of its folders; the folders are made by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.distill.order import Order
from edgekit.distill.resuming import drop_damaged, lacking, stages_to_do
from edgekit.distill.teacher_stages import Stage, TeacherStage
from edgekit.files import write_bytes
from edgekit.seal import seal_folder, write_sealed_json, write_sealed_rows
from edgekit.workspace import Run


def ladder(count: int = 1) -> list[TeacherStage]:
    """Legs of nine steps and three stages each: 0 to 3, 3 to 6, 6 to 9."""
    checkpoint: Any = SimpleNamespace(hash="0" * 64, name="t")
    ratios, order = [0.4, 0.2, 0.0], Order(16, 0)
    return [
        TeacherStage(k, checkpoint, 9, lambda s: ratios[s // 3], ratios, "per_stage", order, 36 * k, 4)
        for k in range(count)
    ]


def lay_out(run: Run, teacher_stage: TeacherStage, students: list[int], steps: list[int]) -> None:
    for stop in students:
        stage = next(stage for stage in teacher_stage.stages if stage.stop == stop)
        teacher_stage.student(run, stage).mkdir(parents=True)
    for step in steps:
        folder = teacher_stage.checkpoints(run) / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model").write_text("x")
        seal_folder(folder)


@pytest.mark.parametrize(
    ("students", "steps", "missing", "first", "kept"),
    [
        ([], [], [], 0, []),
        ([], [2], [], 0, [2]),
        ([3], [2, 3], [3], 3, [2, 3]),  # the next stage's responses can be asked of the student that is there
        ([3], [3, 5], [], 3, [3, 5]),
        ([], [2, 3], [3], 0, [2]),  # its checkpoint is there, its student is not, and has to be asked
        ([], [2, 3], [], 3, [2, 3]),  # all it had to say is there
        ([], [5, 6], [], 6, [5, 6]),
        ([], [5, 6], [6], 3, [5]),  # the stage before once more
        ([], [5, 6], [3, 6], 0, []),  # from the beginning
        ([6], [], [], 0, []),  # without a checkpoint a later student is of no use
        ([6], [2], [], 0, [2]),
        ([6], [8, 9], [], 6, [8, 9]),
        ([9], [8, 9], [0, 3, 6], None, [8, 9]),  # trained to the end
        ([], [8, 9], [], 6, [8, 9]),  # only the last student is lost
    ],
)
def test_where_a_leg_goes_on(
    students: list[int], steps: list[int], missing: list[int], first: int | None, kept: list[int], tmp_path: Path
) -> None:
    run, teacher_stages = Run(tmp_path), ladder()
    lay_out(run, teacher_stages[0], students, steps)
    todo = stages_to_do(run, teacher_stages, teacher_stages[0], lambda stage: stage.start in missing)
    assert [stage.start for stage in todo] == ([] if first is None else list(range(first, 9, 3)))
    left = {int(path.name.partition("-")[2]) for path in teacher_stages[0].checkpoints(run).glob("*")}
    assert left == set(kept)
    for stage in todo:  # what is trained again is not taken for trained
        assert not teacher_stages[0].student(run, stage).is_dir()


def test_a_teacher_whose_successor_is_done_is_not_asked_again(tmp_path: Path) -> None:
    run, teacher_stages = Run(tmp_path), ladder(2)

    def todo(number: int) -> list[Stage]:
        return stages_to_do(run, teacher_stages, teacher_stages[number], lambda _: True)

    assert len(todo(0)) == len(todo(1)) == 3
    lay_out(run, teacher_stages[1], [9], [])
    assert todo(0) == todo(1) == []
    teacher_stages[1].student(run).rmdir()
    run.student.mkdir()
    assert todo(0) == todo(1) == []


def test_what_a_finished_run_lacks(tmp_path: Path) -> None:
    run = Run(tmp_path)
    jsons = ["mask-thresholds.json", "seconds.json", "reports/accuracy-before.json", "reports/accuracy-after.json"]
    for name in jsons:
        write_sealed_json(tmp_path / name, {})
    write_sealed_json(run.questions / "index.json", {"questions": 5, "shard": 2})
    shards = [folder / f"shard-0000{k}.parquet" for folder in (run.questions, run.responses / "a") for k in range(3)]
    run.student.mkdir()
    for shard in shards:
        write_bytes(shard, b"x")
    assert not lacking(run)
    for path in [*shards, *(tmp_path / name for name in jsons), run.questions / "index.json"]:
        data = path.read_bytes()
        path.unlink()
        assert lacking(run), path
        path.write_bytes(data)
    run.student.rmdir()
    assert lacking(run)


def test_what_is_damaged_goes_with_a_line_each(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "r")
    for name in ("manifest.json", "seconds.json", "mask-thresholds.json", "reports/accuracy-before.json"):
        write_sealed_json(run.folder / name, {"a": 1.5})
    log = run.folder / "reports" / "training-1.json"
    write_sealed_rows(log, [{"loss": 1.5}, {"loss": 1.25}])
    (run.folder / "reports" / "training-2.json").write_text('[{"loss": 1}]')  # of before logs were sealed
    for folder in (run.student, run.checkpoints / "student-1", run.folder / "student-int8"):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights" * 1000)
        seal_folder(folder)
    assert drop_damaged(run) is False and capfd.readouterr().err == ""
    (run.folder / "seconds.json").write_text("")
    log.write_text(log.read_text().replace("1.25", "1.75"))
    (run.folder / "reports" / "accuracy-before.json").write_text(
        (run.folder / "reports" / "accuracy-before.json").read_text().replace("1.5", "2.5")
    )
    weights = run.folder / "student-int8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4096] + bytes(4096))
    (run.checkpoints / "cache").mkdir()
    assert drop_damaged(run) is True
    said = capfd.readouterr().err
    lost = ["reports/accuracy-before.json", "reports/training-1.json", "seconds.json", "student-int8"]
    assert sorted(line.partition(" of the run")[0] for line in said.splitlines()) == lost
    assert not any((run.folder / name).exists() for name in lost)
    assert (
        run.student.is_dir() and (run.checkpoints / "student-1").is_dir() and not (run.checkpoints / "cache").exists()
    )
