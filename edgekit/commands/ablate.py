"""`edgekit ablate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekit.commands._options import Columns, Wide
from edgekit.console import note, print_json, print_text


def command(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help="Recipe; edgekit.yaml of this workspace, else the built-in demo's of full MASTERS. demo:scenes is "
            "that of the experiment on answers of several tokens.",
            show_default=False,
        ),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Some of jsd,forward_kl,jsd_labels,jsd_right,mid,mask,rewards,rewards_topr,full,full_topr,"
            "full_without_distill,full_without_mid,taid,align_kd,image_weighted,recipe (as it is); when left out "
            "jsd,jsd_labels,mid,mask,rewards,full,full_without_mid,taid,align_kd,recipe. jsd is always among them; "
            "those with rewards turn them on.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each arm; fewer than 3 prove nothing.", min=1)] = 3,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Choose each arm's learning rate among these, by one run of each on a further seed, on train "
            "questions held out; the recipe's for all when left out.",
            show_default=False,
        ),
    ] = None,
    tuning_questions: Annotated[
        int, typer.Option(help="Train questions held out for that choice; a fifth of all at most.", min=1)
    ] = 512,
    name: Annotated[str | None, typer.Option(help="Folder name below runs/.", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a setting of the recipe; may be repeated.", show_default=False
        ),
    ] = None,
    columns: Columns = None,
    wide: Wide = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run MASTERS, with parts of it left out, and plain distillation at equal compute; the same command resumes.

    Example:  edgekit ablate --arms jsd,jsd_labels,full,full_topr --learning-rates 5e-4,1e-3,2e-3 --seeds 5

    On answers of several tokens:  edgekit ablate demo:scenes --arms jsd,jsd_labels,full,full_topr
    """
    from edgekit import api
    from edgekit.distill.ablation_table import ORDER, columns_of, markdown, table
    from edgekit.distill.tuning import read_rates
    from edgekit.tables import print_table, read_columns

    chosen = [arm.strip() for arm in arms.split(",")] if arms is not None else None
    made = api.ablate(
        recipe,
        arms=chosen,
        seeds=seeds,
        learning_rates=() if learning_rates is None else read_rates(learning_rates),
        tuning_questions=tuning_questions,
        name=name,
        overrides=api.parse_overrides(overrides or []),
    )
    report = made.as_json()
    if json_out:
        print_json(report)
        return
    if columns is None and not wide and not sys.stdout.isatty():
        print_text(markdown(report).rstrip())
    else:
        before, cells, after = table(report)
        print_text(before)
        print_table(columns_of(report), cells, order=ORDER, columns=read_columns(columns), wide=wide)
        print_text(after)
    note(f"Wrote {made.folder}/report.md, report.json and the plot gain.svg where matplotlib is installed.")
