"""Samples: images, messages and an answer, streamed from a source.

A source is one file of this package; `open_data` picks it from a spec string:

    easy-vqa:train                 the built-in demo set and one of its splits
    scenes:train                   drawn images of several shapes; `edgekit.data.scenes` says what may follow
    questions.jsonl                one JSON object a line
    questions.parquet              a Parquet file, or a folder of them
    pictures/                      an image folder: metadata.jsonl, or one folder per answer
    datasets:NAME_OR_FOLDER:SPLIT  anything the `datasets` library loads, streamed; [:CONFIG] before the split

Lines and rows are counted from 1. Each file of a source holds a `SOURCE`. Nothing is held in memory
but the row at hand; a row that cannot be read is yielded as a `BadRow` and says where it is and why.
"""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.data import forms
from edgekit.data.image_ref import ImageRef, as_image_ref
from edgekit.data.turns import escaped
from edgekit.errors import DataError
from edgekit.inputs.chat import Message
from edgekit.registry import Registry

__all__ = ["BadRow", "ImageRef", "Sample", "make_sample", "open_data", "samples"]


@dataclass(frozen=True)
class Sample:
    """One question about zero or more images, in the conversational format of `datasets` and TRL.

    Attributes:
        id: Unique within its source; stable from run to run.
        images: In the order of the image parts of `messages`.
        messages: [{"role": ..., "content": text or parts}]; ends with the user's turn.
        answer: The reference answer, of several the most frequent, then the first; None when unknown.
        location: Where it was read, file and line, for messages.
        answers: Every accepted reference, one for each annotator, so that one given twice stands there twice; `answer`
            alone when not given.
        dataset: Which data set a row of a mixed file comes from; metrics and judges may be chosen by it.
        form: What the row was written in (`edgekit.data.forms`).
    """

    id: str
    images: tuple[ImageRef, ...]
    messages: list[Message]
    answer: str | None = None
    location: str = ""
    answers: tuple[str, ...] = ()
    dataset: str | None = None
    form: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.answer is None and self.answers:
            object.__setattr__(self, "answer", Counter(self.answers).most_common(1)[0][0])
        elif self.answer is not None and not self.answers:
            object.__setattr__(self, "answers", (self.answer,))

    @property
    def text(self) -> str:
        """The text of the last user turn."""
        content = self.messages[-1]["content"]
        if isinstance(content, str):
            return content
        return " ".join(part["text"] for part in content if part.get("type") == "text")


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read: where, and why."""

    location: str
    reason: str


@dataclass(frozen=True)
class Source:
    """Where samples come from.

    Attributes:
        claims: Whether a data spec is its own.
        rows: The rows behind a spec, streamed; a `DataError` where they are not there.
        count: How many rows a spec holds, near enough for a progress bar; None where that is not cheaply known.
    """

    claims: Callable[[str], bool]
    rows: Callable[[str], Iterator[Sample | BadRow]]
    count: Callable[[str], int | None] | None = None


HELPERS = frozenset({"check", "convert", "forms", "image_ref", "jpeg", "turns"})
SOURCES: Registry[Source] = Registry("edgekit.data", "data source", "Source", "SOURCE", HELPERS)


def open_data(spec: str) -> Iterator[Sample | BadRow]:
    """All rows behind a spec, good and bad, streamed.

    Raises:
        DataError: no source claims the spec, or the source itself is not there.
    """
    try:
        for _, source in SOURCES.working() if spec.strip() else ():  # "" would be the current folder
            if source.claims(spec):
                return source.rows(spec)
        there = Path(spec).exists()
    except OSError as error:  # a name too long, a folder that may not be listed
        raise DataError(f"No data at {spec[:200]!r}.", why=str(error)[:500]) from error
    raise DataError(
        f"No data at {spec!r}.",
        why=("It exists, but is" if there else "It is")
        + " neither an existing .jsonl or .parquet file, an image folder, nor a known name.",
        fix="Give a path, 'easy-vqa:train', 'scenes:train', or 'datasets:NAME:SPLIT'.",
    )


def samples(spec: str, *, limit: int | None = None, need_answer: bool = True) -> Iterator[Sample]:
    """The samples behind a spec; the first bad row is an error.

    Args:
        spec: See `open_data`.
        limit: Stop after so many.
        need_answer: A sample without a reference answer is a bad row.

    Raises:
        DataError: a bad row, or no row at all.
    """
    count = 0
    for row in itertools.islice(open_data(spec), limit):
        if isinstance(row, BadRow):
            raise DataError(
                f"{row.location}: {row.reason}", fix=f"See every bad row:  edgekit data check {shlex.quote(spec)}"
            )
        if need_answer and row.answer is None:
            raise DataError(f"{row.location}: no answer.", fix="Add the field 'answer' to each row.")
        count += 1
        yield row
    if count == 0:
        raise DataError(f"{spec} holds no samples.")


def make_sample(row: dict[str, Any], *, ident: str, location: str, base: Path | None = None) -> Sample | BadRow:
    """A sample from a row in any of the accepted forms.

    Args:
        row: See `edgekit.data.forms`; perhaps with `id` and `dataset`, and where the conversation does not end with it
            with `answer` or `answers`, a text, or a list of texts or of {"answer": text}. A field that is null counts
            as absent, as Arrow fills up what a row does not have.
        ident: Used unless the row has an `id`.
        location: File and line for messages.
        base: Folder that relative image paths start from.
    """
    try:
        plain = forms.plain_form(row)
        images = tuple(as_image_ref(value, base, location) for value in plain.images)
        answer, answers = _with_last_turn(plain.answer, *_references(row))
        own, dataset = _scalar(row, "id"), _scalar(row, "dataset")
        _check_text(plain.messages, answer, *answers, own or ident, dataset)
    except DataError as error:
        return BadRow(location, error.what)
    return Sample(ident if own is None else own, images, plain.messages, answer, location, answers, dataset, plain.form)


def _with_last_turn(
    said: str | None, answer: str | None, answers: tuple[str, ...]
) -> tuple[str | None, tuple[str, ...]]:
    """The references of a row whose conversation may end with one."""
    if said is None or (answer is None and not answers):
        one = said if said is not None else answer
        return None if one is None else escaped(one), tuple(map(escaped, answers))
    if said.strip() not in {text.strip() for text in (answer, *answers) if text is not None}:
        given = answer if answer is not None else answers[0]
        raise DataError(f"the conversation ends with {said[:60]!r} but the answer is {given[:60]!r}; keep one of them")
    return None if answer is None else escaped(answer), tuple(map(escaped, answers))


def _references(row: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The one answer a row names, and all that it accepts; with a list alone the sample chooses among them."""
    one, several = row.get("answer"), row.get("answers")
    if isinstance(one, (list, dict)):
        if several is not None:
            raise DataError("'answer' is a list and there are 'answers' too")
        one, several = None, one
    if several is None:
        return _scalar(row, "answer"), ()
    answer = _scalar({"answer": one}, "answer")
    answers = tuple(_listed(several))
    if answer is not None and answers and answer not in answers:
        raise DataError(f"'answer' {answer!r} is not among 'answers'")
    return answer, answers


def _listed(value: Any) -> Iterator[str]:
    """Texts of a list of texts or of {"answer": text}, or of {"answer": list}, as Arrow may turn the latter about."""
    value = _unwrapped(value)
    for item in value if isinstance(value, list) else [value]:
        text = _scalar({"answer": _unwrapped(item)}, "answer")
        if text is None:
            raise DataError("an answer of the list is null")
        yield text


def _unwrapped(value: Any) -> Any:
    if isinstance(value, dict):
        if "answer" not in value:
            raise DataError(f"an entry of the answers has no 'answer' but {', '.join(map(repr, value)) or 'nothing'}")
        return value["answer"]
    return value


def _scalar(row: dict[str, Any], name: str) -> str | None:
    value = row.get(name)
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(f"{name!r} is {value}, not text")
    if value is not None and not isinstance(value, (str, int, float)):
        raise DataError(f"{name!r} is {type(value).__name__}, not text")
    return None if value is None else str(value)


def _check_text(messages: list[Message], *texts: str | None) -> None:
    """Samples are stored as JSON and fed to tokenizers: both refuse half a surrogate pair, and JSON refuses bytes."""
    try:
        json.dumps([messages, *texts], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"half a surrogate pair, {error.object[error.start]!r}, is no text") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"the messages are not plain JSON: {error}") from error
