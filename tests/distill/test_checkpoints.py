"""Checkpoints of any training: whole or not there; older ones stay until the newer is, damaged ones are passed over."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer

from edgekit.distill import processes
from edgekit.distill import trainer as training
from edgekit.distill.trainer import (
    COMPLETE,
    MarkComplete,
    PartsTrainer,
    last_complete_checkpoint,
    run_trainer,
    training_arguments,
)
from edgekit.seal import FOLDER_SEAL, fault_of, read_sealed_json
from edgekit.system import interrupts

PARTS = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}


class Cut(BaseException):
    """As abrupt as a kill, for this process."""


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.linear(x).square().mean()}


def train(folder: Path, steps: int = 4, save_steps: int = 1) -> Line:
    torch.manual_seed(0)
    model = Line()
    rows = [{"x": torch.tensor([float(k), 1.0])} for k in range(8)]
    settings = training_arguments(folder, max_steps=steps, save_steps=save_steps, per_device_train_batch_size=2, seed=0)
    run_trainer(PartsTrainer(model=model, args=settings, train_dataset=rows), folder, "toy")
    return model


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_seal_names_all_files_and_the_newest_two_are_kept(tmp_path: Path) -> None:
    train(tmp_path)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    for folder in tmp_path.iterdir():
        listed = set(read_sealed_json(folder / FOLDER_SEAL)["files"])
        assert listed == set(names(folder)) - {FOLDER_SEAL} and listed >= PARTS
        assert fault_of(folder) is None


@pytest.mark.parametrize("part", ["_save", "_save_optimizer_and_scheduler", "_save_rng_state", "_save_scaler"])
def test_a_checkpoint_that_is_cut_off_does_not_count(tmp_path: Path, part: str) -> None:
    calls, action = [], getattr(Trainer, part)

    def stopped(self: Trainer, *args: Any, **rest: Any) -> None:
        calls.append(names(tmp_path))
        if len(calls) == 3:
            raise Cut
        action(self, *args, **rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Trainer, part, stopped)
        train(tmp_path)
    # Nothing older went before the third was whole, and what there is of it is no checkpoint.
    assert {"checkpoint-1", "checkpoint-2"} <= set(names(tmp_path))
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_no_seal_before_every_process_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        assert not any((path / mark).exists() for path in tmp_path.iterdir() for mark in (FOLDER_SEAL, COMPLETE))
        (tmp_path / "checkpoint-1" / "rng_state_1.pth").write_bytes(b"of another process, just now")

    monkeypatch.setattr(processes, "wait", wait)
    train(tmp_path, steps=1)
    assert "rng_state_1.pth" in read_sealed_json(tmp_path / "checkpoint-1" / FOLDER_SEAL)["files"]


def test_the_newest_is_told_by_its_step_whatever_the_clock_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes back by a year with each checkpoint."""
    sealed = training.seal_folder
    times = iter((4e8, 3e8, 2e8, 1e8))

    def seal(folder: Path) -> None:
        sealed(folder)
        now = next(times)
        os.utime(folder, (now, now))

    monkeypatch.setattr(training, "seal_folder", seal)
    train(tmp_path)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_damaged_one_is_passed_over_with_a_line(tmp_path: Path, part: str, capfd: pytest.CaptureFixture[str]) -> None:
    straight = train(tmp_path / "straight").state_dict()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        patch.setattr(MarkComplete, "on_save", _cut_after(MarkComplete.on_save, 3))
        train(tmp_path / "cut")
    path = tmp_path / "cut" / "checkpoint-3" / part
    data = path.read_bytes()
    path.write_bytes(data[:-100] + bytes(100))
    capfd.readouterr()
    again = train(tmp_path / "cut").state_dict()
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "is damaged" in line]
    assert "checkpoint-3 is damaged" in line and part in line
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def _cut_after(action: Any, calls: int) -> Any:
    left = [calls]

    def run(*args: Any, **rest: Any) -> None:
        action(*args, **rest)
        left[0] -= 1
        if not left[0]:
            raise Cut

    return run


def test_ctrl_c_ends_after_the_step_with_a_checkpoint_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(tmp_path / "straight", save_steps=100).state_dict()
    steps, forward = [], Line.forward

    def counted(self: Line, x: torch.Tensor) -> dict[str, torch.Tensor]:
        steps.append(1)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return forward(self, x)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(interrupts, "_asked", None)
        before = signal.signal(signal.SIGINT, interrupts._handle)
        patch.setattr(Line, "forward", counted)
        try:
            train(tmp_path / "stopped", save_steps=100)
        finally:
            signal.signal(signal.SIGINT, before)
    assert len(steps) == 2 and names(tmp_path / "stopped") == ["checkpoint-2"]
    again = train(tmp_path / "stopped", save_steps=100).state_dict()
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_checkpoints_of_before_there_were_seals(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path)
    for folder in tmp_path.iterdir():
        (folder / FOLDER_SEAL).unlink()
        (folder / COMPLETE).touch()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    optimizer = tmp_path / "checkpoint-4" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-10])
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    assert "optimizer.pt cannot be read" in capfd.readouterr().err
