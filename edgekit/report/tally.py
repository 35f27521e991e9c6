"""What is added up, token by token, where one side of a comparison is led along the other's answers.

An export's parity run, `edgekit verify`, its attribution and a bench all compare so; what counts as the same token, and
what a number that is not finite counts as, is said here once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.stats import finite_or_none, kl_divergence, largest_gap

Logits = NDArray[Any]


@dataclass
class Tally:
    """Figures of every answer so far.

    Attributes:
        best: For each token of the reference's answers, whether the other side's best candidate is the same.
        kl: For each of these tokens KL(reference, other), nats; infinite where a logit is not finite.
        gap: The logits' largest difference; infinite where one is not finite.
        identical: For each answer, whether the other side gives it too.
        margins: At the first token of an answer that differs, how much the reference prefers its own.
    """

    best: list[bool] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    gap: float = 0.0
    identical: list[bool] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def add(self, theirs: Iterable[Logits], ours: Iterable[Logits], *, identical: bool | None = None) -> None:
        """Count one answer.

        Args:
            theirs: The reference's logits (V,) before each of its tokens.
            ours: The other side's, along the same tokens.
            identical: Whether the other side gives this answer by itself. When None, it does so exactly where its best
                candidate is the reference's at every step, as greedy decoding would then take the same way.
        """
        start = len(self.best)
        for a, b in zip(theirs, ours, strict=True):
            same = bool(np.isfinite(b).all()) and int(a.argmax()) == int(b.argmax())
            if not same and all(self.best[start:]):
                self.margins.append(float(a.max() - a[int(b.argmax())]))
            self.best.append(same)
            self.kl.append(kl_divergence(a, b))
            self.gap = max(self.gap, largest_gap(a, b))
        self.identical.append(all(self.best[start:]) if identical is None else identical)

    def add_refused(self, tokens: int) -> None:
        """Count an answer of so many tokens that the other side refuses to follow: as wrong as can be."""
        self.best += [False] * tokens
        self.kl += [math.inf] * tokens
        self.gap = math.inf
        self.identical.append(False)

    @property
    def samples(self) -> int:
        """Answers."""
        return len(self.identical)

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return len(self.best)

    @property
    def greedy_identical(self) -> float:
        """Share of answers with the same tokens."""
        return sum(self.identical) / len(self.identical)

    @property
    def top1_agreement(self) -> float:
        """Share of tokens whose best candidate is the same."""
        return sum(self.best) / len(self.best)

    @property
    def top1_disagreement(self) -> float:
        """Share of the others."""
        return self.best.count(False) / len(self.best)

    @property
    def logits_max_abs(self) -> float | None:
        """Largest difference of a logit; None where one is not finite."""
        return finite_or_none(self.gap)

    @property
    def mean_kl(self) -> float | None:
        """Nats; None where a logit is not finite."""
        return finite_or_none(sum(self.kl) / len(self.kl))

    @property
    def margin_at_difference(self) -> float | None:
        """The largest of `margins`; None where no answer differs."""
        return finite_or_none(max(self.margins)) if self.margins else None
