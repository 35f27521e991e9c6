"""Tables on a terminal: whole columns that fit, the most important first."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reports import report

from edgekit.errors import EdgekitError
from edgekit.report.text import COLUMNS, SPEED_ORDER, TABLE_ORDER, every_column, speed_table, terminal_table
from edgekit.report.write import write_report
from edgekit.tables import fitting, print_table, read_columns

HEAD = ("name", "first", "second", "third")
CELLS = [["onnx", "1111111111", "22", "333"], ["pytorch", "", "22", "333"]]


def test_what_fits_by_hand() -> None:
    """Widths 7, 10, 6 and 5, two letters between."""
    assert fitting(HEAD, CELLS, 34) == [0, 1, 2, 3]
    assert fitting(HEAD, CELLS, 33) == [0, 1, 2]
    assert fitting(HEAD, CELLS, 33, ["third"]) == [0, 3, 1]
    assert fitting(HEAD, CELLS, 18, ["first", "third"]) == [0, 3]  # what is next in importance and fits
    assert fitting(HEAD, CELLS, 5) == [0]
    assert fitting(HEAD, [["a", "", "b", ""]], 80) == [0, 2]  # nothing in the others
    assert fitting(("name", "told"), [["a", "x" * 300]], 40) == [0]
    assert fitting(("name", "told"), [["a", "x" * 300]], 40, folding=["told"]) == [0, 1]
    assert fitting(HEAD, [["n" * 200, "1", "2", "3"]], 60) == [0, 1, 2, 3]  # a long name takes half the line


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200, 400])
def test_no_word_is_broken_and_no_line_too_long(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(*terminal_table(report()), order=TABLE_ORDER, width=width)
    out, err = capsys.readouterr()
    assert all(len(line) <= width for line in out.splitlines())
    shown = [name for name in COLUMNS if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", out.splitlines()[0])]
    left = re.search(r"Not shown at this width: (.*)\. --wide", " ".join(err.split()))
    assert bool(left) == (len(shown) < len(COLUMNS) - 4) or width == 400
    assert "-0.60 [-1.00, +0.10]" in out if width >= 60 else "name" in out
    print_table(*speed_table(report()), order=SPEED_ORDER, width=width)
    assert all(len(line) <= width for line in capsys.readouterr().out.splitlines())


def test_columns_and_wide(capsys: pytest.CaptureFixture[str]) -> None:
    head, cells = every_column(report())
    assert len(set(head)) == len(head) and all(len(line) == len(head) for line in cells)
    print_table(head, cells, columns=read_columns("size mb, TTFT / PyTorch,Accuracy"), width=20)
    out, err = capsys.readouterr()
    assert re.sub(" +", " ", out.splitlines()[0]).strip() == "name size MB TTFT / PyTorch accuracy" and not err
    print_table(head, cells, wide=True, width=30)
    out, err = capsys.readouterr()
    assert all(name in out.splitlines()[0] for name in head) and not err
    assert len(out.splitlines()) == 1 + len(cells)
    with pytest.raises(EdgekitError, match="no column 'acuracy'") as error:
        print_table(head, cells, columns=["acuracy"])
    assert "Did you mean 'accuracy'?" in str(error.value)


def test_cells_of_others_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "x"], [["a\x1b[2J\nb", "[red]c\x9b[/]"]], width=80)
    out = capsys.readouterr().out
    assert "a\\x1b[2J\\nb" in out and "[red]c\\x9b[/]" in out and "\x1b" not in out


def test_a_terminal_of_80_columns(tmp_path: Path, tiny_bundle: Path) -> None:
    """`edgekit inspect` and `compare` on a real terminal."""
    write_report(report(), tmp_path / "a", [])
    write_report(report(), tmp_path / "b", [])
    changed = json.loads((tmp_path / "b" / "report.json").read_text())
    changed["rows"][1]["size_bytes"] *= 2
    (tmp_path / "b" / "report.json").write_text(json.dumps(changed))
    for command in (["inspect", str(tiny_bundle)], ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--all"]):
        parent, child = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", *command], stdout=child, stderr=subprocess.PIPE, close_fds=True,
            env={**os.environ, "COLUMNS": "80", "TERM": "dumb"},
        )  # fmt: skip
        os.close(child)
        said = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:
                break
            said += piece
        process.wait()
        table = [
            line for line in said.decode().splitlines() if re.match(r"(component|row|all|onnx-int8|student)\b", line)
        ]
        assert len(table) >= 2 and all(len(line.rstrip()) <= 80 for line in table), said.decode()


def test_a_line_of_the_matrix_fits() -> None:
    from edgekit.api.results import MatrixRow
    from edgekit.commands.targets import _line

    checks = {f"figure_{n}": {"value": 0.1, "bar": 1.0, "held": n != 3} for n in range(5)}
    row = MatrixRow("idefics3", "coreml", "fp16", False, checks=checks, seconds=3.0, verified_by="evaluator")
    whole = _line(row)
    assert all(name in whole for name in checks) and whole.index("figure_3") < whole.index("figure_0")
    short = _line(row, 130)
    assert len(short) <= 130 and "figure_3" in short and "more figures, verified_by: evaluator" in short
    assert "5 more figures" in _line(row, 20)
