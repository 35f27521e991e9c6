"""A chat template as literal pieces, and how a conversation is written with them.

A conversation is a system text or none, then turns of user and assistant in alternation, the user's last; a user's
turn is a list of images and texts. Any program that can put strings together writes it as the template does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit import schema, strict_json
from edgekit.errors import BundleError, DataError
from edgekit.handover import FORMAT
from edgekit.inputs.chat import Message

MOST_BYTES = 1 << 20
BLANKS = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
"""What Python's str.strip takes away; no higher character is white space."""
Kind = Literal["text", "image"]


@dataclass(frozen=True)
class ByFirst:
    """A literal that may differ by the first part of the turn that follows."""

    text: str
    image: str


@dataclass(frozen=True)
class System:
    """Around a system text; `after` ends where the first turn's content begins."""

    before: str
    after: ByFirst
    trim: bool
    as_parts: bool
    """Whether the template itself wants a list of parts, as of a user's turn, or a text."""


@dataclass(frozen=True)
class Part:
    """Around each text of a user's turn."""

    before: str
    after: str
    trim: bool


@dataclass(frozen=True)
class User:
    """Around a user's turn; the first one's `before` is at the end of `begin` or `System.after`."""

    before: ByFirst
    text: Part
    after: str


@dataclass(frozen=True)
class Image:
    """What stands for an image."""

    piece: str
    first: bool
    """All images of a turn stand before its texts, wherever they were."""


@dataclass(frozen=True)
class Drop:
    """An answer's beginning that later turns leave out, such as what the model thought."""

    to: str
    """Only what follows its last occurrence is kept."""
    trim: Literal["none", "newlines", "both"]
    """What is taken from the rest: nothing, newlines before it, or blanks at both ends."""


@dataclass(frozen=True)
class Assistant:
    """Around an answer in the turns before the last."""

    before: str
    after: str
    trim: bool
    drop: Drop | None = None


@dataclass(frozen=True)
class Tokens:
    """What is put around a prompt's ids."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    unless_begins: str | None = None
    """Neither is, where the prompt begins so."""
    limit: dict[str, Any] | None = None
    """tokens and side: Python cuts longer prompts there."""


@dataclass(frozen=True)
class Checked:
    """What the pieces were compared with."""

    conversations: int
    by: str


@dataclass(frozen=True)
class Pieces:
    """app/prompt.json of a template that is made of literal pieces."""

    format: int
    begin: ByFirst
    """Up to the content of the first turn, where there is no system text."""
    system: System | None
    user: User
    image: Image
    assistant: Assistant | None
    generation: str
    tokens: Tokens
    checked: Checked
    refused: dict[str, str] = field(default_factory=dict)
    """system, assistant: why there are no pieces for it."""
    blanks: str = BLANKS

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for the next answer.

        Args:
            messages: A system text or none, then turns of user and assistant, the user's last.

        Raises:
            DataError: another order, or what `refused` names.
        """
        return "".join(self._written(messages))

    def _written(self, messages: Sequence[Message]) -> Iterator[str]:
        turns = list(messages)
        system = turns.pop(0) if turns and turns[0]["role"] == "system" else None
        roles = [turn["role"] for turn in turns]
        if len(roles) % 2 == 0 or roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            raise DataError("A conversation is turns of user and assistant, the user's last.")
        kinds: list[Kind] = ["image" if turn["content"][0]["type"] == "image" else "text" for turn in turns]
        if system is None:
            yield _of(self.begin, kinds[0])
        elif self.system is None:
            raise DataError("The model takes no system text.", why=self.refused.get("system", ""))
        else:
            yield self.system.before + _trimmed(text_of(system), self.system.trim) + _of(self.system.after, kinds[0])
        for place, turn in enumerate(turns):
            if turn["role"] == "user":
                yield from self._content(turn["content"])
                continue
            if self.assistant is None:
                raise DataError("The model takes one turn.", why=self.refused.get("assistant", ""))
            own = self.assistant
            yield own.before + _trimmed(_dropped(text_of(turn), own.drop), own.trim) + own.after
            yield _of(self.user.before, kinds[place + 1])
        yield self.generation

    def _content(self, parts: list[dict[str, Any]]) -> Iterator[str]:
        around = self.user.text
        if self.image.first:
            parts = sorted(parts, key=lambda part: bool(part["type"] != "image"))
        for part in parts:
            if part["type"] == "image":
                yield self.image.piece
            else:
                yield around.before + _trimmed(part["text"], around.trim) + around.after
        yield self.user.after


@dataclass(frozen=True)
class Unsupported:
    """app/prompt.json of a template that is not."""

    format: int
    unsupported: str
    """Why."""


def text_of(message: Message) -> str:
    """The one text of a message, whose content is that text or a list with it."""
    content = message["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


def _of(pair: ByFirst, kind: Kind) -> str:
    return pair.image if kind == "image" else pair.text


def _trimmed(text: str, trim: bool) -> str:
    return text.strip(BLANKS) if trim else text


def _dropped(text: str, drop: Drop | None) -> str:
    if drop is None or drop.to not in text:
        return text
    rest = text.rpartition(drop.to)[2]
    return {"none": rest, "newlines": rest.lstrip("\n"), "both": rest.strip(BLANKS)}[drop.trim]


def read_pieces(path: Path) -> Pieces | Unsupported:
    """app/prompt.json.

    Raises:
        BundleError: not there, or not valid.
    """
    try:
        value = strict_json.read(path, most_bytes=MOST_BYTES)
    except (OSError, ValueError) as error:
        raise BundleError(f"Cannot read {path}.", why=str(error), fix="Export the bundle again.") from error
    kind: Any = Unsupported if isinstance(value, dict) and "unsupported" in value else Pieces
    problems: list[str] = []
    found: Pieces | Unsupported | None = schema.read(kind, value, problems)
    if found is None or found.format != FORMAT:
        problems = problems or [f"format: {found.format if found else '?'}, this edgekit reads {FORMAT}"]
        raise BundleError(f"{path} holds no prompt pieces:", why=schema.listed(problems), fix="Export again.")
    return found
