"""`edgekit probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import note, print_json, print_text


def command(
    teacher: Annotated[str, typer.Argument(help="Hugging Face folder, hub name, or demo:teacher / demo:mid.")],
    data: Annotated[
        str | None,
        typer.Option(help="Data spec; the train data of this workspace's recipe by default.", show_default=False),
    ] = None,
    questions: Annotated[int, typer.Option(help="How many, drawn uniformly.", min=1)] = 512,
    step: Annotated[float, typer.Option(help="Between mask ratios, in (0, 1).")] = 0.05,
    max_drop: Annotated[float, typer.Option(help="Accuracy that may be lost before the cliff, points of 100.")] = 2.0,
    scoring: Annotated[
        str | None, typer.Option(help="Metric; the recipe's by default, else exact.", show_default=False)
    ] = None,
    scope: Annotated[str, typer.Option(help="Which linear layers: all, language or vision.")] = "all",
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of weight names to leave whole; may be repeated.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of questions.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 16,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; torch's choice by default.", min=1, show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table and the plot.")] = Path("edgekit-probe"),
    json_out: Annotated[bool, typer.Option("--json", help="Print the sweep as JSON.")] = False,
) -> None:
    """Measure a teacher at rising mask ratios until its quality falls off, and propose r_max.

    Example:  edgekit probe demo:teacher --questions 512
    """
    from edgekit import api

    probed = api.probe(
        teacher,
        data=data,
        questions=questions,
        step=step,
        max_drop=max_drop,
        scoring=scoring,
        scope=scope,
        exclude=exclude or [],
        seed=seed,
        max_new_tokens=max_new_tokens,
        threads=threads,
        out=out,
    )
    if json_out:
        print_json(probed.as_json())
        return
    sweep = probed.sweep
    print_text("mask r   accuracy  [95 % interval]       lost, points  [95 % paired]      JSD to itself, nats")
    for row in sweep.rows:
        (low, high), (least, most) = row.ci95, row.drop_ci95
        interval, lost = f"[{low:.2%}, {high:.2%}]", f"[{100 * least:+.2f}, {100 * most:+.2f}]"
        mark = "  <- proposed r_max" if row.ratio == sweep.r_max else ""
        print_text(
            f"{row.ratio:<8.2f} {row.accuracy:>8.2%}  {interval:<20}  {100 * row.drop:>+6.2f}"
            f"        {lost:<18} {row.jsd:.4f}{mark}"
        )
    print_text(f"{sweep.questions:,} questions; r_max is the largest ratio up to which no more than")
    print_text(f"{100 * sweep.max_drop:g} points are lost. In a recipe:  masters: {{mask: {{r_max: auto}}}}")
    for path in probed.files:
        note(f"Wrote {path}")
