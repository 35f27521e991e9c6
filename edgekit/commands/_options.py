"""Options that several verbs have."""

from __future__ import annotations

from typing import Annotated

import typer

Columns = Annotated[
    str | None,
    typer.Option(
        "--columns", metavar="A,B", help="Columns of the table, instead of those that fit.", show_default=False
    ),
]
RuntimeName = Annotated[
    str | None,
    typer.Option(
        "--runtime", help="Another package's runtime, where several could run the bundle.", show_default=False
    ),
]
Wide = Annotated[bool, typer.Option("--wide", help="Every column, wider than the terminal if need be.")]
