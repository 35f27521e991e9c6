"""`edgekit targets`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.console import print_json, print_text


def command(json_out: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the export targets, their precisions, and whether they are ready here.

    Example:  edgekit targets
    """
    from edgekit import api

    rows = api.targets()
    if json_out:
        print_json(rows)
        return
    for row in rows:
        state = "ready" if row["ready"] else f"not ready: {row['missing']}"
        print_text(
            f"{row['target']:12} {','.join(row['precisions']):24} runs on {','.join(row['runtimes']):16} {state}"
        )
