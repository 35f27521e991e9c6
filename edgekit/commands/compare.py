"""`edgekit compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import note, plain, print_json, print_text


def command(
    old: Annotated[Path, typer.Argument(help="report.json of `edgekit bench`, or its folder.")],
    new: Annotated[Path, typer.Argument(help="The later one.")],
    tolerance: Annotated[
        float, typer.Option(help="Percent that latency, memory or size may get worse.", min=0, max=1000)
    ] = 5.0,
    all_: Annotated[bool, typer.Option("--all", help="Show what stayed the same too.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print every comparison as JSON.")] = False,
) -> None:
    """Find what got significantly worse from one report to the next; exit 3 if anything did.

    Example:  edgekit compare main/report.json branch/report.json
    """
    from edgekit import api

    found = api.compare(old, new, tolerance=tolerance / 100)
    if json_out:
        print_json(found)
    else:
        for change in found["changes"]:
            if all_ or change["verdict"] != "same":
                p = "" if change["p"] is None else f", p {change['p']:.2g}"
                print_text(plain(f"{change['verdict']:6}  {change['row']}: {change['figure']} {change['change']}{p}"))
        for text in found["notes"]:
            note(text)
    note(found["verdict"])
    if found["regressions"]:
        raise typer.Exit(3)
