"""Samples: images, messages and an answer, streamed from a source.

A source is one file of this package; `open_data` picks it from a spec string:

    easy-vqa:train                 the built-in demo set and one of its splits
    questions.jsonl                one JSON object a line
    questions.parquet              a Parquet file, or a folder of them
    pictures/                      an image folder: metadata.jsonl, or one folder per answer
    datasets:NAME_OR_FOLDER:SPLIT  anything the `datasets` library loads, streamed; [:CONFIG] before the split

Lines and rows are counted from 1. A source module holds `claims(spec) -> bool` and
`rows(spec) -> Iterator[Sample | BadRow]`. Nothing is held in memory but the row at hand; a row that cannot be read is
yielded as a `BadRow` and says where it is and why.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.chat import Message, count_images, question
from edgekit.errors import DataError
from edgekit.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCES = Registry("edgekit.data", "data source", helpers=frozenset({"check"}))

FIELDS = ("id", "question", "messages", "image", "images", "answer", "answers", "dataset")
"""What `make_sample` looks at; columnar sources read no other column."""


@dataclass(frozen=True)
class ImageRef:
    """A picture that is read when it is needed.

    Args:
        path: File to read; or
        data: Encoded bytes of an image file.
        origin: Where `data` was read, for messages; two pictures are the same picture whatever it says.
    """

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    origin: str = field(default="", repr=False, compare=False)

    def open(self) -> Image:
        """The decoded picture as it is stored: like the reference processors, an EXIF rotation is not applied.

        Raises:
            DataError: missing, corrupt, or not an image.
        """
        from PIL import Image

        name = self.path if self.path is not None else f"embedded in {self.origin or 'a row'}"
        try:
            image = Image.open(self.path if self.path is not None else io.BytesIO(self.data or b""))
            image.load()
        except FileNotFoundError as error:
            raise DataError(f"No image at {name}.") from error
        except Exception as error:  # decoders raise anything at damaged bytes: RuntimeError, struct.error, zlib.error
            raise DataError(f"Cannot read the image {name}.", why=str(error) or type(error).__name__) from error
        return image


@dataclass(frozen=True)
class Sample:
    """One question about zero or more pictures, in the conversational format of `datasets` and TRL.

    Attributes:
        id: Unique within its source; stable from run to run.
        images: In the order of the image parts of `messages`.
        messages: [{"role": ..., "content": text or parts}]; ends with the user's turn.
        answer: The reference answer, of several the most frequent, then the first; None when unknown.
        location: Where it was read, file and line, for messages.
        answers: Every accepted reference, one for each annotator, so that one given twice stands there twice; `answer`
            alone when not given.
        dataset: Which data set a row of a mixed file comes from; metrics and judges may be chosen by it.
    """

    id: str
    images: tuple[ImageRef, ...]
    messages: list[Message]
    answer: str | None = None
    location: str = ""
    answers: tuple[str, ...] = ()
    dataset: str | None = None

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


def open_data(spec: str) -> Iterator[Sample | BadRow]:
    """All rows behind a spec, good and bad, streamed.

    Raises:
        DataError: no source claims the spec, or the source itself is not there.
    """
    try:
        for name in SOURCES.names():
            source = SOURCES.load(name)
            if source.claims(spec):
                rows: Iterator[Sample | BadRow] = source.rows(spec)
                return rows
        there = Path(spec).exists()
    except OSError as error:  # a name too long, a folder that may not be listed
        raise DataError(f"No data at {spec[:200]!r}.", why=str(error)[:500]) from error
    raise DataError(
        f"No data at {spec!r}.",
        why=("It exists, but is" if there else "It is")
        + " neither an existing .jsonl or .parquet file, an image folder, nor a known name.",
        fix="Give a path, 'easy-vqa:train', or 'datasets:NAME:SPLIT'.",
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
    """A sample from a row in any of the accepted spellings.

    Args:
        row: `messages` or `question`; `images` or `image` (paths, bytes, or {"bytes", "path"}); `answer` or `answers`,
            a text or a list of texts or of {"answer": text}; `dataset`. A field that is null counts as absent, as Arrow
            fills up what a row does not have.
        ident: Used unless the row has an `id`.
        location: File and line for messages.
        base: Folder that relative image paths start from.
    """
    try:
        images = tuple(_image_ref(value, base, location) for value in _image_values(row))
        messages = _messages(row, len(images))
        answer, answers = _references(row)
        own, dataset = _scalar(row, "id"), _scalar(row, "dataset")
        _check_text(messages, answer, *answers, own or ident, dataset)
    except DataError as error:
        return BadRow(location, error.what)
    if (slots := count_images(messages)) != len(images):
        return BadRow(location, f"the messages have {slots} image parts but there are {len(images)} images")
    return Sample(ident if own is None else own, images, messages, answer, location, answers, dataset)


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


def _image_values(row: dict[str, Any]) -> Iterable[Any]:
    values = row.get("images")
    if values is None:
        values = row.get("image")
    if values is None:
        return []
    return values if isinstance(values, (list, tuple)) else [values]


def _image_ref(value: Any, base: Path | None, location: str) -> ImageRef:
    if isinstance(value, dict):  # as `datasets` stores an Image
        stored, path = value.get("bytes"), value.get("path")
        if stored is not None and not isinstance(stored, bytes):
            raise DataError(f"an image's 'bytes' is {type(stored).__name__}, not bytes")
        value = stored or path
        if value is None:
            raise DataError("an image has neither bytes nor a path")
    if isinstance(value, bytes):
        return ImageRef(data=value, origin=location)
    if not isinstance(value, str):
        raise DataError(f"an image is {type(value).__name__}, not a path or bytes")
    if not value:
        raise DataError("an image path is empty")
    if value.startswith(("http://", "https://", "data:")):
        raise DataError(f"an image is a URL, {value[:60]!r}; only files and embedded bytes are read")
    return ImageRef(path=base / value if base is not None else Path(value))


def _messages(row: dict[str, Any], images: int) -> list[Message]:
    text, messages = row.get("question"), row.get("messages")
    if text is not None and not isinstance(text, str):
        raise DataError(f"'question' is {type(text).__name__}, not text")
    if text is not None and text.strip():
        return question(text, images)
    if not isinstance(messages, list) or not messages:
        raise DataError("neither 'question' nor 'messages'" if text is None else "'question' is blank")
    turns = [_turn(message) for message in messages]
    if turns[-1]["role"] != "user":
        raise DataError("the last message is not the user's; put the reference into 'answer'")
    return turns


def _turn(message: Any) -> Message:
    """A message without its null keys: templates ask whether a key is there, and Arrow puts every key everywhere."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataError("a message has no role")
    content = message.get("content")
    if isinstance(content, list):
        content = [_part(part) for part in content]
    elif not isinstance(content, str):
        raise DataError("a message's content is neither text nor a list of text and image parts")
    return {**{key: value for key, value in message.items() if value is not None}, "content": content}


def _part(part: Any) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return {"type": "image"}  # the pictures themselves stand in `images`
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    raise DataError("a message's content is neither text nor a list of text and image parts")
