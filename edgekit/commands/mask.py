"""`edgekit mask`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.console import print_json, print_text


def command(
    checkpoint: Annotated[str, typer.Argument(help="Teacher: Hugging Face folder, or demo:teacher.")],
    ratio: Annotated[
        list[float], typer.Option(help="Share of each linear layer's weights to hide, in [0, 1); may be repeated.")
    ],
    out: Annotated[str, typer.Option(help="Folder to write; {ratio} in it stands for the ratio.")],
    scope: Annotated[str, typer.Option(help="Layers of which part: all, language or vision.")] = "all",
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Pattern (fnmatch) of parameter names to leave whole; may be repeated.", show_default=False),
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a teacher with its mask in the weights, for a server that is to answer for it in Gen-Data.

    Example:  edgekit mask demo:teacher --ratio 0.6 --ratio 0.45 --out 'served/teacher-{ratio}'
    """
    from edgekit import api

    written = api.mask(checkpoint, ratio, out, scope=scope, exclude=exclude or [])
    if json_out:
        print_json([row.as_json() for row in written])
        return
    for row in written:
        print_text(f"{row.folder}  ratio {row.ratio:g}, {row.tensors} tensors masked")
