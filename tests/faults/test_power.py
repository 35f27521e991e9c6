"""After a power cut the same command ends in the same student, bit for bit, and names what it dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from power import DAMAGES, FILES, FINISHED_FILES, PowerCut, product

pytest_plugins = ["power"]

FEW = [
    ("midway", "checkpoint: model", "zero tail"),
    ("midway", "checkpoint: optimizer", "truncated"),
    ("midway", "manifest.json", "empty"),
    ("finished", "student: weights", "zero tail"),
]
ALL = [
    (state, name, kind)
    for state, files in (("midway", FILES), ("finished", FINISHED_FILES))
    for name in files
    for kind in DAMAGES
]


@pytest.mark.parametrize(
    ("state", "name", "kind"), [pytest.param(*one, marks=[] if one in FEW else pytest.mark.slow) for one in ALL]
)
def test_a_damaged_file_costs_time_only(
    state: str,
    name: str,
    kind: str,
    power_cut: PowerCut,
    tmp_path: Path,
    account: Callable[[str, str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    pattern = (FILES if state == "midway" else FINISHED_FILES)[name]
    capfd.readouterr()
    made = power_cut.after(state, pattern, kind, tmp_path)
    said = capfd.readouterr().err
    wanted = product(power_cut.finished / "runs/tiny")
    wrong = sorted(key for key in {*made, *wanted} if made.get(key) != wanted.get(key))
    account(f"{state}, {name}", "wrong" if wrong else "right")
    assert not wrong
    lines = [line for line in said.splitlines() if " is damaged" in line]
    assert len(lines) == (0 if kind == "removed" else 1) or (kind == "removed" and len(lines) == 1), said
