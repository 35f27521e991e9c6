"""`edgekit distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import note, print_json, print_text


def command(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="Recipe; edgekit.yaml of this workspace, else the built-in demo.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Folder name of the run below runs/.", show_default=False)] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new run even where this recipe has one.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a setting of the recipe; may be repeated.", show_default=False
        ),
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the run's manifest as JSON.")] = False,
) -> None:
    """Distil a student from its teachers with MASTERS; the same command resumes a run that was stopped.

    Example:  edgekit distill edgekit.yaml --set trainer.steps=400
    """
    from edgekit import api

    manifest = api.distill(recipe, name=name, fresh=fresh, overrides=api.parse_overrides(overrides or []))
    if json_out:
        print_json(manifest)
        return
    score = manifest["accuracy"]
    for when in ("before", "after"):
        low, high = score[f"{when}_ci95"]
        print_text(f"accuracy {when + ':':8} {score[when]:.2%}  [{low:.2%}, {high:.2%}]")
    low, high = score["delta_ci95"]
    tested = f"on {score['n']:,} questions of {score['test']}"
    print_text(f"difference:       {score['delta']:+.2%}  [{low:+.2%}, {high:+.2%}]  {tested}")
    drafts = manifest["acceptance"]
    print_text(
        f"as a draft of the teacher: expected acceptance {drafts['before']['expected']:.3f} before, "
        f"{drafts['after']['expected']:.3f} after"
    )
    print_text(f"student:          runs/{manifest['run']}/student")
    note("Next:  edgekit export --target onnx")
