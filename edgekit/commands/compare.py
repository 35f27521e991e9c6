"""`edgekit compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands._options import Columns, Wide
from edgekit.console import note, print_json, print_text
from edgekit.visible import one_line

if TYPE_CHECKING:
    from edgekit.report.compare import Change


def command(
    old: Annotated[Path, typer.Argument(help="report.json of `edgekit bench`, or its folder.")],
    new: Annotated[Path, typer.Argument(help="The later one.")],
    tolerance: Annotated[
        float, typer.Option(help="Percent that latency, memory or size may get worse.", min=0, max=1000)
    ] = 5.0,
    all_: Annotated[bool, typer.Option("--all", help="Show what stayed the same too.")] = False,
    columns: Columns = None,
    wide: Wide = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print every comparison as JSON.")] = False,
) -> None:
    """Find what got significantly worse from one report to the next; exit 3 if anything did.

    Example:  edgekit compare main/report.json branch/report.json
    """
    from edgekit import api

    found = api.compare(old, new, tolerance=tolerance / 100)
    if json_out:
        print_json(found.as_json())
    else:
        _show([change for change in found.changes if all_ or change.verdict != "same"], columns, wide)
        for text in found.notes:
            note(text)
    note(found.verdict)
    if found.regressions:
        raise typer.Exit(3)


def _show(changes: list[Change], columns: str | None, wide: bool) -> None:
    """A table as wide as the terminal; a line each where the output is none."""
    from edgekit.tables import print_table, read_columns

    if not changes:
        return
    if columns is None and not wide and not sys.stdout.isatty():
        for change in changes:
            p = "" if change.p is None else f", p {change.p:.2g}"
            print_text(one_line(f"{change.verdict:6}  {change.row}: {change.figure} {change.change}{p}"))
        return
    head = ("row", "figure", "verdict", "change", "p", "before", "after", "method")
    cells = [
        [
            change.row, change.figure, change.verdict, change.change, _number(change.p, ".2g"),
            _number(change.old, ".6g"), _number(change.new, ".6g"), change.method,
        ]
        for change in changes
    ]  # fmt: skip
    order = ("verdict", "figure", "change", "p", "after", "before", "method")
    print_table(head, cells, order=order, columns=read_columns(columns), wide=wide)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
