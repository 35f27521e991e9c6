"""`edgekit demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import print_json, print_text

app = typer.Typer(no_args_is_help=True, help="The built-in demo models: their cards, and how they were trained.")


@app.command()
def card(
    json_out: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """Show what the shipped demo teacher and student are: data, seed, time, measured accuracy.

    Example:  edgekit demo card
    """
    from edgekit import api

    cards = api.demo_cards()
    if json_out:
        print_json({name: one.as_json() for name, one in cards.items()})
        return
    for name, one in cards.items():
        low, high = one.test_accuracy_ci95
        print_text(f"demo:{name}  {one.parameters:,} parameters, {one.architecture}")
        count, seconds = one.test_questions, sum(one.train_seconds.values())
        print_text(f"  accuracy  {one.test_accuracy:.2%} [{low:.2%}, {high:.2%}] on {count:,} test questions")
        for kind, own in one.test_by_kind.items():
            low, high = own.ci95
            print_text(f"            {kind} {own.accuracy:.2%} [{low:.2%}, {high:.2%}] of {own.questions:,}")
        print_text(f"  trained   {one.data}")
        threads = f"{one.threads} thread{'s' if one.threads > 1 else ''}"
        step = "" if one.step is None else f"; as it was after step {one.step:,}"
        print_text(f"            seed {one.seed}; {seconds:,} s on {threads}{step}")


@app.command()
def train(
    role: Annotated[str, typer.Argument(help="teacher, mid or student; scenes:teacher, scenes:mid or scenes:student.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write; by default <role> in the current folder, with - for the colon.", show_default=False
        ),
    ] = Path(),
    work: Annotated[Path, typer.Option(help="Folder for checkpoints; a stopped training goes on from there.")] = Path(
        "demo-train"
    ),
    seed: Annotated[int, typer.Option(help="Of weights, data order and augmentation.")] = 0,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; torch's choice by default.", show_default=False)
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Train a demo model from scratch on easy-VQA's train split; about half an hour for the teacher on two cores.

    Of the second built-in task, scenes, the teacher takes about half an hour on one core and the student a minute. The
    teacher's first states at 60, 80 and 95 % of held-back questions are kept in the work folder, as far as it comes.

    Example:  edgekit demo train student --out student
    Example:  edgekit demo train scenes:teacher --out scenes-teacher
    """
    from edgekit import api

    made = api.demo_train(
        role, Path(role.replace(":", "-")) if out == Path() else out, work, seed=seed, threads=threads
    )
    if json_out:
        print_json(made.as_json())
        return
    low, high = made.test_accuracy_ci95
    print_text(f"{role}: {made.test_accuracy:.2%} [{low:.2%}, {high:.2%}] on {made.test_questions:,} test questions")
    for level, folder in made.snapshots.items():
        print_text(f"{role} at {level}: {folder}")
