"""After a power cut the same command ends in the same student, bit for bit, and names what it dropped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from power import DAMAGES, FILES, FINISHED_FILES, PowerCut, cut_at, distil, find, hurt, product, workspace

from edgekit.api.runs import latest_run
from edgekit.checkpoint.folder import check_checkpoint, load_model
from edgekit.distill.joint import JointTrainer
from edgekit.distill.qad import QadTrainer
from edgekit.errors import DamagedError

pytest_plugins = ["power"]

FEW = [
    ("midway", "checkpoint: model", "zero tail"),
    ("midway", "checkpoint: optimizer", "truncated"),
    ("midway", "manifest.json", "empty"),
    ("finished", "student: weights", "zero tail"),
]
STATES = {"midway": FILES, "finished": FINISHED_FILES}


def _marks(case: tuple[str, str, str], turn: int) -> list[pytest.MarkDecorator]:
    """Each file of a state once, the kinds of damage in turn, is slow; the whole product is the matrix."""
    if case in FEW:
        return []
    slow, in_turn = pytest.mark.slow, list(DAMAGES)[turn % len(DAMAGES)]
    return [slow] if case[2] == in_turn else [slow, pytest.mark.matrix]


ALL = [
    pytest.param(*case, marks=_marks(case, turn))
    for state, files in STATES.items()
    for turn, name in enumerate(files)
    for case in ((state, name, kind) for kind in DAMAGES)
]


@pytest.mark.parametrize(("state", "name", "kind"), ALL)
def test_a_damaged_file_costs_time_only(
    state: str,
    name: str,
    kind: str,
    power_cut: PowerCut,
    tmp_path: Path,
    account: Callable[[str, str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    pattern = STATES[state][name]
    capfd.readouterr()
    made = power_cut.after(state, pattern, kind, tmp_path)
    said = capfd.readouterr().err
    wanted = product(power_cut.finished / "runs/tiny")
    wrong = sorted(key for key in {*made, *wanted} if made.get(key) != wanted.get(key))
    account(f"{state}, {name}", "wrong" if wrong else "right")
    assert not wrong
    lines = [line for line in said.splitlines() if " is damaged" in line]
    assert len(lines) == 1 or (kind == "removed" and not lines), said


@pytest.mark.parametrize("seal", [True, False])
def test_a_damaged_student_is_not_exported_nor_run(
    seal: bool, power_cut: PowerCut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that end in zeros load as well as any; of a run begun before there were seals, the manifest tells."""
    folder = tmp_path / "w"
    shutil.copytree(power_cut.finished, folder, symlinks=True)
    student = folder / "runs/tiny/student"
    monkeypatch.chdir(folder)
    assert latest_run().student.resolve() == student.resolve()
    if not seal:
        (student / "edgekit-seal.json").unlink()
        assert latest_run().finished
    hurt(student / "model.safetensors", "zero tail")
    with pytest.raises(DamagedError, match=r"student is damaged"):
        latest_run()
    if seal:
        for load in (check_checkpoint, load_model):
            with pytest.raises(DamagedError, match=r"model\.safetensors is not what was written there"):
                load(student)


# (changes to the recipe, where the run is cut: class and call, what is damaged)
OTHERS: dict[str, tuple[dict[str, Any], tuple[type, int], str]] = {
    "LoRA": (
        {"trainer__lora": {"rank": 2, "alpha": 4, "target_modules": ["q_proj", "v_proj"]}},
        (JointTrainer, 4),
        "checkpoints/teacher-1/checkpoint-{newest}/adapter_model.safetensors",
    ),
    "per stage": (
        {"masters__gen_data__student_refresh": "per_stage"},
        (JointTrainer, 3),
        "checkpoints/student-1-step-2/model.safetensors",
    ),
    "per stage, responses": (
        {"masters__gen_data__student_refresh": "per_stage"},
        (JointTrainer, 3),
        "responses/student-1-mask-0.2000/shard-00000.parquet",
    ),
    "quantised stage": (
        {"qad": {"steps": 4, "precision": "int8", "batch_questions": 2}},
        (QadTrainer, 3),
        "checkpoints/qad-*/checkpoint-2/optimizer.pt",
    ),
    "two teachers": (
        {"teachers": [{"checkpoint": "teacher"}, {"checkpoint": "teacher"}]},
        (JointTrainer, 8),
        "checkpoints/student-1/model.safetensors",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_runs(
    name: str,
    tiny_checkpoint: Path,
    tiny_teacher: Path,
    tmp_path: Path,
    account: Callable[[str, str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    changes, (owner, calls), pattern = OTHERS[name]
    straight, cut = (workspace(tmp_path / one, tiny_checkpoint, tiny_teacher, **changes) for one in ("a", "b"))
    distil(straight)
    cut_at(cut, owner, "compute_loss", calls)
    hurt(find(cut / "runs/tiny", pattern), "zero tail")
    capfd.readouterr()
    distil(cut)
    made, wanted = product(cut / "runs/tiny"), product(straight / "runs/tiny")
    wrong = sorted(key for key in {*made, *wanted} if made.get(key) != wanted.get(key))
    account(f"midway, {name}", "wrong" if wrong else "right")
    assert not wrong and capfd.readouterr().err.count(" is damaged") == 1
