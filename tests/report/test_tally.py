"""What a comparison adds up, worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgekit.report.tally import Tally


def rows(*values: list[float]) -> list[Any]:
    return [np.array(row, np.float32) for row in values]


def test_two_answers() -> None:
    tally = Tally()
    tally.add(rows([0, 1], [2, 0]), rows([0, 1], [2, 0]))
    tally.add(rows([0, 1], [3, 0], [9, 0]), rows([0, 1], [3, 5], [0, 4]))
    assert (tally.samples, tally.tokens) == (2, 5)
    assert tally.greedy_identical == 0.5 and tally.top1_agreement == 0.6 and tally.top1_disagreement == 0.4
    assert tally.logits_max_abs == 9.0
    assert tally.margin_at_difference == 3.0  # at the second token; behind it the answers are others anyway

    def kl(p: float, q: float) -> float:
        """Of two tokens whose first has log-odds p and q."""
        a, b = 1 / (1 + math.exp(-p)), 1 / (1 + math.exp(-q))
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    assert tally.mean_kl == pytest.approx((kl(3, -2) + kl(9, -4)) / 5, rel=1e-6)


def test_nothing_that_is_not_finite_agrees() -> None:
    """NumPy's best of NaN is the NaN, which may well stand where the reference's best does."""
    tally = Tally()
    tally.add(rows([1, 0]), rows([math.nan, 0]))
    assert tally.top1_agreement == 0.0 and tally.greedy_identical == 0.0
    assert tally.mean_kl is None and tally.logits_max_abs is None


def test_an_answer_of_its_own_counts_before_its_best_tokens() -> None:
    tally = Tally()
    tally.add(rows([1, 0]), rows([1, 0]), identical=False)
    tally.add(rows([1, 0]), rows([0, 1]), identical=True)
    assert tally.identical == [False, True] and tally.best == [True, False]


def test_what_is_refused_is_as_wrong_as_can_be() -> None:
    tally = Tally()
    tally.add(rows([1, 0]), rows([1, 0]))
    tally.add_refused(3)
    assert tally.top1_agreement == 0.25 and tally.greedy_identical == 0.5
    assert tally.mean_kl is None and tally.logits_max_abs is None


def test_sides_of_another_length_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Tally().add(rows([1, 0], [1, 0]), rows([1, 0]))
