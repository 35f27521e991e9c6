"""Conversations that a template's pieces are tried with: always the same ones, in every shape that an app may make."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

COUNTS = {"plain": 210, "system": 60, "assistant": 60}
"""Of each kind; a template that takes neither system text nor several turns is tried with enough too."""
TEXTS = (
    "What is in the image?", "yes", "", " ", "\n", "  leading and trailing \n", "\n\nnew\n\nlines\n", "\ttab\t",
    "Grüße aus Köln, 12 € – naïve café", "\u65e5\u672c\u8a9e\u306e\u8cea\u554f", "\u0645\u0631\u062d\u0628\u0627",
    "\U0001f469\u200d\U0001f4bb \U0001f1e9\U0001f1ea \u2764\ufe0f", "e\u0301 and \u00e9", "\u2003em\u2003",
    "\u00a0hard\u00a0",
    "\u200bzero\u200b", "\ufeffmark", "\u2028line\u2029", "a\x00b", "{{ bos_token }} {% if x %}",
    "<|im_start|>user\nhi<|im_end|>",
    "<image>", "<bos><start_of_turn>", "\\n \\u0041 %s {0}", "\"quoted\" 'single' `back`",
    "System: be brief\nUser: no",
    "\x1c\x1d\x85edge\x1e\x1f", "tool_call None true []", "x" * 700,
)  # fmt: skip


@dataclass(frozen=True)
class Talk:
    """A conversation.

    Attributes:
        system: A text, or None.
        turns: A user's turn, its parts in order and None for an image; an answer is its text.
    """

    system: str | None
    turns: tuple[str | tuple[str | None, ...], ...]


def talks(own: Sequence[str], kind: str) -> Iterator[Talk]:
    """Conversations of one kind.

    Args:
        own: The template's own pieces, which people may write too.
        kind: plain, a single turn; system, the same behind a system text; assistant, several turns, of which some
            have a system text.
    """
    draw = random.Random(kind)
    pool = [*TEXTS, *own, *(f"{piece} {piece.strip()}\n" for piece in own)]
    for number in range(COUNTS[kind]):
        if kind == "plain" and number < len(pool):  # each text by itself too
            yield Talk(None, ((pool[number],),))
            continue
        system = draw.choice(pool) if kind == "system" or (kind == "assistant" and draw.random() < 0.3) else None
        rounds = 1 if kind != "assistant" else draw.randint(2, 4)
        turns: list[str | tuple[str | None, ...]] = []
        for place in range(rounds):
            turns += [] if place == 0 else [draw.choice(pool)]
            parts = [None if draw.random() < 0.4 else draw.choice(pool) for _ in range(draw.randint(1, 4))]
            turns.append(tuple(parts))
        yield Talk(system, tuple(turns))
