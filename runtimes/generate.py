"""The one decoding loop, greedy unless asked, over any session; and following given tokens, for parity."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.chat import Message
from edgekit.errors import NotFiniteError
from edgekit.runtimes.session import Logits, Session

if TYPE_CHECKING:
    from PIL.Image import Image

Choose = Callable[[Logits], int]


@dataclass
class Timings:
    """Milliseconds of one answer."""

    preprocess_ms: float = 0.0
    image_encode_ms: float = 0.0
    prefill_ms: float = 0.0
    first_token_ms: float = 0.0
    """Choosing the first token from the prompt's logits."""
    itl_ms: list[float] = field(default_factory=list)
    """Each later token: one decode step and its choice."""
    prompt_tokens: int = 0

    @property
    def ttft_ms(self) -> float:
        """From the picture and the words to the first token."""
        return self.preprocess_ms + self.image_encode_ms + self.prefill_ms + self.first_token_ms

    def as_dict(self) -> dict[str, Any]:
        """For JSON, TTFT included."""
        return {**asdict(self), "ttft_ms": self.ttft_ms}


@dataclass
class Answer:
    """One answer.

    Attributes:
        text: Without special tokens.
        token_ids: The end token included, when it came.
        timings: Of its parts.
    """

    text: str
    token_ids: list[int]
    timings: Timings


def greedy(logits: Logits) -> int:
    """The most likely token; the lowest id among equals.

    Raises:
        NotFiniteError: a logit is NaN or infinite, so no token is the most likely.
    """
    token = int(logits.argmax())  # of NaN and numbers, argmax is the NaN
    if not math.isfinite(logits[token]):
        raise not_finite()
    return token


def not_finite() -> NotFiniteError:
    """The error for logits that are no numbers."""
    return NotFiniteError(
        "The model's logits are not finite.",
        why="Its weights hold NaN, or a value left the range of its precision (float16 ends at 65,504).",
        fix="Compare the bundle with its checkpoint:  edgekit verify BUNDLE; or export it in fp32.",
    )


def sampler(temperature: float, top_p: float = 1.0, top_k: int = 0, seed: int | None = None) -> Choose:
    """A chooser that samples.

    Args:
        temperature: Above 0.
        top_p: Keep the smallest set of tokens that holds this share, in (0, 1].
        top_k: Keep so many tokens at most; 0 for all.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)

    def choose(logits: Logits) -> int:
        if not np.isfinite(logits).all():
            raise not_finite()
        values = logits.astype(np.float64) / temperature
        order = np.argsort(-values, kind="stable")
        if top_k:
            order = order[:top_k]
        shares = np.exp(values[order] - values[order[0]])
        shares /= shares.sum()
        # A token stays while the share of those before it is below top_p, so one always stays.
        kept = np.concatenate([[0.0], np.cumsum(shares)[:-1]]) < top_p
        shares = shares[kept] / shares[kept].sum()
        return int(rng.choice(order[kept], p=shares))

    return choose


def answer(
    session: Session,
    messages: list[Message],
    images: list[Image],
    *,
    max_new_tokens: int,
    choose: Choose = greedy,
    on_token: Callable[[int], None] | None = None,
) -> Answer:
    """Answer one prompt.

    Args:
        session: Loaded.
        messages: Ends with the user's turn.
        images: In the order of the image parts.
        max_new_tokens: At least 1.
        choose: From logits (V,) to a token.
        on_token: Told each token as it comes.
    """
    timings = Timings()
    session.reset()
    clock = _Lap()
    prepared = session.prepare(messages, images)
    timings.preprocess_ms = clock.lap()
    features = None if prepared.pixels is None else session.encode_image(prepared)
    timings.image_encode_ms = clock.lap()
    logits = session.prefill(prepared, features)
    timings.prefill_ms = clock.lap()
    timings.prompt_tokens = int(prepared.ids.shape[1])
    tokens: list[int] = []
    while True:
        tokens.append(choose(logits))
        if on_token is not None:
            on_token(tokens[-1])
        if len(tokens) == 1:
            timings.first_token_ms = clock.lap()
        else:
            timings.itl_ms.append(clock.lap())
        if tokens[-1] in session.eos_token_ids or len(tokens) == max_new_tokens:
            return Answer(session.decode_text(tokens), tokens, timings)
        logits = session.decode_step(tokens[-1])


def follow(session: Session, messages: list[Message], images: list[Image], tokens: Sequence[int]) -> Iterator[Logits]:
    """The logits (V,) before each of the given tokens, feeding them one by one."""
    session.reset()
    prepared = session.prepare(messages, images)
    features = None if prepared.pixels is None else session.encode_image(prepared)
    logits = session.prefill(prepared, features)
    for number, token in enumerate(tokens):
        yield logits
        if number < len(tokens) - 1:
            logits = session.decode_step(token)


class _Lap:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Milliseconds since the lap before."""
        now = time.perf_counter()
        spent, self.last = 1000 * (now - self.last), now
        return spent
