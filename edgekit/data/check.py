"""`edgekit data check`: every row read, every picture decoded, every problem named."""

from __future__ import annotations

import difflib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.console import note
from edgekit.data import BadRow, Sample, open_data
from edgekit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

EXIF_ORIENTATION = 0x0112
# What is kept for the report; a set of a million rows, all bad or all with an answer of its own, must fit as well.
KEPT_ROWS, KEPT_ANSWERS, SHOWN_ANSWERS = 10_000, 10_000, 20


@dataclass
class Findings:
    """What a check found.

    Attributes:
        good: Number of rows that can be used.
        bad: Rows that cannot, the first KEPT_ROWS.
        bad_count: Number of all of them.
        warnings: Rows that can be used, but look wrong; the first KEPT_ROWS.
        warning_count: Number of all warnings.
        answers: How often each answer stands there, of the first KEPT_ANSWERS different ones.
        widths, heights: Smallest and largest, pixels; None without pictures.
    """

    good: int = 0
    bad: list[BadRow] = field(default_factory=list)
    bad_count: int = 0
    warnings: list[BadRow] = field(default_factory=list)
    warning_count: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    widths: tuple[int, int] | None = None
    heights: tuple[int, int] | None = None
    _ids: set[int] = field(default_factory=set, repr=False)
    _answers: set[int] = field(default_factory=set, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the twenty most frequent answers."""
        return {
            "good": self.good,
            "bad_count": self.bad_count,
            "bad": [vars(row) for row in self.bad],
            "warning_count": self.warning_count,
            "warnings": [vars(row) for row in self.warnings],
            "answers": dict(self.answers.most_common(SHOWN_ANSWERS)),
            "distinct_answers": len(self._answers),
            "widths": self.widths,
            "heights": self.heights,
        }

    def add_bad(self, row: BadRow) -> None:
        """Count a row that cannot be used."""
        self.bad_count += 1
        if len(self.bad) < KEPT_ROWS:
            self.bad.append(row)

    def add_warning(self, location: str, reason: str) -> None:
        """Count something that looks wrong."""
        self.warning_count += 1
        if len(self.warnings) < KEPT_ROWS:
            self.warnings.append(BadRow(location, reason))

    def add_good(self, answer: str) -> None:
        """Count a row that can be used."""
        self.good += 1
        self._answers.add(hash(answer))
        if answer in self.answers or len(self.answers) < KEPT_ANSWERS:
            self.answers[answer] += 1

    def is_new(self, ident: str) -> bool:
        """Whether no row before had this id; only hashes are kept."""
        before = len(self._ids)
        self._ids.add(hash(ident))
        return len(self._ids) > before

    def add_picture(self, image: Image) -> None:
        """Widen the range of sizes."""
        self.widths = _widen(self.widths, image.width)
        self.heights = _widen(self.heights, image.height)


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
    for number, row in enumerate(itertools.islice(open_data(spec), limit), 1):
        on_row(number)
        reason = row.reason if isinstance(row, BadRow) else _problem(row, found, closed_answers)
        if reason is not None:
            found.add_bad(BadRow(row.location, reason))
        elif isinstance(row, Sample):
            found.add_good(row.answer or "")
    return found


def allowed_answers(text: str) -> set[str]:
    """The answers of `--closed-answers`.

    Args:
        text: `a,b,c`, or the name of a file with one answer a line.
    Raises:
        DataError: a file name, but no such file; or no answer at all.
    """
    fix = "Give them as  a,b,c  or as a file with one a line."
    try:
        answers = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        answers = text.split(",")
        if len(answers) == 1 or isinstance(error, UnicodeDecodeError):
            raise DataError(f"Cannot read the allowed answers from {text!r}.", why=str(error), fix=fix) from error
    allowed = {answer.strip() for answer in answers if answer.strip()}
    if not allowed:
        raise DataError(f"{text!r} names no allowed answer.", fix=fix)
    return allowed


def row_notes(spec: str, limit: int | None = None, *, every_s: float = 5.0) -> Callable[[int], None]:
    """An `on_row` that says on standard error how far the check is; a stream does not know its own length."""
    begun = last = time.monotonic()

    def told(number: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            of = f" of {limit:,} at most" if limit else ""
            note(f"checking {spec}: {number:,} rows{of}, {number / (now - begun):,.0f} a second")

    return told


def _problem(row: Sample, found: Findings, closed: set[str] | None) -> str | None:
    """Why a sample cannot be used; None when it can. Sizes and warnings go to `found`."""
    if not found.is_new(row.id):
        return f"the id {row.id!r} was there before"
    if row.answer is None or not row.answer.strip():
        return "no answer"
    if closed is not None and (strange := [answer for answer in row.answers if answer not in closed]):
        return f"the answer {strange[0]!r} is not among the {len(closed)} allowed{_nearest(strange[0], closed)}"
    for ref in row.images:
        try:
            image = ref.open()
        except DataError as error:
            return " ".join(str(error).split())
        found.add_picture(image)
        if warning := _exif_warning(image):
            found.add_warning(row.location, warning)
    return None


def _nearest(answer: str, closed: set[str]) -> str:
    spelled = {known.lower(): known for known in sorted(closed)}
    near = difflib.get_close_matches(answer.strip().lower(), spelled, n=1)
    return f", did you mean {spelled[near[0]]!r}?" if near else ""


def _exif_warning(image: Image) -> str:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:  # like the decoders: SyntaxError, struct.error and more at damaged bytes
        return f"the picture's EXIF tags cannot be read: {error}"
    if orientation in (0, 1):  # 0: not set
        return ""
    return "the picture is turned by its EXIF tag, which processors ignore: it will be seen unturned"


def _widen(span: tuple[int, int] | None, value: int) -> tuple[int, int]:
    return (value, value) if span is None else (min(span[0], value), max(span[1], value))
