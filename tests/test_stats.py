"""Intervals and tests against values worked out by hand, scipy, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.stats import (
    finite_or_none,
    holm,
    kl_divergence,
    largest_gap,
    median_change,
    median_interval,
    median_ratio,
    paired,
    process_change,
    score_interval,
    seeds_interval,
    turn_medians,
    two_shares,
)


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
    assert score_interval([0.5] * 9) == score_interval([0.5]) == (0.5, 0.5)
    assert score_interval([0.0, 0.5]) != (0.5, 0.5)


def test_mcnemar_by_hand() -> None:
    old = np.array([1.0] * 50 + [0.0] * 50)
    new = old.copy()
    new[50:58] = 1.0  # eight gained
    new[:1] = 0.0  # one lost
    result = paired(new, old)
    assert (result.gained, result.lost, result.delta) == (8, 1, pytest.approx(0.07))
    assert result.p_value == pytest.approx(2 * (1 + 9) / 2**9)  # two-sided binomial, 1 of 9
    assert 0 < result.ci95[0] < 0.07 < result.ci95[1]


def test_no_difference() -> None:
    same = paired([1.0, 0.0], [1.0, 0.0])
    assert (same.delta, same.p_value, same.ci95) == (0.0, 1.0, (0.0, 0.0))


def test_graded_pairs_use_a_permutation() -> None:
    rng = np.random.default_rng(0)
    old = rng.random(200)
    assert paired(np.clip(old + 0.05, 0, 1), old, draws=500).p_value < 0.01
    assert paired(rng.permutation(old), old, draws=500).p_value > 0.01


def test_kl() -> None:
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(np.log([0.5, 0.5]), np.log([0.25, 0.75])) == pytest.approx(expected)
    assert kl_divergence([3.0, 5.0], [13.0, 15.0]) == pytest.approx(0, abs=1e-12)  # shifts do not matter
    assert kl_divergence([1000.0, 1002.0], [-1002.0, -1000.0]) == pytest.approx(0, abs=1e-12)


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


def test_medians_as_scipy_has_them() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).lognormal(size=200)
    wanted = bootstrap(
        (values,), np.median, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = median_interval(values, draws=4000)
    width = wanted.high - wanted.low
    assert abs(low - wanted.low) < 0.06 * width and abs(high - wanted.high) < 0.06 * width


@pytest.mark.parametrize("step", [1.0, 0.25])
def test_a_paired_p_value_is_pythons_own_number(step: float) -> None:
    """By McNemar, and by permutation: what is compared with it goes into JSON."""
    found = paired([step, 0.0, step], [0.0, 0.0, step], draws=20)
    assert type(found.p_value) is float and type(found.p_value < 0.05) is bool
    assert {type(one) for one in (found.delta, *found.ci95)} == {float}


def test_paired_as_scipy_has_it() -> None:
    from scipy.stats import bootstrap, permutation_test

    rng = np.random.default_rng(2)
    old = rng.random(120)
    new = np.clip(old + rng.normal(0.02, 0.1, 120), 0, 1)
    ours = paired(new, old)
    wanted = bootstrap((new - old,), np.mean, method="percentile", rng=rng).confidence_interval
    width = wanted.high - wanted.low
    assert abs(ours.ci95[0] - wanted.low) < 0.06 * width and abs(ours.ci95[1] - wanted.high) < 0.06 * width
    flips = permutation_test(
        (new, old), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=4000, rng=rng
    )
    assert abs(ours.p_value - flips.pvalue) < 0.03


def test_turns_by_hand() -> None:
    """Samples of one turn stand and fall together: the interval is that of three turns, not of nine samples."""
    samples, turns = [1.0, 2.0, 3.0, 11.0, 12.0, 13.0, 21.0, 22.0, 23.0], [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert turn_medians(samples, turns).tolist() == [2.0, 12.0, 22.0]
    assert median_interval(samples, turns) == (2.0, 22.0)


def test_processes_by_hand() -> None:
    """Three processes of medians 1, e and e^2: t(0.975, 2) = 4.303 times their deviation 1 over the root of 3."""
    samples, turns = np.exp([0.0, 0.0, 1.0, 1.0, 2.0, 2.0]), [0, 1, 2, 3, 4, 5]
    processes = {turn: turn // 2 for turn in turns}
    interval = median_interval(samples, turns, processes)
    assert interval is not None
    assert np.log(interval) == pytest.approx([1 - 4.302653 / math.sqrt(3), 1 + 4.302653 / math.sqrt(3)])
    assert median_interval(samples, turns, dict.fromkeys(turns, 0)) == median_interval(samples, turns)
    ratio, interval = median_ratio(samples * np.exp([0, 0, 1, 1, 2, 2]), turns, samples, turns, processes)
    assert ratio == pytest.approx(math.e) and interval is not None
    assert np.log(interval) == pytest.approx([1 - 4.302653 / math.sqrt(3), 1 + 4.302653 / math.sqrt(3)])


def test_a_change_between_processes() -> None:
    from scipy.stats import ttest_ind

    ratio, p = process_change([2.0, 2.2, 1.9], [1.0, 1.1, 1.0, 0.9])
    assert ratio == pytest.approx((2.0 * 2.2 * 1.9) ** (1 / 3) / (1.1 * 0.9) ** 0.25)
    wanted = ttest_ind(np.log([2.0, 2.2, 1.9]), np.log([1.0, 1.1, 1.0, 0.9]), equal_var=False).pvalue
    assert p == pytest.approx(wanted) and p < 1e-3
    assert process_change([2.0, 2.0], [2.0, 2.0]) == (1.0, 1.0) and process_change([4.0, 4.0], [2.0, 2.0]) == (2.0, 0.0)


def test_a_ratio_within_turns_does_not_feel_the_machine() -> None:
    turns = [0, 0, 1, 1, 2, 2]
    old = np.array([10.0, 10.0, 30.0, 30.0, 20.0, 20.0])  # the machine slows down threefold, and recovers
    ratio, (low, high) = median_ratio(2 * old, turns, old, turns)
    assert ratio == low == high == 2.0
    assert median_ratio([8.0, 5.0], [1, 9], [2.0, 7.0], [1, 3])[0] == 4.0  # turns that only one has do not count


def test_a_change_of_medians() -> None:
    rng = np.random.default_rng(0)
    old = rng.lognormal(0, 0.1, 40)
    ratio, p = median_change(1.5 * rng.lognormal(0, 0.1, 40), old)
    assert 1.35 < ratio < 1.65 and p < 1e-6
    assert median_change(rng.lognormal(0, 0.1, 40), old)[1] > 0.01
    assert median_change([2.0, 2.0], [2.0, 2.0]) == (1.0, 1.0) and median_change([4.0], [2.0]) == (2.0, 0.0)
    # Their logarithms are whole, so that the resampled ones do not differ even by rounding.
    assert median_change([1.0, 1.0], [1.0]) == (1.0, 1.0) and median_change([math.e], [1.0]) == (math.e, 0.0)


def test_two_shares_as_published() -> None:
    """Newcombe 1998, table II, case (a), method 10: 56/70 - 48/80."""
    delta, (low, high), p = two_shares((56 / 70, 70), (48 / 80, 80))
    assert delta == pytest.approx(0.2) and (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    pooled = 104 / 150
    z = 0.2 / math.sqrt(pooled * (1 - pooled) * (1 / 70 + 1 / 80))
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)))
    assert two_shares((1.0, 5), (1.0, 5))[2] == 1.0


def test_seeds_by_hand() -> None:
    """t(0.975, 2) = 4.302653 and t(0.95, 2) = 2.9199856 times the deviation 2 over the root of 3."""
    low, high = seeds_interval([1.0, 3.0, 5.0])
    assert (low, high) == pytest.approx((3 - 4.302653 * 2 / math.sqrt(3), 3 + 4.302653 * 2 / math.sqrt(3)))
    low, high = seeds_interval([1.0, 3.0, 5.0], level=0.9)
    assert (low, high) == pytest.approx((3 - 2.9199856 * 2 / math.sqrt(3), 3 + 2.9199856 * 2 / math.sqrt(3)))


def test_pairs_of_a_few_by_hand() -> None:
    """Flipping signs of (0.5, 0.5) makes the mean 0.5, 0, 0, -0.5: as far out in half of all draws."""
    found = paired([1.0, 0.75], [0.5, 0.25], draws=4000)
    assert found.p_value == pytest.approx(0.5, abs=0.04) and (found.gained, found.lost, found.delta) == (2, 0, 0.5)
    assert found.ci95 == (0.5, 0.5)
    one = {paired([1.0, 0.5], [0.5, 0.0], draws=1, seed=seed).p_value for seed in range(20)}
    assert one == {0.5, 1.0}  # (hits + 1) / (draws + 1)
    # Of many distinct differences the bootstrap draws values, not counts: normal, at 1.96 standard errors.
    spread = np.linspace(-0.1, 0.3, 201)
    low, high = paired(0.5 + spread, np.full(201, 0.5), draws=4000).ci95
    half = 1.96 * spread.std() / math.sqrt(201)
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.2 * half)


def test_what_one_sample_or_two_processes_say() -> None:
    assert median_interval([3.0]) is None and median_interval([1.0, 2.0], [0, 0]) is None
    assert median_interval([1.0, 3.0]) == (1.0, 3.0)
    samples, turns = [1.0, 2.0, 4.0, 8.0], [0, 1, 2, 3]
    two = median_interval(samples, turns, {0: 0, 1: 0, 2: 1, 3: 1})
    assert two == median_interval(samples, turns) == (1.0, 8.0)  # of two processes there is no interval


def test_the_same_samples_give_the_same_figures() -> None:
    """The draws are part of a figure: their defaults may not change unseen."""
    rng = np.random.default_rng(4)
    new, old = rng.random(90), rng.random(90)
    assert score_interval(new) == score_interval(new, seed=0, level=0.95) != score_interval(new, seed=1)
    assert paired(new, old) == paired(new, old, draws=10_000, seed=0) != paired(new, old, seed=1)
    assert median_interval(new) == median_interval(new, draws=2000, seed=0) != median_interval(new, seed=1)
    few = np.random.default_rng(5).random(20)  # of these one draw more makes a difference
    assert median_interval(few) == median_interval(few, draws=2000) != median_interval(few, draws=2001)
    assert median_change(new, old) == median_change(new, old, draws=2000, seed=0) != median_change(new, old, seed=1)


def test_a_wilson_interval_of_another_level() -> None:
    z, n, p = 1.6448536269514722, 20, 0.9
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]
    assert score_interval([1.0] * 18 + [0.0] * 2, level=0.9) == pytest.approx(expected)


def test_a_change_of_medians_by_hand() -> None:
    """Of two values the resampled median is 1, 2 or their mean with shares 1/4, 1/4, 1/2."""
    ratio, p = median_change([1.0, 2.0], [1.0, 1.0])
    logs = np.log([1.0, 2.0, 1.5, 1.5])
    assert ratio == 1.5 and p == pytest.approx(math.erfc(math.log(1.5) / logs.std() / math.sqrt(2)), abs=0.02)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


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


@pytest.mark.slow
@pytest.mark.parametrize("wander", [0.0, 0.1, 0.5])
def test_intervals_of_medians_cover_95_of_100(wander: float) -> None:
    """Twenty turns of fifteen samples on a machine whose speed wanders from turn to turn."""
    rng = np.random.default_rng(5)
    runs, turns = 2000, np.repeat(np.arange(20), 15)
    covered = 0
    for number in range(runs):
        noise = 0.2 * rng.standard_normal(300) + wander * 0.2 * rng.standard_normal(20)[turns]
        low, high = median_interval(np.exp(noise), turns, draws=1000, seed=number)
        covered += low <= 1.0 <= high
    assert 0.93 <= covered / runs <= 0.97, covered / runs


@pytest.mark.slow
@pytest.mark.parametrize("between", [0.0, 0.05, 0.3])
def test_intervals_of_processes_cover_95_of_100(between: float) -> None:
    """Five processes of four turns, each process as fast as its memory came to lie; the bootstrap over turns fails."""
    rng = np.random.default_rng(6)
    runs, turns = 2000, np.repeat(np.arange(20), 15)
    processes = {turn: turn // 4 for turn in range(20)}
    covered, by_turns = 0, 0
    for number in range(runs):
        place = between * rng.standard_normal(5)[turns // 4]
        values = np.exp(place + 0.1 * rng.standard_normal(300) + 0.03 * rng.standard_normal(20)[turns])
        for which in (processes, None):
            interval = median_interval(values, turns, which, draws=500, seed=number)
            assert interval is not None
            inside = interval[0] <= 1.0 <= interval[1]
            covered, by_turns = covered + (inside and which is not None), by_turns + (inside and which is None)
    assert 0.93 <= covered / runs <= 0.97, covered / runs
    assert between == 0 or by_turns / runs < 0.9, by_turns / runs
