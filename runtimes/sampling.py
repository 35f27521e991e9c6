"""Choosing a token from logits: greedy, or sampled as the distillation's sampler does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError, NotFiniteError
from edgekit.runtimes.session import Logits

Choose = Callable[[Logits, Sequence[int]], int]
"""From the logits (V,) and all tokens before, prompt and answer, to the next token."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    The steps, their order and their definitions are those of transformers and of `distill/generators`: repetition
    penalty, temperature, top-k, top-p. Draws come from NumPy, so a seed gives other tokens than the same seed there.

    Raises:
        EdgekitError: a value out of its range.
    """

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Keep the smallest set of tokens that holds this share, in (0, 1]."""
    top_k: int = 0
    """Keep so many tokens, and those as likely as the last of them; 0 for all."""
    repetition_penalty: float = 1.0
    """Logits of tokens that stand in prompt or answer are divided by it, negative ones multiplied; above 0."""
    seed: int | None = None
    """Of the draws."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        whole = all(math.isfinite(value) for value in (self.temperature, self.top_p, self.repetition_penalty))
        if not whole or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise EdgekitError("Sampling needs temperature >= 0, top_p in (0, 1] and top_k >= 0.")
        if self.repetition_penalty <= 0:
            raise EdgekitError(
                f"A repetition penalty of {self.repetition_penalty:g} has no meaning.",
                fix="Give one above 0: 1 changes nothing, 1.1 discourages repeating.",
            )


def greedy(logits: Logits, ids: Sequence[int] = ()) -> int:
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


def chooser(sampling: Sampling, vocab_size: int | None = None) -> Choose:
    """The function that chooses tokens.

    Args:
        sampling: Greedy for temperature 0, on the penalised logits.
        vocab_size: Tokens of the tokenizer; rows of a padded output head beyond it are never drawn. All when None.
    """
    if sampling.temperature == 0:
        if sampling.repetition_penalty == 1:
            return greedy
        return lambda logits, ids: greedy(penalise(logits, ids, sampling.repetition_penalty))
    rng = np.random.default_rng(sampling.seed)

    def choose(logits: Logits, ids: Sequence[int] = ()) -> int:
        if not np.isfinite(logits).all():
            raise not_finite()
        chances = shares(logits[:vocab_size], ids, sampling)
        return int(rng.choice(len(chances), p=chances))

    return choose


def penalise(logits: Logits, ids: Sequence[int], penalty: float) -> Logits:
    """Logits with those of the tokens in `ids` divided by the penalty, negative ones multiplied.

    Source: Keskar et al., arXiv:1909.05858, section 4.1, in the signed form of transformers'
    RepetitionPenaltyLogitsProcessor.
    """
    seen = np.unique(np.asarray(ids, dtype=np.int64))
    seen = seen[seen < len(logits)]
    changed = logits.copy()
    changed[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    return changed


def shares(logits: Logits, ids: Sequence[int], sampling: Sampling) -> NDArray[np.float64]:
    """The chance of each token to be drawn.

    Args:
        logits: (V,).
        ids: Tokens before, for the penalty.
        sampling: Temperature above 0.
    Returns:
        (V,), sum 1.
    """
    if sampling.repetition_penalty != 1:
        logits = penalise(logits, ids, sampling.repetition_penalty)
    values = logits.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(values):
        values = np.where(values < np.partition(values, -sampling.top_k)[-sampling.top_k], -np.inf, values)
    chances: NDArray[np.float64] = np.exp(values - values.max())
    chances /= chances.sum()
    if sampling.top_p < 1:
        order = np.argsort(-chances, kind="stable")
        # A token stays while the share of those before it is below top_p, so one always stays.
        before = np.concatenate([[0.0], np.cumsum(chances[order])[:-1]])
        chances[order[before >= sampling.top_p]] = 0.0
        chances /= chances.sum()
    return chances
