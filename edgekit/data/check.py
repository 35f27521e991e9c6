"""`edgekit data check`: every row read, every image decoded, every problem named."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.console import note, progress
from edgekit.data import SOURCES, BadRow, ImageRef, Sample, open_data
from edgekit.data.turns import marks_in
from edgekit.errors import DataError, nearest
from edgekit.inputs.images import upright

if TYPE_CHECKING:
    from PIL.Image import Image

EXIF_ORIENTATION = 0x0112
ROWS_AHEAD = 16
"""Rows whose images are decoded ahead, for each thread."""
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
        forms: How many good rows came in each form.
        widths, heights: Smallest and largest, pixels; None without images.
    """

    good: int = 0
    bad: list[BadRow] = field(default_factory=list)
    bad_count: int = 0
    warnings: list[BadRow] = field(default_factory=list)
    warning_count: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    widths: tuple[int, int] | None = None
    heights: tuple[int, int] | None = None
    _ids: set[int] = field(default_factory=set, repr=False)
    _answers: set[int] = field(default_factory=set, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the twenty most frequent answers."""
        return {
            "good": self.good,
            "forms": dict(self.forms.most_common()),
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

    def add_good(self, form: str, answer: str) -> None:
        """Count a row that can be used."""
        self.good += 1
        self.forms[form] += 1
        self._answers.add(hash(answer))
        if answer in self.answers or len(self.answers) < KEPT_ANSWERS:
            self.answers[answer] += 1

    def is_new(self, ident: str) -> bool:
        """Whether no row before had this id; only hashes are kept."""
        before = len(self._ids)
        self._ids.add(hash(ident))
        return len(self._ids) > before

    def add_size(self, width: int, height: int) -> None:
        """Widen the range of sizes."""
        self.widths = _widen(self.widths, width)
        self.heights = _widen(self.heights, height)


def check(
    spec: str,
    *,
    limit: int | None = None,
    closed_answers: set[str] | None = None,
    fast: bool = False,
    on_row: Callable[[int], None] = lambda _: None,
    on_good: Callable[[Sample], None] = lambda _: None,
) -> Findings:
    """Read every row of a data spec and decode its images whole, on as many threads as there are cores.

    Args:
        spec: See `edgekit.data`.
        limit: The first so many rows.
        closed_answers: The only answers allowed, when given.
        fast: Read the headers of the images alone.
        on_row: Told the number of rows read.
        on_good: Given each row that can be used, in their order.
    """
    found = Findings()
    rows = itertools.islice(open_data(spec), limit)
    for number, (row, images) in enumerate(_looked_at(rows, fast), 1):
        on_row(number)
        reason = row.reason if isinstance(row, BadRow) else _problem(row, images, found, closed_answers)
        if reason is not None:
            found.add_bad(BadRow(row.location, reason))
        elif isinstance(row, Sample):
            found.add_good(row.form, row.answer or "")
            on_good(row)
    return found


@dataclass(frozen=True)
class _Image:
    """What a look at an image gave: its size as it will be seen, or why it cannot be used, and what looks wrong."""

    size: tuple[int, int] = (0, 0)
    problem: str = ""
    warnings: tuple[str, ...] = ()


def _looked_at(rows: Iterator[Sample | BadRow], fast: bool) -> Iterator[tuple[Sample | BadRow, list[_Image]]]:
    """Each row with a look at its images, in order; a few rows ahead are under way."""
    look = _header if fast else _whole
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Sample | BadRow, Any]] = deque()
        try:
            for row in rows:
                refs = row.images if isinstance(row, Sample) else ()
                waiting.append((row, pool.submit(lambda refs: [look(ref) for ref in refs], refs) if refs else None))
                if len(waiting) > threads * ROWS_AHEAD:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _finished(row: Sample | BadRow, images: Any) -> tuple[Sample | BadRow, list[_Image]]:
    return row, images.result() if images is not None else []


def _header(ref: ImageRef) -> _Image:
    try:
        return _Image(ref.size())
    except DataError as error:
        return _Image(problem=" ".join(str(error).split()))


def _whole(ref: ImageRef) -> _Image:
    try:
        stored = ref.decoded()
        warnings = tuple(
            text for text in (_exif_warning(stored), _frames_warning(stored), _depth_warning(stored)) if text
        )
        return _Image(upright(stored).size, warnings=warnings)
    except DataError as error:
        return _Image(problem=" ".join(str(error).split()))


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


@contextmanager
def row_progress(spec: str, limit: int | None = None) -> Iterator[Callable[[int], None]]:
    """An `on_row` that shows on standard error how far the check is, by a bar where the source knows its length."""
    total = _count(spec)
    if total is None:
        yield row_notes(spec, limit)
        return
    total = min(total, limit or total)
    with progress() as bar:
        task = bar.add_task(f"checking {spec}", total=max(total, 1))
        yield lambda number: bar.update(task, completed=min(number, total))


def _count(spec: str) -> int | None:
    """How many rows a spec holds, near enough for a bar; None where that is not cheaply known."""
    for _, source in SOURCES.working():
        if source.claims(spec):
            return None if source.count is None else source.count(spec)
    return None


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


def _problem(row: Sample, images: list[_Image], found: Findings, closed: set[str] | None) -> str | None:
    """Why a sample cannot be used; None when it can. Sizes and warnings go to `found`."""
    if not found.is_new(row.id):
        return f"the id {row.id!r} was there before"
    if row.answer is None or not row.answer.strip():
        return "no answer"
    if closed is not None and (strange := [answer for answer in row.answers if answer not in closed]):
        return f"the answer {strange[0]!r} is not among the {len(closed)} allowed{_nearest(strange[0], closed)}"
    for image in images:
        if image.problem:
            return image.problem
        found.add_size(*image.size)
        for text in image.warnings:
            found.add_warning(row.location, text)
    if literal := [mark for text in _texts(row) for mark in marks_in(text)]:
        found.add_warning(
            row.location,
            f"the text holds a literal {literal[0]!r}, which the tokenizers of some models take for their own; "
            "--to FILE --escape-marks writes it so that none does",
        )
    return None


def _texts(row: Sample) -> Iterator[str]:
    for message in row.messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
    yield from row.answers


def _nearest(answer: str, closed: set[str]) -> str:
    spelled = {known.lower(): known for known in sorted(closed)}
    near = nearest(answer.strip().lower(), spelled)
    return f", did you mean {spelled[near]!r}?" if near else ""


def _exif_warning(image: Image) -> str:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:  # like the decoders: SyntaxError, struct.error and more at damaged bytes
        return f"the image's EXIF tags cannot be read: {error}"
    if orientation in (0, 1):  # 0: not set
        return ""
    return "the image is turned by its EXIF tag, as datasets and transformers turn it: make sure that is upright"


def _frames_warning(image: Image) -> str:
    frames = getattr(image, "n_frames", 1)
    return f"the image has {frames} frames, of which the first is seen" if frames > 1 and image.format != "MPO" else ""


def _depth_warning(image: Image) -> str:
    if image.mode.startswith("I;16"):
        return "the image has 16 bits a pixel, of which the upper 8 are seen"
    if image.mode in ("I", "F"):
        return f"the image's values (mode {image.mode}) are no colours: all outside 0 to 255 are seen as black or white"
    return ""


def _widen(span: tuple[int, int] | None, value: int) -> tuple[int, int]:
    return (value, value) if span is None else (min(span[0], value), max(span[1], value))
