"""`edgekit card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import note, print_json, print_text

RunFolder = Annotated[
    Path | None, typer.Argument(help="Folder of a finished run; the latest by default.", show_default=False)
]
Bundles = Annotated[
    list[str] | None, typer.Option("--bundle", help="A bundle; may be repeated. All of the run's by default.")
]
License = Annotated[str | None, typer.Option("--license", help="As the hub names it, such as apache-2.0.")]
BenchmarkName = Annotated[
    str | None,
    typer.Option(metavar="ORG/NAME:TASK", help="Data set of the hub that the test questions are of: accuracy for it."),
]


def command(
    run: RunFolder = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the card; the run's card/ by default.")] = None,
    bundle: Bundles = None,
    license_id: License = None,
    benchmark: BenchmarkName = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the card and its files as JSON.")] = False,
) -> None:
    """Write a model card of a run: data, recipe, lineage, accuracy with intervals, bundles, limits.

    Example:  edgekit card --license apache-2.0
    """
    from edgekit import api

    written = api.card(run, bundles=bundle, out=out, license_id=license_id, benchmark=benchmark)
    if json_out:
        print_json(written.as_json())
        return
    print_text(written.text)
    note(f"Written to {written.folder}: {', '.join(written.files)}")
