"""Seconds of a run's phases: by the clock that never jumps, kept between processes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgekit.distill.clock import PhaseClock


def test_phases_add_up_over_processes_whatever_the_wall_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall, steady = iter([1e9, -1e9, 0.0, 5.0] * 10), iter([10.0, 12.5, 100.0, 100.0, 7.0, 8.0])
    monkeypatch.setattr(time, "time", lambda: next(wall))
    monkeypatch.setattr(time, "monotonic", lambda: next(steady))
    clock = PhaseClock(tmp_path / "seconds.json")
    with clock.phase("train"):
        pass
    with clock.phase("stood still"):
        pass
    again = PhaseClock(tmp_path / "seconds.json")
    with pytest.raises(KeyError), again.phase("train"):
        raise KeyError
    assert PhaseClock(tmp_path / "seconds.json").seconds == {"train": 3.5, "stood still": 0.0}
