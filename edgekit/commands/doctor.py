"""`edgekit doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.console import print_json, print_text


def command(json_out: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Say what is ready on this machine, and how to get the rest.

    Example:  edgekit doctor
    """
    from edgekit import api

    checks = api.doctor()
    if json_out:
        print_json([check.as_json() for check in checks])
        return
    for check in checks:
        mark = "ready  " if check.ready else "missing"
        print_text(f"{mark}  {check.name:34} {check.detail}")
        if check.fix:
            print_text(f"{'':9}{check.fix}")
