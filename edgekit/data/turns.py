"""Turns of a conversation and their images: roles, content parts, `<image>` marks, and the answer at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from edgekit.errors import DataError, nearest

Message = dict[str, Any]

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bard", "bing"), "assistant"),
    **dict.fromkeys(("system", "developer", "tool"), ""),  # as they are
}
PART_KEYS = ("image", "url", "path", "image_url", "base64", "data", "bytes", "source")

MARK = "<image>"
_MARKS = re.compile(r"<image>|<img>(.*?)</img>", re.DOTALL)
# Words that one tokenizer or another takes for an image, or for the end of a turn.
_SPECIAL = re.compile(
    r"<(\|?/?(?:image|img|IMG_CONTEXT|image_pad|image_soft_token|image_start|image_end|img_start|img_end|vision_start|"
    r"vision_end|start_of_image|end_of_image|fake_token_around_image|global-img|row_\d_col_\d|end_of_utterance|"
    r"im_start|im_end|start_of_turn|end_of_turn)\|?)>"
)

_escaping: ContextVar[bool] = ContextVar("escaping", default=False)


@contextmanager
def escaping() -> Iterator[None]:
    """Within it, a mark that stands for no image is taken for text, and written so that no tokenizer knows it."""
    token = _escaping.set(True)
    try:
        yield
    finally:
        _escaping.reset(token)


def escape(text: str) -> str:
    """The text with blanks inside every word that a tokenizer may take for an image or the end of a turn."""
    return _SPECIAL.sub(r"< \1 >", text)


def escaped(text: str) -> str:
    """The text, escaped where that is asked for."""
    return escape(text) if _escaping.get() else text


def marks_in(text: str) -> list[str]:
    """Words of a text that a tokenizer may take for an image or the end of a turn."""
    return [found[0] for found in _SPECIAL.finditer(text)]


def read_turn(turn: Any) -> Message:
    """A turn with its content as parts, without its null keys: templates ask whether a key is there, and Arrow puts
    every key everywhere."""
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise DataError("a message has no role")
    role = ROLES.get(turn["role"].lower())
    if role is None:
        near = nearest(turn["role"].lower(), ROLES)
        raise DataError(f"a message has the role {turn['role']!r}" + (f", did you mean {near!r}?" if near else ""))
    content = turn.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        content = [_part(part) for part in content]
    else:
        raise DataError("a message's content is neither text nor a list of text and image parts")
    kept = {key: value for key, value in turn.items() if value is not None}
    return {**kept, "role": role or turn["role"], "content": content}


def _part(part: Any) -> Message:
    """{"type": "text", "text"}, or {"type": "image"} with what it carries as "value", and with its "index"."""
    given = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
    kind = given.get("type") or ("image" if "image" in given or "image_url" in given else "text" if given else None)
    if kind in ("text", "input_text", "output_text") and isinstance(given.get("text"), str):
        return {"type": "text", "text": given["text"]}
    if kind not in ("image", "image_url", "input_image"):
        known = kind is None or kind in ("text", "input_text", "output_text")
        raise DataError(
            "a message's content is neither text nor a list of text and image parts"
            + ("" if known else f" but holds a part of type {kind!r}")
        )
    carried = [given[key] for key in PART_KEYS if key in given]
    if len(carried) > 1:
        raise DataError(f"an image part names {len(carried)} images")
    image: Message = {"type": "image"}
    if carried:
        image["value"], image["as"] = _carried(carried[0]), "image_url" if "image_url" in given else "part"
    if isinstance(given.get("index"), int):
        image["index"] = given["index"]
    return image


def _carried(value: Any) -> Any:
    """What is inside {"url": ...} of OpenAI, or {"type": "base64", "data": ...} of others."""
    if isinstance(value, dict) and not {"bytes", "path"} & set(value):
        inner = value.get("url", value.get("data"))
        if inner is None:
            raise DataError("an image part names no image")
        return inner
    return value


def split_answer(turns: list[Message]) -> tuple[list[Message], str | None]:
    """The conversation up to the last question, and what the assistant answers to it, if it does."""
    answer = None
    if turns and turns[-1]["role"] == "assistant":
        *turns, last = turns
        if any(part["type"] != "text" for part in last["content"]):
            raise DataError("the answer holds an image")
        answer = "".join(part["text"] for part in last["content"])
    if not turns or turns[-1]["role"] != "user":
        if answer is None:
            raise DataError("the last message is not the user's, nor is it the assistant's answer")
        raise DataError("the last message is not the user's: before the answer, the assistant's, stands no question")
    return turns, answer


# ------------------------------------------------------------------------------------------------------------- images


def place_images(turns: list[Message], loose: list[Any]) -> tuple[list[Message], list[Any], list[str]]:
    """The turns with an image part for each image, the images in their order, and how they were given."""
    parts = [part for turn in turns for part in turn["content"] if part["type"] == "image"]
    carrying = [part for part in parts if "value" in part]
    how = [
        {"image_url": "image_url", "part": "images in their parts"}[kind]
        for kind in sorted({p["as"] for p in carrying})
    ]
    texts = [part["text"] for turn in turns for part in turn["content"] if part["type"] == "text"]
    marks = sum(len(_MARKS.findall(text)) for text in texts)
    named = sum(bool(found) for text in texts for found in _MARKS.findall(text))  # <img>PATH</img>
    open_parts = len(parts) - len(carrying)
    if loose and not open_parts and carrying and len(loose) == len(carrying) and not marks:
        raise DataError("the images stand in the messages and in 'images' too; keep one of them")
    if open_parts == len(loose) and (parts or not marks):
        turns = _literal(turns)
    elif not parts and marks - named == len(loose) and marks:
        turns, loose = _from_marks(turns, loose)
        turns = _literal(turns)
        how.append("<image> marks")
    elif not parts and (not marks or _escaping.get()):
        turns = _in_front(_literal(turns), len(loose))
    else:
        raise DataError(_mismatch(len(parts), marks, len(loose) + len(carrying)))
    return _unloaded(turns), _ordered(turns, loose), how


def _mismatch(parts: int, marks: int, images: int) -> str:
    if parts or not marks:
        return f"the messages have {parts} image parts but there are {images} images"
    return (
        f"the text has {marks} marks {MARK} but there are {images} images; where a mark is meant as text, "
        "--to FILE --escape-marks writes it so"
    )


def _literal(turns: list[Message]) -> list[Message]:
    return [
        {**turn, "content": [{**p, "text": escaped(p["text"])} if p["type"] == "text" else p for p in turn["content"]]}
        for turn in turns
    ]


def _in_front(turns: list[Message], count: int) -> list[Message]:
    """Images without a place come before the first question, as TRL puts them."""
    first = next(place for place, turn in enumerate(turns) if turn["role"] == "user")
    own = {**turns[first], "content": [*({"type": "image"} for _ in range(count)), *turns[first]["content"]]}
    return [*turns[:first], own, *turns[first + 1 :]]


def _from_marks(turns: list[Message], loose: list[Any]) -> tuple[list[Message], list[Any]]:
    """Image parts in the places of the marks; <img>PATH</img> brings its own image."""
    rest = iter(loose)
    images: list[Any] = []
    turned = []
    for turn in turns:
        content: list[Message] = []
        for part in turn["content"]:
            if part["type"] == "text":
                pieces, values = _cut(part["text"])
                images += [next(rest) if value == MARK else value for value in values]
                content += pieces
            else:
                content.append(part)
        turned.append({**turn, "content": content})
    return turned, images


def _cut(text: str) -> tuple[list[Message], list[str]]:
    """Parts of a text with marks, and what each mark names; a line break between a mark and the text is its own."""
    pieces: list[Message] = []
    values: list[str] = []
    last = 0
    for found in _MARKS.finditer(text):
        _add_text(pieces, text[last : found.start()])
        pieces.append({"type": "image"})
        values.append(found[1].strip() if found[1] is not None else MARK)
        last = found.end()
    _add_text(pieces, text[last:])
    if len(pieces) > 1:
        for place, part in enumerate(pieces):
            if part["type"] == "text":
                before = all(other["type"] == "image" for other in pieces[:place]) and place > 0
                after = all(other["type"] == "image" for other in pieces[place + 1 :]) and place < len(pieces) - 1
                own = part["text"]
                own = own.removeprefix("\n") if before else own
                part["text"] = own.removesuffix("\n") if after else own
    return [part for part in pieces if part["type"] == "image" or part["text"]] or [
        {"type": "text", "text": ""}
    ], values


def _add_text(pieces: list[Message], text: str) -> None:
    """Append a text, but for line breaks alone between two marks."""
    if text and not (pieces and not text.strip()):
        pieces.append({"type": "text", "text": text})


def _unloaded(turns: list[Message]) -> list[Message]:
    """The turns without what their image parts carry."""
    return [
        {**turn, "content": [part if part["type"] == "text" else {"type": "image"} for part in turn["content"]]}
        for turn in turns
    ]


def _ordered(turns: list[Message], loose: list[Any]) -> list[Any]:
    """The images in the order of their parts."""
    parts = [part for turn in turns for part in turn["content"] if part["type"] == "image"]
    open_parts = [part for part in parts if "value" not in part]
    if (indices := [part["index"] for part in open_parts if "index" in part]) and len(indices) == len(open_parts):
        if sorted(indices) != list(range(len(loose))):
            raise DataError(f"the image parts have the indices {indices} but there are {len(loose)} images")
        loose = [loose[index] for index in indices]
    rest = iter(loose)
    return [part["value"] if "value" in part else next(rest) for part in parts]
