"""`edgekit push`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgekit.commands.card import BenchmarkName, Bundles, License, RunFolder
from edgekit.console import note, print_json, print_text
from edgekit.errors import EdgekitError


def command(
    repository: Annotated[str, typer.Argument(help="ORG/NAME on the hub; made where it is not there.")],
    run: RunFolder = None,
    bundle: Bundles = None,
    license_id: License = None,
    benchmark: BenchmarkName = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; private by default.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "edgekit push",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go up, and send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print what went up as JSON.")] = False,
) -> None:
    """Upload a run's student, bundles and card to the hub, in one commit; asks before it sends anything.

    Example:  edgekit push my-org/my-student --license apache-2.0 --dry-run
    """
    from edgekit import api

    given = {"bundles": bundle, "license_id": license_id, "benchmark": benchmark, "public": public, "message": message}
    plan = api.push(repository, run, **given)  # type: ignore[arg-type]
    total = sum(plan.files.values())
    what = f"{len(plan.files)} files, {total / 1e6:,.1f} MB, to {repository}"
    if not dry_run and not yes:
        if json_out or not sys.stdin.isatty():
            raise EdgekitError(f"Nobody is here to ask whether to send {what}.", fix="Say so:  --yes, or --dry-run")
        dry_run = not typer.confirm(f"Send {what}?", err=True)
    done = plan if dry_run else api.push(repository, run, **given, dry_run=False)  # type: ignore[arg-type]
    if json_out:
        print_json(done.as_json())
        return
    for name, size in done.files.items():
        print_text(f"{size:14,}  {name}")
    if done.url:
        print_text(done.url)
    note(f"Sent {what}." if done.url else f"Nothing was sent: {what}.")
