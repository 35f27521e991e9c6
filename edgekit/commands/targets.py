"""`edgekit targets`."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands._options import Wide
from edgekit.console import print_json, print_text

if TYPE_CHECKING:
    from edgekit.api.results import MatrixRow


def command(
    matrix: Annotated[
        bool,
        typer.Option(
            "--matrix",
            help="Take each family up the ladder to each target and precision here, with tiny random models; minutes.",
        ),
    ] = False,
    target: Annotated[
        list[str] | None, typer.Option(help="Targets of the matrix; all by default.", show_default=False)
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Families of the matrix; all by default.", show_default=False)
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Precisions of the matrix; all by default.", show_default=False)
    ] = None,
    level: Annotated[
        int,
        typer.Option(
            min=1,
            max=5,
            help="How far up: 1 configuration and names, 2 pixels and ids, 3 modules, 4 tokens of each bundle, "
            "5 distil, export and bench. Below 4 no target is asked.",
        ),
    ] = 4,
    wide: Wide = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the export targets, their precisions, and whether they are ready here; exit 3 when a row of a matrix fails.

    Example:  edgekit targets --matrix --target onnx --precision fp32 --precision int8

    A new family, in seconds:  edgekit targets --matrix --level 3 --family qwen3_vl
    """
    from edgekit import api

    if matrix:
        room = None if wide or not sys.stdout.isatty() else shutil.get_terminal_size().columns
        told = None if json_out else lambda row: print_text(_line(row, room))
        tried = api.matrix(target, family, precision, told, level=level)
        if json_out:
            print_json([row.as_json() for row in tried])
        if any(row.passed is False for row in tried):
            raise typer.Exit(3)
        return
    rows = api.targets()
    if json_out:
        print_json([row.as_json() for row in rows])
        return
    for row in rows:
        state = "ready" if row.ready else f"not ready: {row.missing}"
        print_text(f"{row.target:12} {','.join(row.precisions):24} runs on {','.join(row.runtimes):16} {state}")


def _line(row: MatrixRow, room: int | None = None) -> str:
    """A row in a line of `room` letters; figures that do not fit are counted, and what was missed comes first."""
    state = {True: "PASS", False: "FAIL", None: "not tried"}[row.passed]
    place = f"{row.target:12} {row.precision:6} " if row.target else ""
    start = f"{row.family:15} {place}L{row.level} {state:9}"
    if row.why:
        return f"{start} {row.why}"
    checks = sorted(row.checks.items(), key=lambda item: bool(item[1]["held"]))  # what was missed first
    figures = [
        f"{name} {'not finite' if check['value'] is None else format(check['value'], '.2g')} "
        f"(tolerance {check['bar']:g})"
        for name, check in checks
    ]
    source = "" if row.verified_by in ("", "runtime") else f", verified_by: {row.verified_by}"
    start = f"{start} {row.seconds:5.0f} s"
    shown = list(figures)
    while room is not None and shown and len(f"{start}  {_told(shown, figures)}{source}") > room:
        shown.pop()
    return f"{start}  {_told(shown, figures)}{source}"


def _told(shown: list[str], figures: list[str]) -> str:
    left = len(figures) - len(shown)
    return ", ".join([*shown, *([f"{left} more figures"] if left else [])])
