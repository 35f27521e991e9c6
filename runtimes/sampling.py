"""Choosing a token from logits: greedy, or sampled as the distillation's sampler does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoint.rules import Rules
from edgekit.errors import EdgekitError, NotFiniteError
from edgekit.runtimes.session import Logits

Choose = Callable[[Logits, Sequence[int]], int]
"""From the logits (V,) and all tokens before, prompt and answer, to the next token."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    The steps, their order and their definitions are those of transformers and of `distill/generators`: temperature,
    top-k, top-p, behind what `edgekit.checkpoint.rules` does to the logits. Draws come from NumPy, so a seed gives
    other tokens than the same seed there.

    Raises:
        EdgekitError: a value out of its range.
    """

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Keep the smallest set of tokens that holds this share, in (0, 1]."""
    top_k: int = 0
    """Keep so many tokens, and those as likely as the last of them; 0 for all."""
    seed: int | None = None
    """Of the draws."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        whole = math.isfinite(self.temperature) and math.isfinite(self.top_p)
        if not whole or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise EdgekitError("Sampling needs temperature >= 0, top_p in (0, 1] and top_k >= 0.")


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
        sampling: Greedy for temperature 0.
        vocab_size: Tokens of the tokenizer; rows of a padded output head beyond it are never drawn. All when None.
    """
    if sampling.temperature == 0:
        return greedy
    rng = np.random.default_rng(sampling.seed)

    def choose(logits: Logits, ids: Sequence[int] = ()) -> int:
        greedy(logits)  # refuses those that are no numbers; a forbidden token's is minus infinity
        chances = shares(logits[:vocab_size], sampling)
        return int(rng.choice(len(chances), p=chances))

    return choose


def shares(logits: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """The chance of each token to be drawn.

    Args:
        logits: (V,).
        sampling: Temperature above 0.

    Returns:
        (V,), sum 1.
    """
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


def ruled(choose: Choose, rules: Rules) -> Choose:
    """Choosing among the tokens that a model's own settings leave.

    Args:
        choose: What chooses.
        rules: Change the logits first. Greedily, the first token is taken where they leave none, as transformers does.
    """

    def choice(logits: Logits, ids: Sequence[int]) -> int:
        greedy(logits)  # refuses those that are no numbers, as the model gave them
        changed = rules(logits, ids)
        return int(changed.argmax()) if choose is greedy else choose(changed, ids)

    return choice
