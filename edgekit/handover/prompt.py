"""Finding the literal pieces of a chat template, by asking it, and the proof that they write what Jinja writes.

The template is rendered with marked texts, and what stands around the marks are the pieces. Whatever it may do beside
is found by many conversations, which are written both ways. A template of another kind is no error: the bundle then
says why no app can ask by it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from edgekit.errors import DataError, EdgekitError
from edgekit.handover import FORMAT
from edgekit.handover.pieces import (
    Assistant,
    ByFirst,
    Checked,
    Drop,
    Image,
    Part,
    Pieces,
    System,
    Tokens,
    Unsupported,
    User,
)
from edgekit.handover.talks import Talk, talks
from edgekit.inputs.chat import Message, render
from edgekit.inputs.checks import rust_errors

if TYPE_CHECKING:
    from edgekit.inputs.processor import Processor

MOST_SECONDS = 5.0
"""Of processor time, all renderings together; each has its own bounds (edgekit/inputs/sandbox.py)."""
MARKS = tuple(f"zq{word}qz" for word in ("one", "two", "three", "four", "five"))
THOUGHT = "</think>"
SHOWN = 60
"""Characters of a text in a reason."""
IMAGE: dict[str, Any] = {"type": "image"}


class _Misfit(Exception):
    """The template is not made of literal pieces, and why."""


def find_pieces(processor: Processor) -> Pieces | Unsupported:
    """The pieces of a model's chat template, or why it has none.

    Args:
        processor: Of a checkpoint or a bundle.
    """
    try:
        tokens = tokens_of(processor)
    except _Misfit as found:
        return Unsupported(FORMAT, str(found))
    found_pieces = _pieces_of(processor.template, tuple(processor.special.items()))
    return replace(found_pieces, tokens=tokens) if isinstance(found_pieces, Pieces) else found_pieces


@lru_cache(maxsize=16)
def _pieces_of(template: str, special: tuple[tuple[str, str], ...]) -> Pieces | Unsupported:
    """Once for a model that is exported to several targets."""
    probe = _Probe(template, dict(special))
    try:
        if "strftime_now" in template:
            raise _Misfit("the template writes the day's date")
        return _checked(probe, _found(probe))
    except _Misfit as found:
        return Unsupported(FORMAT, str(found))


class _Probe:
    """A template, asked within a limit of time."""

    def __init__(self, template: str, special: dict[str, str]) -> None:
        self._template, self._special = template, special
        self._ends = time.thread_time() + MOST_SECONDS

    def ask(self, messages: Sequence[Message], *, generation: bool = True) -> str:
        """As `render`.

        Raises:
            _Misfit: refused.
        """
        if time.thread_time() > self._ends:
            raise _Misfit(f"asking the template takes longer than {MOST_SECONDS:g} s")
        try:
            return render(self._template, list(messages), self._special, generation_prompt=generation)
        except DataError as error:
            reason = " ".join(error.why.split())[:200]
            raise _Misfit(f"the template refuses {_shape(messages)}: {reason or error.what}") from error


def user(*parts: str | None) -> Message:
    """A user's turn of texts, and None for an image."""
    return {"role": "user", "content": [IMAGE if part is None else text_part(part) for part in parts]}


def assistant(text: str) -> Message:
    """An answer."""
    return {"role": "assistant", "content": [text_part(text)]}


def system_text(text: str, *, as_parts: bool = True) -> Message:
    """A system text, in the form that a template takes."""
    return {"role": "system", "content": [text_part(text)] if as_parts else text}


def text_part(text: str) -> dict[str, Any]:
    """A text of a message."""
    return {"type": "text", "text": text}


def _found(probe: _Probe) -> Pieces:
    one, two = MARKS[:2]
    before, after = _around(probe.ask([user(one)], generation=False), [one])
    generation = _rest(probe.ask([user(one)]), before + one + after, "", "what asks for an answer")
    _, gap, _ = _around(probe.ask([user(one, two)], generation=False), [one, two])
    trim = _trims(probe, lambda text: [user(text)], "a user's text")
    pieces, why = None, ""
    for size in range(len(gap), -1, -1):  # what stands between two texts belongs to the second wherever it can
        around = Part(gap[len(gap) - size :], gap[: len(gap) - size], trim)
        try:
            pieces = _with_images(probe, (before, after), around, generation)
            break
        except _Misfit as found:
            why = why or str(found)
    if pieces is None:
        raise _Misfit(why)
    return _with_answers(probe, _with_system(probe, pieces))


def _with_images(probe: _Probe, ends: tuple[str, str], around: Part, generation: str) -> Pieces:
    """The pieces of one turn, once it is known how much of what stands around a text is its own."""
    mark = MARKS[0]
    begin = _cut(ends[0], around.before, "the beginning of a text")
    after = _rest(ends[1], around.after, "", "the end of a text")
    behind = _around(probe.ask([user(mark, None)], generation=False), [mark])
    ahead = _around(probe.ask([user(None, mark)], generation=False), [mark])
    if ahead[1] != ends[1]:
        raise _Misfit("the template writes something behind a text that depends on the image before it")
    first = behind[1] == ends[1]
    if first:  # so the image stands before the text, although it was given behind it
        piece = _cut(_rest(behind[0], begin, "", "an image"), around.before, "the beginning of a text")
    else:
        piece = _cut(_rest(behind[1], around.after, "", "the end of a text"), after, "the end of a turn")
    if not piece:
        raise _Misfit("the template writes nothing for an image")
    header = _cut(ahead[0], piece + around.before, "an image before a text")
    own = ByFirst(begin, header)
    return Pieces(
        format=FORMAT,
        begin=own,
        system=None,
        user=User(ByFirst("", ""), around, after),
        image=Image(piece, first),
        assistant=None,
        generation=generation,
        tokens=Tokens(),
        checked=Checked(0, ""),
    )


def _with_system(probe: _Probe, pieces: Pieces) -> Pieces:
    """The pieces with those of a system text; a reason where there are none."""
    reasons = []
    for as_parts in (True, False):
        try:
            return replace(pieces, system=_system(probe, pieces, as_parts))
        except _Misfit as found:
            reasons.append(str(found))
    return replace(pieces, refused={**pieces.refused, "system": reasons[0]})


def _system(probe: _Probe, pieces: Pieces, as_parts: bool) -> System:
    said, mark = MARKS[:2]
    around, told = pieces.user.text, system_text(said, as_parts=as_parts)
    before, text, _ = _around(probe.ask([told, user(mark)]), [said, mark])
    again, image, _ = _around(probe.ask([told, user(None, mark)]), [said, mark])
    if again != before:
        raise _Misfit("what stands before a system text depends on the turn behind it")
    after = ByFirst(
        _cut(text, around.before, "the turn behind a system text"),
        _cut(image, pieces.image.piece + around.before, "the turn behind a system text"),
    )
    trim = _trims(probe, lambda given: [system_text(given, as_parts=as_parts), user(mark)], "a system text")
    return System(before, after, trim, as_parts)


def _with_answers(probe: _Probe, pieces: Pieces) -> Pieces:
    """The pieces with those of an answer and the turn behind it; a reason where there are none."""
    try:
        return _answers(probe, pieces)
    except _Misfit as found:
        return replace(pieces, refused={**pieces.refused, "assistant": str(found)})


def _answers(probe: _Probe, pieces: Pieces) -> Pieces:
    one, said, two = MARKS[:3]
    around, after = pieces.user.text, pieces.user.after
    _, opens, text, _ = _around(probe.ask([user(one), assistant(said), user(two)]), [one, said, two])
    _, again, image, _ = _around(probe.ask([user(one), assistant(said), user(None, two)]), [one, said, two])
    if again != opens:
        raise _Misfit("what stands before an answer depends on the turn behind it")
    before = _rest(opens, around.after + after, "", "the turn before an answer")
    between = ByFirst(
        _cut(text, around.before, "the turn behind an answer"),
        _cut(image, pieces.image.piece + around.before, "the turn behind an answer"),
    )
    ends = _around(probe.ask([user(one), assistant(said)], generation=False), [one, said])[2]
    if not (between.text.startswith(ends) and between.image.startswith(ends)):
        ends = _shared(between.text, between.image)
    own = Assistant(before, ends, trim=False)
    drop = _drop(probe)
    # What is dropped may be trimmed on the way; only a text without it shows what is done to all.
    trim = _trims(probe, lambda given: [user(one), assistant(given), user(two)], "an answer")
    header = ByFirst(between.text[len(ends) :], between.image[len(ends) :])
    return replace(pieces, user=replace(pieces.user, before=header), assistant=replace(own, trim=trim, drop=drop))


def _drop(probe: _Probe) -> Drop | None:
    """What a template does to thoughts before an answer."""
    one, thought, said, two = MARKS[:4]
    around = _inner(probe, [user(one), assistant(f"{thought}{THOUGHT}\n \n{said}\n "), user(two)], said)
    if thought in around[0]:
        return None
    plain = _inner(probe, [user(one), assistant(said), user(two)], said)
    lead, trail = around[0][len(plain[0]) :], around[1][: len(around[1]) - len(plain[1])]
    known = {("\n \n", "\n "): "none", (" \n", "\n "): "newlines", ("", ""): "both"}
    trim: Any = known.get((lead, trail))
    if trim is None:
        raise _Misfit("the template changes an answer with thoughts in a way of its own")
    return Drop(THOUGHT, trim)


def _trims(probe: _Probe, messages: Any, what: str) -> bool:
    """Whether a template takes the blanks from both ends of a text."""
    mark = MARKS[4]
    plain = _inner(probe, messages(mark), mark)
    blank = _inner(probe, messages(f"\n \u2003{mark}\u2003 \n"), mark)
    if blank == plain:
        return True
    if blank == (f"{plain[0]}\n \u2003", f"\u2003 \n{plain[1]}"):
        return False
    raise _Misfit(f"the template changes the blanks around {what} in a way of its own")


def _inner(probe: _Probe, messages: list[Message], mark: str) -> tuple[str, str]:
    before, after = _around(probe.ask(messages), [mark])
    return before, after


def _around(text: str, marks: Sequence[str]) -> list[str]:
    """What stands before, between and behind marks."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise _Misfit("the template leaves a text out, changes it, or writes it twice")
        parts.append(before)
    return [*parts, text]


def _cut(text: str, end: str, what: str) -> str:
    if not text.endswith(end):
        raise _Misfit(f"{what} is not written alike everywhere")
    return text[: len(text) - len(end)]


def _rest(text: str, start: str, end: str, what: str) -> str:
    if not text.startswith(start):
        raise _Misfit(f"{what} is not written alike everywhere")
    return _cut(text[len(start) :], end, what)


def _shared(a: str, b: str) -> str:
    return a[: next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def _shape(messages: Sequence[Message]) -> str:
    roles = [message["role"] for message in messages]
    with_system = " with a system text" if "system" in roles else ""
    return f"a conversation of {'one turn' if roles.count('user') == 1 else 'several turns'}{with_system}"


def _checked(probe: _Probe, pieces: Pieces) -> Pieces:
    """The pieces, without what does not write as Jinja does.

    Raises:
        _Misfit: not even a single turn is written alike.
    """
    own = [pieces.begin.text, pieces.image.piece, pieces.user.after, pieces.generation, MARKS[0] + THOUGHT]
    count = 0
    for kind in ("plain", "system", "assistant"):
        for talk in talks(own, kind):
            needs = {"system": talk.system is not None, "assistant": len(talk.turns) > 1}
            if any(needed and getattr(pieces, name) is None for name, needed in needs.items()):
                continue
            try:
                _compare(probe, pieces, talk)
                count += 1
            except _Misfit as found:
                if kind == "plain":
                    raise
                lost: dict[str, Any] = {kind: None}
                pieces = replace(pieces, **lost, refused={**pieces.refused, kind: str(found)})
    return replace(pieces, checked=Checked(count, f"jinja2 {version('jinja2')}"))


def _compare(probe: _Probe, pieces: Pieces, talk: Talk) -> None:
    as_parts = pieces.system is None or pieces.system.as_parts
    messages: list[Message] = [] if talk.system is None else [system_text(talk.system, as_parts=as_parts)]
    for turn in talk.turns:
        messages.append(assistant(turn) if isinstance(turn, str) else user(*turn))
    wanted, got = probe.ask(messages), pieces.render(messages)
    if wanted != got:
        place = len(_shared(wanted, got))
        raise _Misfit(
            f"the template writes {wanted[max(0, place - 10) : place + SHOWN]!r} where its pieces give "
            f"{got[max(0, place - 10) : place + SHOWN]!r}"
        )


def tokens_of(processor: Processor) -> Tokens:
    """What the tokenizer puts around a prompt's ids."""
    text, family = processor.text, processor.family
    adds = family.adds_special_tokens
    try:
        with rust_errors(""):
            whole = text.tokenizer.encode("a", add_special_tokens=False)
            around = text.tokenizer.post_process(whole, None, adds).ids
    except EdgekitError as error:
        raise _Misfit(f"the tokenizer cannot cut a text: {error.why}") from error
    plain: list[int] = whole.ids
    place = next((at for at in range(len(around)) if around[at : at + len(plain)] == plain), None)
    if place is None:
        raise _Misfit("the tokenizer changes a prompt's ids when it adds its own")
    limit = None if text.limit is None else {"tokens": text.limit, "side": text.side}
    before, after = tuple(around[:place]), tuple(around[place + len(plain) :])
    return Tokens(before, after, text.special.get("bos_token") if before or after else None, limit)
