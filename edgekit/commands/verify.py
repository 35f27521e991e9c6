"""`edgekit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import print_json, print_text


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    reference: Annotated[
        str | None,
        typer.Option(help="Checkpoint it was exported from; its run's student by default.", show_default=False),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Questions; the run's test questions by default.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(help="How many questions.", min=1)] = 32,
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a bundle's files, and its answers against PyTorch's; exit 3 when a bar is missed.

    Example:  edgekit verify runs/demo/bundles/onnx-int8
    """
    from edgekit import api

    result = api.verify(bundle, reference=reference, data=data, samples=samples)
    if json_out:
        print_json(result)
    else:
        files = result["files"]
        print_text(f"files     whole: {files['count']} files, {files['bytes']:,} bytes, {result['bundle'][:12]}")
        if not result["compared"]:
            print_text(f"answers   not compared: {result['why']}")
        for name, check in result.get("checks", {}).items():
            print_text(
                f"{'held  ' if check['held'] else 'MISSED'}    {name:18} {check['value']:.6g}  (bar {check['bar']:g})"
            )
        if result["compared"]:
            seen = f"{result['tokens']} tokens of {result['samples']} answers"
            print_text(f"          mean KL {result['mean_kl']:.2e} nats over {seen}")
    if not result["passed"]:
        raise typer.Exit(3)
