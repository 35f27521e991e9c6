"""Tables on a terminal: the columns that fit, the most important first; never a word broken into letters.

A report's Markdown file keeps every column. On a terminal `--columns` picks some, and `--wide` shows all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgekit.console import note
from edgekit.errors import EdgekitError, nearest
from edgekit.visible import one_line

GAP = 2
"""Spaces between columns."""
NAME = 0.5
"""Share of the line that the first column takes at most; a longer name goes on below."""
LEAST = 8
"""Letters that it has in any case."""
FOLD = 24
"""Letters that a column of sentences needs at least."""


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    order: Sequence[str] = (),
    folding: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    wide: bool = False,
    title: str = "",
    width: int | None = None,
) -> None:
    """Print a table to standard output, and to standard error what of it is left out.

    Args:
        head: Names of the columns; the first one names the row and is always there.
        rows: Their cells, of any origin: controls are escaped.
        order: Names by importance; those of `head` that are not in it come behind, as they stand.
        folding: Names of columns of whole sentences, which may go on in a second line.
        columns: These, in this order, instead of what fits.
        wide: All of them.
        title: Above it.
        width: Letters of a line; the terminal's when None.

    Raises:
        EdgekitError: `columns` names one that is not there.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[one_line(cell) for cell in row] for row in rows]
    console = Console(file=sys.stdout, highlight=False, width=width)
    room = console.width
    if columns is not None:
        shown = [0, *(place for name in columns if (place := find_column(name, head)))]
    else:
        shown = list(range(len(head))) if wide else fitting(head, cells, room, order, folding)
    widths = _widths(head, cells)
    if wide or columns is not None:
        room = max(room, sum(widths[place] + GAP for place in shown))
        console = Console(file=sys.stdout, highlight=False, width=room)
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", title=title or None)
    grid.title_justify = "left"
    for place in shown:
        grid.add_column(
            Text(head[place]), overflow="fold", justify="left", no_wrap=place > 0 and head[place] not in folding
        )
    for row in cells:
        grid.add_row(*(Text(row[place]) for place in shown))
    console.print(grid, soft_wrap=False, crop=False)
    left = [name for place, name in enumerate(head) if place not in shown and any(row[place] for row in cells)]
    if columns is None and left:
        note(f"Not shown at this width: {', '.join(left)}.  --wide shows all, --columns A,B those.")


def fitting(
    head: Sequence[str],
    cells: Sequence[Sequence[str]],
    room: int,
    order: Sequence[str] = (),
    folding: Sequence[str] = (),
) -> list[int]:
    """Places of the columns that fit into a line of `room` letters, the most important first; the first one always.

    A column that does not fit is left out, and a less important one that does may stand.
    """
    needed = [
        min(wide, FOLD) if name in folding else wide for name, wide in zip(head, _widths(head, cells), strict=True)
    ]
    ranked = [head.index(name) for name in order if name in head[1:]]
    ranked += [place for place in range(1, len(head)) if place not in ranked]
    left = room - min(needed[0], max(LEAST, int(NAME * room)))
    shown = [0]
    for place in ranked:
        if not any(row[place] for row in cells):
            continue  # nothing in it
        if needed[place] + GAP <= left:
            shown.append(place)
            left -= needed[place] + GAP
    return shown


def find_column(name: str, head: Sequence[str]) -> int:
    """The place of a column, whatever the case of its letters.

    Raises:
        EdgekitError: there is none of that name.
    """
    known = [one.casefold() for one in head]
    wanted = " ".join(name.split()).casefold()
    if wanted in known:
        return known.index(wanted)
    near = nearest(wanted, known, cutoff=0.5)
    hint = f"Did you mean {head[known.index(near)]!r}?  " if near else ""
    raise EdgekitError(f"There is no column {name.strip()!r}.", fix=f"{hint}There are: {', '.join(head)}.")


def read_columns(text: str | None) -> list[str] | None:
    """The names in `--columns A,B`."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _widths(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(cell_len(name), *(cell_len(row[n]) for row in cells), 0) for n, name in enumerate(head)]
