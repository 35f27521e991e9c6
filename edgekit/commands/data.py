"""`edgekit data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.console import print_json, print_text
from edgekit.visible import one_line

if TYPE_CHECKING:
    from edgekit.api.results import DataCheck

SPECS = (
    "easy-vqa:train, scenes:train[:KIND+KIND][:seed=N][:pictures=N], file.jsonl, file.parquet, an image folder, "
    "or datasets:NAME:SPLIT."
)
app = typer.Typer(
    no_args_is_help=True, help=f"Look at questions and images before anything is trained on them. SPEC is {SPECS}"
)


@app.command()
def check(
    spec: Annotated[str, typer.Argument(help=SPECS)],
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.", min=1, show_default=False)] = None,
    closed_answers: Annotated[
        str | None, typer.Option(help="The only answers allowed: a,b,c or a file with one a line.", show_default=False)
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Read the headers of the images alone; damaged ones are not found.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Write the rows in edgekit's own form to this .jsonl or .parquet; only if all are good.",
            show_default=False,
        ),
    ] = None,
    drop_bad: Annotated[bool, typer.Option("--drop-bad", help="With --to: write the good rows all the same.")] = False,
    escape_marks: Annotated[
        bool,
        typer.Option(
            "--escape-marks",
            help="With --to: a literal <image> that stands for no image becomes < image >, which no tokenizer knows.",
        ),
    ] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Read every row, decode every image, and name each bad row; exit 1 when there is one.

    Example:  edgekit data check train.jsonl --closed-answers yes,no
    Example:  edgekit data check llava.jsonl --to train.parquet
    """
    from edgekit import api
    from edgekit.errors import DataError

    if to is None and (drop_bad or escape_marks):
        raise typer.BadParameter("--drop-bad and --escape-marks go with --to.")
    found = api.data_check(
        spec,
        limit=limit,
        closed_answers=closed_answers,
        fast=fast,
        to=to,
        drop_bad=drop_bad,
        escape_marks=escape_marks,
    )
    if json_out:
        print_json(found.as_json())
    else:
        _print_findings(found)
    good, bad = found.findings.good, found.findings.bad_count
    if bad and not (drop_bad and good):
        rows = good + bad
        unwritten = f" {to} was not written; --drop-bad writes the good ones." if to is not None else ""
        raise DataError(f"{bad:,} of {rows:,} rows of {spec} cannot be used.{unwritten}", fix="Mend or remove them.")
    if not good:
        raise DataError(f"{spec} holds no samples.")


def _print_findings(checked: DataCheck) -> None:
    found = checked.as_json()
    for kind, name in (("bad", "bad"), ("warning", "warnings")):
        for row in found[name]:
            print_text(f"{kind:8} {one_line(row['location'])}: {one_line(row['reason'])}")
        if (more := found[f"{kind}_count"] - len(found[name])) > 0:
            print_text(f"{kind:8} and {more:,} more")
    print_text(f"{found['good']:,} good rows, {found['bad_count']:,} bad, {found['warning_count']:,} warnings")
    for form, count in found["forms"].items():
        print_text(f"form     {one_line(form)}: {count:,} rows")
    if found.get("written"):
        print_text(f"written  {found['written']:,} rows to {one_line(found['to'])}")
    if found["widths"]:
        print_text("images {} to {} px wide, {} to {} px high".format(*found["widths"], *found["heights"]))
    shown = ", ".join(f"{one_line(answer)} {count:,}" for answer, count in found["answers"].items())
    print_text(f"{found['distinct_answers']:,} different answers: {shown}")


@app.command()
def show(
    spec: Annotated[str, typer.Argument(help=SPECS)],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many samples.")] = 5,
    json_out: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """Print the first samples: question, answer, and the size of each image.

    Example:  edgekit data show easy-vqa:test -n 3
    Example:  edgekit data show scenes:test:list+relation -n 4
    """
    from edgekit import api

    rows = api.data_show(spec, count=count)
    if json_out:
        print_json([row.as_json() for row in rows])
        return
    for row in rows:
        images = ", ".join(f"{image.width}x{image.height} {image.mode}" for image in row.images)
        others = f" (of {len(row.answers)}, {len(set(row.answers))} different)" if len(row.answers) > 1 else ""
        source = f"  {one_line(row.dataset)}" if row.dataset else ""
        form = f"  ({one_line(row.form)})"
        asked = f"{one_line(row.id):16} {row.question!r} -> {row.answer!r}{others}"
        print_text(f"{asked}  [{images or 'no image'}]{source}{form}")
