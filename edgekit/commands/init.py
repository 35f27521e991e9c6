"""`edgekit init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import note, print_text


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of the new workspace.")] = Path(),
    teacher: Annotated[
        list[str] | None, typer.Option(help="Teacher checkpoint; may be repeated, smallest first.", show_default=False)
    ] = None,
    student: Annotated[str | None, typer.Option(help="Student checkpoint.", show_default=False)] = None,
    train: Annotated[str | None, typer.Option(help="Train questions, a data spec.", show_default=False)] = None,
    test: Annotated[str | None, typer.Option(help="Test questions, a data spec.", show_default=False)] = None,
    masters: Annotated[
        bool, typer.Option("--masters", help="For own models: the paper's recipe, with mask, rewards and JSD.")
    ] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Print every setting, its default and meaning; write nothing.")
    ] = False,
) -> None:
    """Write edgekit.yaml: the demo's recipe, or one for your own models and data.

    The latter is plain distillation; `edgekit ablate` tells whether more than that helps on your data.

    Example:  edgekit init work --teacher ./big-vlm --student ./small-vlm --train train.jsonl --test test.jsonl
    """
    from edgekit import api

    if settings:
        from edgekit.recipe.reading import describe_settings

        for key, default, doc in describe_settings():
            print_text(f"{key:40} {default or '-':24} {' '.join(doc.split())}")
        return
    path = api.init(folder, teachers=teacher or [], student=student, train=train, test=test, masters=masters)
    print_text(str(path))
    note(f"Next:  {'' if folder == Path() else f'cd {folder} && '}edgekit distill")
