"""`edgekit data check`: every row read, every picture decoded, every problem named."""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgekit.data import BadRow, Sample, open_data
from edgekit.errors import DataError

EXIF_ORIENTATION = 0x0112


@dataclass
class Findings:
    """What a check found.

    Attributes:
        good: Rows that can be used.
        bad: Rows that cannot.
        warnings: Rows that can, but look wrong.
        answers: How often each answer stands there.
        widths, heights: Smallest and largest, pixels; None without pictures.
    """

    good: int = 0
    bad: list[BadRow] = field(default_factory=list)
    warnings: list[BadRow] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    widths: tuple[int, int] | None = None
    heights: tuple[int, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the twenty most frequent answers."""
        return {
            "good": self.good,
            "bad": [vars(row) for row in self.bad],
            "warnings": [vars(row) for row in self.warnings],
            "answers": dict(self.answers.most_common(20)),
            "distinct_answers": len(self.answers),
            "widths": self.widths,
            "heights": self.heights,
        }


def check(
    spec: str,
    *,
    limit: int | None = None,
    closed_answers: set[str] | None = None,
    on_row: Callable[[int], None] = lambda _: None,
) -> Findings:
    """Read every row of a data spec and decode its pictures.

    Args:
        spec: See `edgekit.data`.
        limit: The first so many rows.
        closed_answers: The only answers allowed, when given.
        on_row: Told the number of rows read.
    """
    found = Findings()
    seen: set[int] = set()
    for number, row in enumerate(itertools.islice(open_data(spec), limit), 1):
        on_row(number)
        problem = row if isinstance(row, BadRow) else _problem(row, found, seen, closed_answers)
        if problem is not None:
            found.bad.append(problem)
        elif isinstance(row, Sample):
            found.good += 1
            if row.answer is not None:
                found.answers[row.answer] += 1
    return found


def _problem(row: Sample, found: Findings, seen: set[int], closed: set[str] | None) -> BadRow | None:
    if hash(row.id) in seen:
        return BadRow(row.location, f"the id {row.id!r} was there before")
    seen.add(hash(row.id))
    if row.answer is None or not row.answer.strip():
        return BadRow(row.location, "no answer")
    if closed is not None and row.answer not in closed:
        near = difflib.get_close_matches(row.answer, sorted(closed), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        return BadRow(row.location, f"the answer {row.answer!r} is not among the {len(closed)} allowed{hint}")
    for ref in row.images:
        try:
            image = ref.open()
        except DataError as error:
            return BadRow(row.location, " ".join(str(error).split()))
        found.widths = _widen(found.widths, image.width)
        found.heights = _widen(found.heights, image.height)
        if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
            text = "the picture is turned by its EXIF tag, which processors ignore: it will be seen unturned"
            found.warnings.append(BadRow(row.location, text))
    return None


def _widen(span: tuple[int, int] | None, value: int) -> tuple[int, int]:
    return (value, value) if span is None else (min(span[0], value), max(span[1], value))
