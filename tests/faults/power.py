"""A pytest plugin that plays power cuts: what the disk had not got yet of a run's files is lost, and the run goes on.

A test module takes it by `pytest_plugins = ["power"]`. `power_cut` gives the two states of a small run that files are
damaged in, and `PowerCut.after` resumes a copy of one with a file damaged and says how that ended. What was tried is
counted and printed at the end of the session.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "teachers": [{"checkpoint": "teacher"}],
    "student": {"checkpoint": "student"},
    "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 16, "test_limit": 4},
    "masters": {
        "mask": {"r_max": 0.4, "step": 0.2},
        "gen_data": {
            "check_teacher": False,
            "max_new_tokens": 2,
            "shard_questions": 8,
            "batch_questions": 8,
            "teacher_responses": 2,
            "student_responses": 2,
        },
    },
    "trainer": {"steps": 6, "batch_questions": 2, "learning_rate": 1e-3, "save_steps": 2, "threads": 1},
}

Damage = Callable[[bytes], bytes | None]
DAMAGES: dict[str, Damage] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zero tail": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "zeros": lambda data: bytes(len(data)),
    "removed": lambda data: None,
    "flipped": lambda data: data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :],
}
"""What became of a file's bytes; None: the file is gone."""

CHECKPOINT = "checkpoints/teacher-1/checkpoint-{newest}/"
FILES: dict[str, str] = {
    "checkpoint: model": CHECKPOINT + "model.safetensors",
    "checkpoint: optimizer": CHECKPOINT + "optimizer.pt",
    "checkpoint: scheduler": CHECKPOINT + "scheduler.pt",
    "checkpoint: random state": CHECKPOINT + "rng_state.pth",
    "checkpoint: trainer state": CHECKPOINT + "trainer_state.json",
    "checkpoint: seal": CHECKPOINT + "edgekit-seal.json",
    "questions: shard": "questions/shard-00001.parquet",
    "questions: index": "questions/index.json",
    "teacher's responses: shard": "responses/teacher-*-mask-0.2000/shard-00000.parquet",
    "teacher's responses: sight": "responses/teacher-*-mask-0.2000/sight.json",
    "student's responses: shard": "responses/student-1/shard-00000.parquet",
    "manifest.json": "manifest.json",
    "seconds.json": "seconds.json",
    "mask-thresholds.json": "mask-thresholds.json",
    "accuracy-before.json": "reports/accuracy-before.json",
    "recipe.yaml": "recipe.yaml",
}
"""Files of a run that is under way: name -> pattern below the run's folder."""
FINISHED_FILES: dict[str, str] = {
    **{name: pattern for name, pattern in FILES.items() if not name.startswith("checkpoint")},
    "accuracy-after.json": "reports/accuracy-after.json",
    "training-1.json": "reports/training-1.json",
    "student: weights": "student/model.safetensors",
    "student: configuration": "student/config.json",
    "student: tokenizer": "student/tokenizer.json",
    "student: seal": "student/edgekit-seal.json",
    "last stage's student: weights": "checkpoints/student-1/model.safetensors",
}
"""The same of a finished run."""


class Cut(BaseException):
    """As abrupt as a power cut, for this process: nothing of edgekit catches it."""


def workspace(folder: Path, student: Path, teacher: Path, **changes: Any) -> Path:
    """A folder with a recipe in which `edgekit distill` can run.

    Args:
        folder: Made.
        student, teacher: Checkpoints.
        changes: Dotted key, its dots as two underscores -> value.
    """
    folder.mkdir(parents=True)
    (folder / "student").symlink_to(student)
    (folder / "teacher").symlink_to(teacher)
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    for key, value in changes.items():
        *heads, last = key.split("__")
        place = recipe
        for head in heads:
            place = place.setdefault(head, {})
        place[last] = value
    (folder / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def distil(folder: Path) -> dict[str, Any]:
    """`edgekit distill` there, in this process."""
    from edgekit import api

    return api.distill(folder / "edgekit.yaml", workspace=folder).as_json()


def cut_at(folder: Path, owner: Any, name: str, calls: int) -> None:
    """Run until `owner.name` is called for the time number `calls`, from 0."""
    left, action = [calls], getattr(owner, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Cut
        return action(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        patch.setattr(owner, name, run)
        distil(folder)


def find(run: Path, pattern: str) -> Path:
    """The one file of a run that a pattern of FILES means."""
    steps = [int(path.name.rpartition("-")[2]) for path in run.glob("checkpoints/teacher-1/checkpoint-*")]
    (path,) = run.glob(pattern.format(newest=max(steps, default=0)))
    return path


def hurt(path: Path, kind: str) -> None:
    """Do to a file what DAMAGES says."""
    data = DAMAGES[kind](path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)


def product(run: Path) -> dict[str, bytes]:
    """What a run is for, by name: its students, questions, responses, scores and thresholds."""
    patterns = ("student*/*", "questions/*.parquet", "responses/*/*.parquet", "reports/accuracy-*.json")
    paths = [path for pattern in (*patterns, "mask-thresholds.json") for path in run.glob(pattern)]
    names = {path: path.relative_to(run).as_posix() for path in paths if path.name != "edgekit-seal.json"}
    return {name: path.read_bytes() for path, name in names.items()}


@dataclass(frozen=True)
class PowerCut:
    """A small run in two states.

    Attributes:
        midway: Workspace of one that ended without warning in the middle of its training.
        finished: Workspace of an undisturbed one.
    """

    midway: Path
    finished: Path

    def after(self, state: str, pattern: str, kind: str, place: Path) -> dict[str, bytes]:
        """Damage a file of a copy, resume it, and return what it made.

        Args:
            state: "midway" or "finished".
            pattern: Of FILES.
            kind: Of DAMAGES.
            place: Where the copy is made.
        """
        folder = place / "w"
        shutil.copytree(getattr(self, state), folder, symlinks=True)
        hurt(find(folder / "runs/tiny", pattern), kind)
        distil(folder)
        return product(folder / "runs/tiny")


@pytest.fixture(scope="session")
def power_cut(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_teacher: Path) -> PowerCut:
    """The run that the power is cut in; copied, never written into."""
    from edgekit.distill.joint import JointTrainer

    base = tmp_path_factory.mktemp("power")
    finished = workspace(base / "finished", tiny_checkpoint, tiny_teacher)
    distil(finished)
    midway = workspace(base / "midway", tiny_checkpoint, tiny_teacher)
    cut_at(midway, JointTrainer, "compute_loss", 4)  # checkpoints after steps 2 and 4 are there
    return PowerCut(midway, finished)


# --------------------------------------------------------------------------------------------------------- the account


@dataclass
class Account:
    """How often what was tried ended how, by the kind of file."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, name: str, ending: str) -> None:
        """Count one case."""
        self.rows.setdefault(name, Counter())[ending] += 1


KEY = pytest.StashKey[Account]()


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], None]]:
    """`account(kind of case, how it ended)`: a line of the table at the end of the session."""
    yield request.config.stash.setdefault(KEY, Account()).add


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table."""
    rows = config.stash.get(KEY, Account()).rows
    if not rows:
        return
    endings = sorted({ending for row in rows.values() for ending in row})
    terminalreporter.section("faults tried")
    terminalreporter.line(f"| case | tried | {' | '.join(endings)} |")
    terminalreporter.line(f"|{'---|' * (2 + len(endings))}")
    for name, row in sorted(rows.items()):
        terminalreporter.line(f"| {name} | {sum(row.values())} | {' | '.join(str(row[one]) for one in endings)} |")
