"""Samples: images, messages and an answer, streamed from a source.

A source is one file of this package; `open_data` picks it from a spec string:

    easy-vqa:train                 the built-in demo set and one of its splits
    questions.jsonl                one JSON object a line
    questions.parquet              a Parquet file, or a folder of them
    pictures/                      an image folder: metadata.jsonl, or one folder per answer
    datasets:NAME_OR_FOLDER:SPLIT  anything the `datasets` library loads, streamed

A source module holds `claims(spec) -> bool` and `rows(spec) -> Iterator[Sample | BadRow]`. Nothing is held in memory
but the row at hand; a row that cannot be read is yielded as a `BadRow` and says where it is and why.
"""

from __future__ import annotations

import io
import itertools
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


@dataclass(frozen=True)
class ImageRef:
    """A picture that is read when it is needed.

    Args:
        path: File to read; or
        data: Encoded bytes of an image file.
    """

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    def open(self) -> Image:
        """The decoded picture.

        Raises:
            DataError: missing, corrupt, or not an image.
        """
        from PIL import Image, UnidentifiedImageError

        name = self.path if self.path is not None else "an embedded image"
        try:
            image = Image.open(self.path if self.path is not None else io.BytesIO(self.data or b""))
            image.load()
        except FileNotFoundError as error:
            raise DataError(f"No image at {name}.") from error
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"Cannot read the image {name}.", why=str(error) or type(error).__name__) from error
        return image


@dataclass(frozen=True)
class Sample:
    """One question about zero or more pictures, in the conversational format of `datasets` and TRL.

    Attributes:
        id: Unique within its source; stable from run to run.
        images: In the order of the image parts of `messages`.
        messages: [{"role": ..., "content": text or parts}]; ends with the user's turn.
        answer: The reference answer; None when unknown.
        location: Where it was read, file and line, for messages.
    """

    id: str
    images: tuple[ImageRef, ...]
    messages: list[Message]
    answer: str | None = None
    location: str = ""

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
    for name in SOURCES.names():
        source = SOURCES.load(name)
        if source.claims(spec):
            rows: Iterator[Sample | BadRow] = source.rows(spec)
            return rows
    raise DataError(
        f"No data at {spec!r}.",
        why="It is neither an existing .jsonl or .parquet file, an image folder, nor a known name.",
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
            raise DataError(f"{row.location}: {row.reason}", fix=f"See every bad row:  edgekit data check {spec}")
        if need_answer and row.answer is None:
            raise DataError(f"{row.location}: no answer.", fix="Add the field 'answer' to each row.")
        count += 1
        yield row
    if count == 0:
        raise DataError(f"{spec} holds no samples.")


def make_sample(row: dict[str, Any], *, ident: str, location: str, base: Path | None = None) -> Sample | BadRow:
    """A sample from a row in any of the accepted spellings.

    Args:
        row: `messages` or `question`; `images` or `image` (paths, bytes, or {"bytes", "path"}); `answer`.
        ident: Used unless the row has an `id`.
        location: File and line for messages.
        base: Folder that relative image paths start from.
    """
    try:
        images = tuple(_image_ref(value, base) for value in _image_values(row))
        messages = _messages(row, len(images))
    except DataError as error:
        return BadRow(location, error.what)
    if (slots := count_images(messages)) != len(images):
        return BadRow(location, f"the messages have {slots} image parts but there are {len(images)} images")
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, (str, int, float)):
        return BadRow(location, f"'answer' is {type(answer).__name__}, not text")
    return Sample(str(row.get("id", ident)), images, messages, None if answer is None else str(answer), location)


def _image_values(row: dict[str, Any]) -> Iterable[Any]:
    values = row.get("images", row.get("image"))
    if values is None:
        return []
    return values if isinstance(values, (list, tuple)) else [values]


def _image_ref(value: Any, base: Path | None) -> ImageRef:
    if isinstance(value, dict) and value.get("bytes"):
        return ImageRef(data=value["bytes"])
    if isinstance(value, dict) and value.get("path"):
        value = value["path"]
    if isinstance(value, bytes):
        return ImageRef(data=value)
    if isinstance(value, str):
        return ImageRef(path=base / value if base is not None else Path(value))
    raise DataError(f"an image is {type(value).__name__}, not a path or bytes")


def _messages(row: dict[str, Any], images: int) -> list[Message]:
    if isinstance(text := row.get("question"), str) and text.strip():
        return question(text, images)
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError("neither 'question' nor 'messages'")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError("a message has no role")
        content = message.get("content")
        parts_good = isinstance(content, list) and all(
            isinstance(part, dict) and (part.get("type") == "image" or isinstance(part.get("text"), str))
            for part in content
        )
        if not isinstance(content, str) and not parts_good:
            raise DataError("a message's content is neither text nor a list of text and image parts")
    if messages[-1]["role"] != "user":
        raise DataError("the last message is not the user's; put the reference into 'answer'")
    return list(messages)
