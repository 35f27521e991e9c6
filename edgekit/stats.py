"""Intervals and paired tests, on scipy. Scores are shares in [0, 1]; intervals are two-sided 95 % unless said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def score_interval(scores: ArrayLike, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Interval of a mean score: Wilson's for right/wrong scores, a BCa bootstrap for graded ones.

    Args:
        scores: (n,) one score per question in [0, 1], n >= 1.
        level: Confidence level.
        seed: Of the bootstrap.
    Source: Wilson (1927), by scipy.stats.binomtest; Efron (1987), by scipy.stats.bootstrap.
    """
    from scipy.stats import binomtest, bootstrap

    values = np.asarray(scores, dtype=float)
    if np.isin(values, (0.0, 1.0)).all():
        interval = binomtest(int(values.sum()), len(values)).proportion_ci(level, method="wilson")
    elif np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    else:
        interval = bootstrap(
            (values,), np.mean, confidence_level=level, rng=np.random.default_rng(seed)
        ).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Paired:
    """Difference of two runs on the same questions, new minus old.

    Attributes:
        delta: Mean difference.
        ci95: Paired percentile-bootstrap interval of it.
        p_value: Exact McNemar for right/wrong scores, paired permutation else; two-sided.
        gained, lost: Questions only the new run, or only the old run, scores higher on.
    """

    delta: float
    ci95: tuple[float, float]
    p_value: float
    gained: int
    lost: int


def paired(new: ArrayLike, old: ArrayLike, *, draws: int = 10_000, seed: int = 0) -> Paired:
    """Compare two runs question by question.

    Args:
        new, old: (n,) scores in [0, 1] of the same questions in the same order.
        draws: Bootstrap and permutation draws.
        seed: Of both.
    """
    from scipy.stats import binomtest

    difference = np.asarray(new, dtype=float) - np.asarray(old, dtype=float)
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    rng = np.random.default_rng(seed)
    means = _bootstrap_means(difference, draws, rng)
    low, high = np.quantile(means, (0.025, 0.975))
    if np.isin(difference, (-1.0, 0.0, 1.0)).all():
        p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    else:
        p_value = _sign_flip_p(difference, draws, rng)
    return Paired(float(difference.mean()), (float(low), float(high)), p_value, gained, lost)


def seeds_interval(differences: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of a few differences, one per seed; at least 2."""
    from scipy.stats import t

    values = np.asarray(differences, dtype=float)
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def turn_medians(samples: ArrayLike, turns: ArrayLike) -> NDArray[np.float64]:
    """The median of each turn's samples, in the order of the turns' numbers.

    Args:
        samples: (n,) values.
        turns: (n,) the turn each was measured in.
    """
    values, places = np.asarray(samples, dtype=float), np.asarray(turns)
    order = np.argsort(places, kind="stable")
    _, starts = np.unique(places[order], return_index=True)
    return np.array([np.median(part) for part in np.split(values[order], starts)[1:]])


FEWEST_PROCESSES = 3  # of which an interval is made; of two it would be wide beyond use


def median_interval(
    samples: ArrayLike,
    turns: ArrayLike | None = None,
    processes: Mapping[int, int] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % interval of a median, in the samples' own unit; None of one sample, or one turn.

    Where a program's memory comes to lie makes a difference that stays for as long as its process does, so with three
    processes or more it is Student's t over the medians of the processes, on the logarithm, about the median of all.
    Else it is a percentile bootstrap over turns, or over samples where there are no turns.

    Args:
        samples: (n,) values; positive where there are processes.
        turns: (n,) the turn each was measured in. Samples of one turn stand close together in time, and a machine's
            speed wanders, so they are not independent: whole turns are drawn then, each by its median.
        processes: Turn -> the process that ran it.
        draws, seed: Of the bootstrap.
    """
    if turns is not None and processes is not None and len(set(processes.values())) >= FEWEST_PROCESSES:
        whole = np.asarray(samples, dtype=float)
        medians = turn_medians(whole, [processes[int(turn)] for turn in np.asarray(turns)])
        low, high = seeds_interval(np.log(medians))
        half = math.exp((high - low) / 2)
        return float(np.median(whole)) / half, float(np.median(whole)) * half
    values = np.asarray(samples, dtype=float) if turns is None else turn_medians(samples, turns)
    if len(values) < 2:
        return None  # it says nothing of how far another would lie from it
    rng = np.random.default_rng(seed)
    medians = np.median(values[rng.integers(len(values), size=(draws, len(values)))], axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def median_ratio(
    new: ArrayLike,
    new_turns: ArrayLike,
    old: ArrayLike,
    old_turns: ArrayLike,
    processes: Mapping[int, int] | None = None,
) -> tuple[float, tuple[float, float] | None]:
    """How much larger one runtime's samples are than another's that took turns with it.

    The medians of each turn are divided, so that what slows the machine for minutes falls out.

    Args:
        new, old: Values.
        new_turns, old_turns: The turn of each; turns that only one of them has are left out.
        processes: Turn -> process, as for `median_interval`; both changed theirs between the same turns.

    Returns:
        Median of the turns' ratios, and its 95 % interval, as `median_interval` makes it.
    """
    shared = np.intersect1d(new_turns, old_turns)
    medians = []
    for values, turns in ((new, new_turns), (old, old_turns)):
        kept = np.isin(turns, shared)
        medians.append(turn_medians(np.asarray(values, dtype=float)[kept], np.asarray(turns)[kept]))
    ratios = medians[0] / medians[1]
    return float(np.median(ratios)), median_interval(ratios, shared if processes else None, processes)


def process_change(new: ArrayLike, old: ArrayLike) -> tuple[float, float]:
    """How much larger the medians of some processes are than those of other processes of another run.

    Args:
        new, old: (n,), (m,) positive values, one per process, at least two of each.

    Returns:
        The ratio of their geometric means, and the two-sided p-value of no change by Welch's t test on the logarithm.
    """
    from scipy.stats import ttest_ind

    logs = [np.log(np.asarray(sample, dtype=float)) for sample in (new, old)]
    ratio = float(np.exp(logs[0].mean() - logs[1].mean()))
    if all(np.ptp(values) == 0 for values in logs):
        return ratio, 1.0 if ratio == 1 else 0.0
    return ratio, float(ttest_ind(*logs, equal_var=False).pvalue)


def median_change(new: ArrayLike, old: ArrayLike, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """How much larger the median of one sample is than that of an independent one.

    Args:
        new, old: (n,), (m,) positive values, one per turn or per question.
        draws, seed: Of the bootstrap.

    Returns:
        The ratio of the medians, and the two-sided p-value of no change: log ratio over its bootstrap standard error,
        against the normal distribution. 1.0 where neither sample varies and the medians are equal.
    """
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    values = [np.asarray(sample, dtype=float) for sample in (new, old)]
    ratio = float(np.median(values[0]) / np.median(values[1]))
    logs = [np.log(np.median(v[rng.integers(len(v), size=(draws, len(v)))], axis=1)) for v in values]
    spread = float(np.hypot(logs[0].std(ddof=1), logs[1].std(ddof=1)))
    if spread == 0:
        return ratio, 1.0 if ratio == 1 else 0.0
    return ratio, float(2 * norm.sf(abs(math.log(ratio)) / spread))


def two_shares(new: tuple[float, int], old: tuple[float, int]) -> tuple[float, tuple[float, float], float]:
    """Difference of two mean scores of different questions, for right/wrong answers.

    Args:
        new, old: Share and count of each.

    Returns:
        new - old, its 95 % interval (Newcombe 1998, method 10, from Wilson's), and the two-sided p-value (pooled z).
    """
    from scipy.stats import binomtest, norm

    (p1, n1), (p2, n2) = new, old
    ends = [binomtest(round(share * count), count).proportion_ci(0.95, method="wilson") for share, count in (new, old)]
    low = p1 - p2 - math.hypot(p1 - ends[0].low, ends[1].high - p2)
    high = p1 - p2 + math.hypot(ends[0].high - p1, p2 - ends[1].low)
    pooled = (p1 * n1 + p2 * n2) / (n1 + n2)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    return p1 - p2, (float(low), float(high)), float(2 * norm.sf(abs(p1 - p2) / error)) if error else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: below 0.05 holds for all of them together, in the order given.

    Source: Holm (1979).
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _bootstrap_means(values: NDArray[np.float64], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    # Resampling n values with replacement is a multinomial over the distinct ones: exact, and small for 0/1 scores.
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 64:
        drawn = rng.multinomial(len(values), counts / len(values), size=draws)
        return np.asarray(drawn @ distinct / len(values))
    return np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)])


def _sign_flip_p(difference: NDArray[np.float64], draws: int, rng: np.random.Generator) -> float:
    observed = float(abs(difference.mean()))
    hits = sum(  # of NumPy's truth values it would be NumPy's number, and no comparison of it JSON's true or false
        bool(abs((difference * rng.choice((-1.0, 1.0), len(difference))).mean()) >= observed - 1e-15)
        for _ in range(draws)
    )
    return (hits + 1) / (draws + 1)


def kl_divergence(reference: ArrayLike, other: ArrayLike) -> float:
    """KL(reference, other) of the softmax of two logit vectors (V,), nats; infinite where a logit is not finite."""
    logits = [np.asarray(values, dtype=np.float64) for values in (reference, other)]
    if not all(np.isfinite(values).all() for values in logits):
        return math.inf
    log_p, log_q = (_log_softmax(values) for values in logits)
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def largest_gap(one: ArrayLike, other: ArrayLike) -> float:
    """Largest absolute difference of two arrays; infinite for other shapes and where a value is not finite.

    Not the bare maximum: `max(0.0, nan)` is 0.0, so a broken model would look like a perfect one.
    """
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a - b).max(initial=0.0))


def finite_or_none(value: float) -> float | None:
    """For JSON, which has no infinity: a figure that is not finite is None."""
    return value if math.isfinite(value) else None


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = logits - logits.max()
    return np.asarray(centred - np.log(np.exp(centred).sum()))
