"""The forms that people's data have, brought into edgekit's own.

Read are, besides edgekit's own `question` or `messages` with `images` and `answer`:

    messages                 TRL's conversation: the assistant's last turn is the answer, those before it are context
    prompt and completion    TRL's pair, both texts or both turns
    conversations            LLaVA's and ShareGPT's: `from` human or gpt and `value`, or `role` and `content`
    texts                    The Cauldron's: `user` and `assistant`
    query and response       ms-swift's, with `history` and `system`
    instruction and output   Alpaca's, with `input`

Images stand in `images`, in the content parts themselves ({"type": "image", "image": ...}, `url`, `path`, OpenAI's
`image_url`), or in `images` with a mark `<image>` in the text for each, as LLaVA and ms-swift have it. Where there is
neither part nor mark they come before the first question, as TRL puts them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.data.turns import MARK, Message, place_images, read_turn, split_answer
from edgekit.errors import DataError

IMAGE_KEYS = ("images", "image", "image_path", "image_paths")
UNREAD_KEYS = ("videos", "video", "audios", "audio")

_NUMBERED = re.compile(r"<image_\d+>")


@dataclass(frozen=True)
class Plain:
    """A row in edgekit's own form.

    Attributes:
        form: What it was, in words.
        messages: Roles, and contents as parts {"type": "image"} or {"type": "text", "text"}; ends with the user's turn.
        images: As the row holds them, in the order of the image parts.
        answer: The last turn's text, where the answer stood there.
    """

    form: str
    messages: list[Message]
    images: list[Any]
    answer: str | None


@dataclass(frozen=True)
class _Talk:
    """A conversation as it was found; `loose` are the images that stand beside it."""

    form: str
    turns: list[Any]
    loose: list[Any] = field(default_factory=list)


def plain_form(row: Mapping[str, Any]) -> Plain:
    """A row of any form in edgekit's own.

    Raises:
        DataError: of no known form, or one that is not used as it should be.
    """
    for key in UNREAD_KEYS:
        if row.get(key):
            raise DataError(f"{key!r} are not read, only images are")
    talk = next((talk for _, read in _FORMS if (talk := read(row)) is not None), None)
    if talk is None:
        raise DataError(_unknown(row))
    if not talk.turns:
        raise DataError("the conversation has no turns")
    turns = [read_turn(turn) for turn in talk.turns]
    turns, answer = split_answer(turns)
    turns, images, how = place_images(turns, talk.loose)
    return Plain("; ".join((_ending(talk.form, answer), *how)), turns, images, answer)


def _ending(form: str, answer: str | None) -> str:
    return f"{form} ending with the answer" if answer is not None and form == "messages" else form


def _unknown(row: Mapping[str, Any]) -> str:
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return "a pair of 'chosen' and 'rejected' is not read; give the better one as 'completion'"
    if isinstance(row.get("question"), str):
        return "'question' is blank"
    read = {*COLUMNS, "file_name", "file_names"}
    strange = [key for key in row if key not in read and row[key] is not None]
    return "neither 'question' nor 'messages'" + (f", only {', '.join(map(repr, strange[:6]))}" if strange else "")


# ------------------------------------------------------------------------------------------------------------ the forms


def _question(row: Mapping[str, Any]) -> _Talk | None:
    text = row.get("question")
    if text is not None and not isinstance(text, str):
        raise DataError(f"'question' is {type(text).__name__}, not text")
    if not text or not text.strip():
        return None
    return _Talk("question", [*_system(row), {"role": "user", "content": text}], _beside(row))


def _messages(row: Mapping[str, Any]) -> _Talk | None:
    turns = _turns(row.get("messages"))
    return _Talk("messages", _with_system(row, turns), _beside(row)) if turns else None


def _prompt(row: Mapping[str, Any]) -> _Talk | None:
    prompt, completion = row.get("prompt"), row.get("completion")
    if not prompt:
        return None
    turns = [*_said("user", prompt, "prompt"), *_said("assistant", completion, "completion")]
    return _Talk("prompt" if completion is None else "prompt and completion", _with_system(row, turns), _beside(row))


def _conversations(row: Mapping[str, Any]) -> _Talk | None:
    turns = _turns(row.get("conversations")) or _turns(row.get("conversation"))
    if not turns:
        return None
    images, turns = _beside(row), [_from_value(turn) for turn in turns]
    if len(images) == 1 and isinstance(images[0], dict) and images[0] and all(map(_NUMBERED.fullmatch, images[0])):
        turns, images = _numbered(turns, images[0])
    return _Talk("conversations", _with_system(row, turns), images)


def _texts(row: Mapping[str, Any]) -> _Talk | None:
    pairs = row.get("texts")
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, dict) and "user" in pair for pair in pairs):
        return None
    turns = [
        {"role": role, "content": pair[role]} for pair in pairs for role in ("user", "assistant") if pair.get(role)
    ]
    return _Talk("texts", _with_system(row, turns), _beside(row))


def _query(row: Mapping[str, Any]) -> _Talk | None:
    if not isinstance(row.get("query"), str) or not row["query"].strip():
        return None
    turns: list[Message] = []
    for pair in row.get("history") or []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise DataError("'history' is not a list of pairs, query and response")
        turns += [*_said("user", pair[0], "history"), *_said("assistant", pair[1], "history")]
    turns += [*_said("user", row["query"], "query"), *_said("assistant", row.get("response"), "response")]
    return _Talk("query and response", _with_system(row, turns), _beside(row))


def _instruction(row: Mapping[str, Any]) -> _Talk | None:
    text, more = row.get("instruction"), row.get("input")
    if not isinstance(text, str) or not text.strip():
        return None
    asked = f"{text}\n{more}" if isinstance(more, str) and more.strip() else text
    turns = [*_said("user", asked, "instruction"), *_said("assistant", row.get("output"), "output")]
    return _Talk("instruction and output", _with_system(row, turns), _beside(row))


_FORMS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], _Talk | None]], ...] = (
    (("question",), _question),
    (("messages",), _messages),
    (("prompt", "completion"), _prompt),
    (("conversations", "conversation"), _conversations),
    (("texts",), _texts),
    (("query", "response", "history"), _query),
    (("instruction", "input", "output"), _instruction),
)
"""What each looks at, and what reads it; the first that finds something is taken."""

COLUMNS = tuple(
    dict.fromkeys(
        [key for keys, _ in _FORMS for key in keys]
        + ["id", "dataset", "answer", "answers", "system", "chosen", "rejected", *IMAGE_KEYS, *UNREAD_KEYS]
    )
)
"""All that is looked at; columnar sources read no other column."""


def _turns(value: Any) -> list[Any]:
    """A list of turns, also as JSON text; empty for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return value if isinstance(value, list) else []


def _said(role: str, value: Any, key: str) -> list[Any]:
    """Turns of a text, or turns as they are."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list) and value:
        return value
    raise DataError(f"{key!r} is {type(value).__name__}, neither text nor turns")


def _system(row: Mapping[str, Any]) -> list[Message]:
    text = row.get("system")
    return [{"role": "system", "content": text}] if isinstance(text, str) and text.strip() else []


def _with_system(row: Mapping[str, Any], turns: list[Any]) -> list[Any]:
    first = turns[0].get("role") if turns and isinstance(turns[0], dict) else None
    return turns if first == "system" else [*_system(row), *turns]


def _from_value(turn: Any) -> Any:
    if not isinstance(turn, dict) or turn.get("from") is None:
        return turn
    return {"role": turn["from"], "content": turn.get("value")}


def _beside(row: Mapping[str, Any]) -> list[Any]:
    for key in IMAGE_KEYS:
        value = row.get(key)
        if isinstance(value, (list, tuple)) and value:
            return list(value)
        if value is not None and not isinstance(value, (list, tuple)):
            return [value]
    return []


def _numbered(turns: list[Any], images: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """MiniCPM's images by name, `<image_00>`, as marks and a list in the order of the text."""
    order: list[Any] = []

    def take(found: re.Match[str]) -> str:
        if (image := images.get(found[0])) is None:
            raise DataError(f"{found[0]} stands in the text, but there is no such image")
        order.append(image)
        return MARK

    turned = []
    for turn in turns:
        content = turn.get("content") if isinstance(turn, dict) else None
        turned.append({**turn, "content": _NUMBERED.sub(take, content)} if isinstance(content, str) else turn)
    given = sum(image is not None for image in images.values())
    if len(order) != given:
        raise DataError(f"the text names {len(order)} of the images <image_N> but there are {given}")
    return turned, order
