"""Speed tests named as llama-bench names them: `pp512`, `tg128`, and `img`, which it lacks; and speed over minutes.

`pp512` is the time to take in a prompt of 512 tokens, `tg128` that to decode 128 tokens from an empty cache; tokenising
and sampling are in neither. `img` is the time to encode one image, preprocessing excluded. Random tokens stand for
words: what they say does not change how long a dense model takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import EdgekitError
from edgekit.inputs.chat import question
from edgekit.runtimes.generate import Answer
from edgekit.runtimes.phases import PHASE
from edgekit.runtimes.session import Prepared, Session, Unattended

if TYPE_CHECKING:
    from PIL.Image import Image

WORDS = "the quick brown fox jumps over the lazy dog "


@dataclass(frozen=True)
class Test:
    """One test: kind `pp`, `tg` or `img`, and its tokens (0 for `img`)."""

    kind: str
    tokens: int = 0

    @property
    def name(self) -> str:
        """As llama-bench writes it."""
        return f"{self.kind}{self.tokens or ''}"


def tests(prompt_tokens: tuple[int, ...], new_tokens: tuple[int, ...], images: bool = True) -> list[Test]:
    """Tests of the given lengths, 0 left out, and `img`."""
    found = [Test("pp", count) for count in prompt_tokens if count]
    found += [Test("tg", count) for count in new_tokens if count]
    return [*found, Test("img")] if images else found


def run_once(session: Session, kind: str, tokens: int, image: Image | None) -> dict[str, Any]:
    """One repetition.

    Args:
        session: Loaded; its cache is emptied.
        kind, tokens: Of the test.
        image: For `img`.

    Returns:
        `ms`, and `count`: tokens or images of that time.

    Raises:
        EdgekitError: the runtime refuses, for example a prompt longer than its cache; or there is no image.
    """
    PHASE.new_answer()
    session.reset()
    if kind == "img":
        if image is None:
            raise EdgekitError("The data set has no image to encode.")
        prepared = session.prepare(question("?", 1), [image])
        PHASE.enter("encode")
        start = time.perf_counter()
        session.encode_image(prepared)
        return {"ms": 1000 * (time.perf_counter() - start), "count": 1}
    prompt = text_prompt(session, tokens if kind == "pp" else 1)
    PHASE.enter("prefill")
    if kind == "pp":
        start = time.perf_counter()
        session.prefill(prompt, None)
        return {"ms": 1000 * (time.perf_counter() - start), "count": tokens}
    session.prefill(prompt, None)
    drawn = np.random.default_rng(0).integers(session.vocab_size, size=tokens).tolist()
    start = time.perf_counter()
    if isinstance(session, Unattended):
        PHASE.enter("decode", tokens)
        session.decode_steps(drawn)
    else:
        for token in drawn:
            PHASE.enter("decode")
            session.decode_step(token)
    return {"ms": 1000 * (time.perf_counter() - start), "count": tokens}


def text_prompt(session: Session, tokens: int) -> Prepared:
    """A prompt of words of exactly so many tokens, prepared by the session itself."""
    repeats = max(1, tokens // 8)
    while True:
        prepared = session.prepare(question(WORDS * repeats, 0), [])
        if prepared.ids.shape[1] >= tokens:
            return prepared.head(tokens)
        repeats *= 2


def sustain(ask: Callable[[], Answer], seconds: float, points: int) -> list[dict[str, float]]:
    """Answer without a pause, and how fast decoding was from stretch to stretch.

    Args:
        ask: Gives one answer.
        seconds: How long, at least one answer a stretch.
        points: Stretches of equal length.

    Returns:
        For each: `seconds` at its end, `tokens_per_s` of decoding, `answers_per_s`.

    Raises:
        EdgekitError: the clock stands still, so this would have no end.
    """
    begin = time.perf_counter()
    found = []
    for number in range(1, points + 1):
        start, tokens, decoding, answers = time.perf_counter(), 0, 0.0, 0
        while True:
            asked = time.perf_counter()
            said = ask()
            answers += 1
            tokens += len(said.timings.itl_ms)
            decoding += sum(said.timings.itl_ms) / 1000
            now = time.perf_counter()
            if now <= asked:
                raise EdgekitError("The clock of this machine stands still, or jumped back.")
            if now - begin >= seconds * number / points:
                break
        speed = tokens / decoding if decoding else 0.0
        found.append({"seconds": now - begin, "tokens_per_s": speed, "answers_per_s": answers / (now - start)})
    return found
