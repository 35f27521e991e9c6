"""A run killed at any moment goes on and ends in the same student, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

RECIPE = {
    "name": "tiny",
    "teachers": [{"checkpoint": "teacher"}],
    "student": {"checkpoint": "student"},
    "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 48, "test_limit": 16},
    "masters": {
        "mask": {"r_max": 0.4, "step": 0.2},
        "gen_data": {"check_teacher": False, "max_new_tokens": 3, "shard_questions": 8, "batch_questions": 8},
    },
    "trainer": {"steps": 24, "batch_questions": 4, "learning_rate": 1e-3, "save_steps": 3, "threads": 1, "bf16": True},
}


def start(folder: Path) -> subprocess.Popen[bytes]:
    """`edgekit distill` in its own process, as a person starts it."""
    log = (folder / "log.txt").open("ab")
    command = [sys.executable, "-m", "edgekit", "distill", "--json"]
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def manifest(folder: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads((folder / "runs/tiny/manifest.json").read_text())
    return value


def workspace(folder: Path, student: Path, teacher: Path) -> Path:
    folder.mkdir()
    (folder / "student").symlink_to(student)
    (folder / "teacher").symlink_to(teacher)
    (folder / "edgekit.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def kill_when(folder: Path, condition: Callable[[Path], bool], delay: float) -> None:
    """Start the run and SIGKILL it `delay` seconds after `condition` first holds."""
    process = start(folder)
    end = time.monotonic() + 240
    while process.poll() is None and not condition(folder / "runs/tiny"):
        assert time.monotonic() < end, (folder / "log.txt").read_text()[-2000:]
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_again_and_again_it_ends_in_the_same_student(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path
) -> None:
    straight = workspace(tmp_path / "straight", tiny_checkpoint, tiny_teacher)
    assert start(straight).wait() == 0, (straight / "log.txt").read_text()[-2000:]
    killed = workspace(tmp_path / "killed", tiny_checkpoint, tiny_teacher)
    kill_when(killed, lambda run: (run / "questions/index.json").exists(), 0.0)
    kill_when(killed, lambda run: len(list(run.glob("responses/teacher-*-mask-0.2000/shard-*"))) >= 3, 0.0)
    kill_when(killed, lambda run: len(list(run.glob("responses/student-1/shard-*"))) >= 2, 0.05)
    # While a checkpoint is being written: the folder is there, its mark is not.
    kill_when(killed, lambda run: (run / "checkpoints/teacher-1/checkpoint-6").exists(), 0.0)
    kill_when(killed, lambda run: (run / "checkpoints/teacher-1/checkpoint-15/edgekit-seal.json").exists(), 0.03)
    shards = {path: path.stat().st_mtime_ns for path in (killed / "runs/tiny/responses").rglob("*.parquet")}
    assert start(killed).wait() == 0, (killed / "log.txt").read_text()[-2000:]
    assert shards == {path: path.stat().st_mtime_ns for path in shards}  # nothing was written twice
    assert not list((killed / "runs/tiny").rglob("*.tmp/*"))
    one, two = manifest(straight), manifest(killed)
    assert one["student_sha256"] == two["student_sha256"]
    assert one["accuracy"] == two["accuracy"]
    for path in (straight / "runs/tiny/responses").rglob("*.parquet"):
        assert path.read_bytes() == (killed / "runs/tiny" / path.relative_to(straight / "runs/tiny")).read_bytes()
    assert start(killed).wait() == 0  # finished: says so, changes nothing
    assert manifest(killed) == two


def interrupt(folder: Path, mark: str, *signals: signal.Signals) -> tuple[int, float, str]:
    """Start the run and signal it once there is a file like `mark`, again 0.3 s after that.

    Returns:
        Exit code, seconds from the last signal to the end, what was said meanwhile.
    """
    log = folder / "log.txt"
    process = start(folder)
    before, end = log.stat().st_size, time.monotonic() + 240
    while not any((folder / "runs/tiny").glob(mark)):
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.005)
    for number in signals:
        begun = time.monotonic()
        process.send_signal(number)
        time.sleep(0.3 if number is not signals[-1] else 0)
    code = process.wait(timeout=120)
    return code, time.monotonic() - begun, log.read_text()[before:]


@pytest.mark.slow
def test_interrupted_once_and_twice_it_ends_in_the_same_student(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path
) -> None:
    straight = workspace(tmp_path / "straight", tiny_checkpoint, tiny_teacher)
    assert start(straight).wait() == 0, (straight / "log.txt").read_text()[-2000:]
    folder = workspace(tmp_path / "stopped", tiny_checkpoint, tiny_teacher)
    code, _, said = interrupt(folder, "questions/index.json", signal.SIGINT)
    assert code == 130 and "Interrupted: leaving" in said and "Traceback" not in said
    code, seconds, said = interrupt(folder, "responses/teacher-*/shard-00001.parquet", signal.SIGINT, signal.SIGTERM)
    # The second may come when the interpreter is ending already, and nobody answers to it any more.
    assert code in (130, 143, -15) and seconds < 2 and "Traceback" not in said
    code, _, said = interrupt(folder, "checkpoints/teacher-1/checkpoint-3/edgekit-seal.json", signal.SIGTERM)
    assert code == 143 and "Asked to end: finishing this step" in said
    found = sorted(int(path.name[11:]) for path in (folder / "runs/tiny/checkpoints/teacher-1").iterdir())
    assert found[-1] >= 4  # the step it came in, with a checkpoint of its own
    mark = f"checkpoints/teacher-1/checkpoint-{3 * (found[-1] // 3) + 6}"
    code, seconds, _ = interrupt(folder, mark, signal.SIGINT, signal.SIGINT)
    assert code in (130, -2) and seconds < 2
    assert start(folder).wait() == 0, (folder / "log.txt").read_text()[-2000:]
    one, two = manifest(straight), manifest(folder)
    assert (one["student_sha256"], one["accuracy"]) == (two["student_sha256"], two["accuracy"])
    assert not [path for path in (folder / "runs").rglob(".*") if path.name.endswith((".tmp", ".old"))]


@pytest.mark.slow
def test_changed_inputs_are_refused(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> None:
    import shutil

    folder = tmp_path / "changed"
    folder.mkdir()
    shutil.copytree(tiny_checkpoint, folder / "student")
    (folder / "teacher").symlink_to(tiny_teacher)
    (folder / "edgekit.yaml").write_text(yaml.safe_dump(RECIPE))
    kill_when(folder, lambda run: (run / "questions/index.json").exists(), 0.0)
    config = json.loads((folder / "student/generation_config.json").read_text())
    (folder / "student/generation_config.json").write_text(json.dumps({**config, "max_length": 99}))
    assert start(folder).wait() == 1
    assert "started with other inputs" in (folder / "log.txt").read_text()
