"""Intervals and tests against values worked out by hand, scipy, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.stats import finite_or_none, kl_divergence, largest_gap, median_interval, paired, score_interval


def test_wilson_by_hand() -> None:
    z, n, p = 1.959963984540054, 10, 0.8
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]
    assert score_interval([1.0] * 8 + [0.0] * 2) == pytest.approx(expected)
    low, high = score_interval([1.0] * 20)
    assert high == pytest.approx(1) and 0.83 < low < 0.85  # never a width of zero


def test_graded_scores() -> None:
    scores = np.tile([0.2, 0.5, 0.9, 1.0], 50)
    low, high = score_interval(scores)
    half = 1.96 * scores.std(ddof=1) / math.sqrt(200)
    assert low == pytest.approx(scores.mean() - half, abs=0.01) and high == pytest.approx(
        scores.mean() + half, abs=0.01
    )
    assert score_interval([0.5] * 9) == (0.5, 0.5)


def test_mcnemar_by_hand() -> None:
    old = np.array([1.0] * 50 + [0.0] * 50)
    new = old.copy()
    new[50:58] = 1.0  # eight gained
    new[:1] = 0.0  # one lost
    result = paired(new, old)
    assert (result.gained, result.lost, result.delta) == (8, 1, pytest.approx(0.07))
    assert result.p_value == pytest.approx(2 * (1 + 9) / 2**9)  # two-sided binomial, 1 of 9
    assert result.significant
    assert result.ci95[0] < 0.07 < result.ci95[1]


def test_no_difference() -> None:
    same = paired([1.0, 0.0], [1.0, 0.0])
    assert (same.delta, same.p_value, same.significant) == (0.0, 1.0, False)


def test_graded_pairs_use_a_permutation() -> None:
    rng = np.random.default_rng(0)
    old = rng.random(200)
    assert paired(np.clip(old + 0.05, 0, 1), old, draws=500).p_value < 0.01
    assert paired(rng.permutation(old), old, draws=500).p_value > 0.01


def test_kl() -> None:
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(np.log([0.5, 0.5]), np.log([0.25, 0.75])) == pytest.approx(expected)
    assert kl_divergence([3.0, 5.0], [13.0, 15.0]) == pytest.approx(0, abs=1e-12)  # shifts do not matter


def test_what_is_not_finite_is_never_a_small_gap() -> None:
    """`max(0.0, nan)` is 0.0: a broken model must not look like a perfect one."""
    assert largest_gap([1.0, 2.0], [1.5, 1.0]) == 1.0 and largest_gap([], []) == 0.0
    assert largest_gap([1.0, math.nan], [1.0, 2.0]) == math.inf and largest_gap([1.0], [1.0, 1.0]) == math.inf
    assert largest_gap([math.inf], [math.inf]) == math.inf
    assert kl_divergence([0.0, math.nan], [0.0, 1.0]) == math.inf and kl_divergence([0.0], [-math.inf]) == math.inf
    assert finite_or_none(math.inf) is None and finite_or_none(math.nan) is None and finite_or_none(0.5) == 0.5


def test_median() -> None:
    low, high = median_interval(np.arange(101))
    assert low < 50 < high and high - low < 45


@pytest.mark.slow
def test_intervals_cover_95_of_100() -> None:
    rng = np.random.default_rng(1)
    runs, n = 1500, 300
    truth = 0.85
    covered = [0, 0]
    for number in range(runs):
        old = (rng.random(n) < truth).astype(float)
        flip = rng.random(n)
        # 6 % of the answers become right and 2 % wrong, whatever they were.
        new = np.where(flip < 0.06, 1.0, np.where(flip < 0.08, 0.0, old))
        expected = 0.06 * (1 - truth) - 0.02 * truth
        low, high = score_interval(old)
        covered[0] += low <= truth <= high
        low, high = paired(new, old, draws=1000, seed=number).ci95
        covered[1] += low <= expected <= high
    assert all(0.93 <= count / runs <= 0.97 for count in covered), covered
