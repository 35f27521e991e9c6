"""From raw samples to the rows of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgekit.report.model import Interval, Row, SpeedTest, Stretch
from edgekit.runtimes.measure import Measured
from edgekit.stats import holm, median_interval, median_ratio, paired, score_interval

METHODS = {
    "accuracy": "95 % Wilson interval; BCa bootstrap for graded scores",
    "against PyTorch": "difference on the same questions; 95 % paired percentile bootstrap, 10,000 draws; exact "
    "McNemar p-value (paired permutation for graded scores), adjusted by Holm for all rows compared",
    "latency": "medians over the questions; 95 % by Student's t over the medians of the processes, on the logarithm; "
    "with fewer than 3 processes a percentile bootstrap over the medians of the turns, 2,000 draws",
    "ratio to PyTorch": "median of the ratios within each turn; 95 % as for latency",
    "speed tests": "mean and standard deviation over the repetitions, as llama-bench",
}

OF_WORKER = (
    "load_ms", "load_warm_ms", "image_tokens", "peak_memory_bytes",
    "timing_note", "mean_kl", "top1_agreement", "margin_at_difference", "pixel_max_abs",
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """What a row's numbers are made of, by turn.

    Attributes:
        answers: Of one subject.
    """

    answers: Sequence[dict[str, Any]]

    def values(self, key: str) -> list[float]:
        """One value per question."""
        return [float(item[key]) for item in self.answers]

    @property
    def turns(self) -> list[int]:
        """The turn of each question."""
        return [int(item["turn"]) for item in self.answers]

    @property
    def processes(self) -> dict[int, int]:
        """Turn -> the process that ran it."""
        return {int(item["turn"]): int(item.get("process", 0)) for item in self.answers}

    def gaps(self) -> tuple[list[float], list[int]]:
        """Every inter-token time in milliseconds, and its turn."""
        pairs = [(gap, item["turn"]) for item in self.answers for gap in item["itl_ms"]]
        return [gap for gap, _ in pairs], [turn for _, turn in pairs]

    def not_positive(self) -> int:
        """How many times to the first token, prefills and times between tokens are not above 0."""
        times = [*self.values("ttft_ms"), *self.values("prefill_ms"), *self.gaps()[0]]
        return sum(not 0 < one < math.inf for one in times)

    def median(self, key: str) -> float:
        """Over the questions."""
        return float(np.median(self.values(key)))

    def interval(self, key: str) -> Interval | None:
        """Of that median; None after a single turn."""
        return median_interval(self.values(key), self.turns, self.processes)


def fill(row: Row, measured: Measured, base: Measured | None) -> Row:
    """A row with what was measured.

    Args:
        row: Names and size.
        measured: Of its subject.
        base: Of the reference; None for the reference itself and where there is none.
    """
    if measured.problem is not None:
        return replace(row, status="failed", reason=measured.problem)
    own = Figures(measured.answers)
    told: dict[str, Any] = {key: measured.figures.get(key) for key in OF_WORKER}
    if measured.figures.get("verified_by") == "evaluator":
        row = replace(row, verified_by="evaluator")
    row = replace(
        _latencies(_scores(replace(row, **told), own), own),
        energy_j_per_answer=None if measured.joules is None else measured.joules / len(measured.answers),
        tests=tuple(_speed_test(name, given) for name, given in measured.speeds.items()),
        sustained=tuple(Stretch(**stretch) for stretch in measured.sustained),
    )
    return row if base is None else _against(row, own, Figures(base.answers))


def adjust(rows: Sequence[Row]) -> list[Row]:
    """Rows with p-values adjusted for their number."""
    compared = [row for row in rows if row.accuracy_p is not None]
    adjusted = iter(holm([row.accuracy_p for row in compared if row.accuracy_p is not None]))
    return [row if row.accuracy_p is None else replace(row, accuracy_p_holm=next(adjusted)) for row in rows]


def _scores(row: Row, own: Figures) -> Row:
    scores = np.array(own.values("score"))
    return replace(row, n=len(scores), accuracy=float(scores.mean()), accuracy_ci95=score_interval(scores))


def _latencies(row: Row, own: Figures) -> Row:
    if wrong := own.not_positive():
        # Nothing can be said of how long something took by a clock that stood still, or jumped.
        why = f"{wrong} of its times are not above 0: the machine's clock stood still or jumped"
        return replace(row, timing_note=why)
    speeds = [1000 * item["prompt_tokens"] / item["prefill_ms"] for item in own.answers]
    row = replace(
        row,
        prompt_tokens=own.median("prompt_tokens"),
        preprocess_ms=own.median("preprocess_ms"),
        image_encode_ms=own.median("image_encode_ms"),
        image_encode_ms_ci95=own.interval("image_encode_ms"),
        prefill_ms=own.median("prefill_ms"),
        first_token_ms=own.median("first_token_ms"),
        ttft_ms=own.median("ttft_ms"),
        ttft_ms_ci95=own.interval("ttft_ms"),
        prefill_tokens_per_s=float(np.median(speeds)),
    )
    gaps, turns = own.gaps()
    if not gaps:
        return row
    p50, p95, p99 = (float(value) for value in np.quantile(gaps, (0.5, 0.95, 0.99)))
    return replace(
        row,
        decode_tokens_per_s=1000 / p50,
        decode_tokens_per_s_ci95=_rate(median_interval(gaps, turns, own.processes), 1000),
        itl_ms_p50=p50,
        itl_ms_p95=p95,
        itl_ms_p99=p99,
    )


def _against(row: Row, own: Figures, base: Figures) -> Row:
    shared = min(len(own.answers), len(base.answers))  # all of them, but where a bench was ended early
    own, base = Figures(own.answers[:shared]), Figures(base.answers[:shared])
    gain = paired(own.values("score"), base.values("score"))
    row = replace(
        row,
        accuracy_delta=gain.delta,
        accuracy_delta_ci95=gain.ci95,
        accuracy_p=gain.p_value,
        token_agreement=_agreement(own.answers, base.answers),
    )
    if own.not_positive() or base.not_positive():
        return row
    ttft, ttft_ci95 = median_ratio(own.values("ttft_ms"), own.turns, base.values("ttft_ms"), base.turns, own.processes)
    row = replace(row, ttft_ratio=ttft, ttft_ratio_ci95=ttft_ci95)
    (gaps, turns), (base_gaps, base_turns) = own.gaps(), base.gaps()
    if not set(turns) & set(base_turns):
        return row
    slower, slower_ci95 = median_ratio(gaps, turns, base_gaps, base_turns, own.processes)
    return replace(row, decode_ratio=1 / slower, decode_ratio_ci95=_rate(slower_ci95, 1))


def _rate(times: Interval | None, unit: float) -> Interval | None:
    """The interval of a speed, from that of the time it takes."""
    return None if times is None else (unit / times[1], unit / times[0])


def _agreement(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> float:
    """Share of the reference's tokens that come before the first difference, over all questions."""
    equal = total = 0
    for one, other in zip(ours, theirs, strict=True):
        total += len(other["token_ids"])
        for a, b in zip(one["token_ids"], other["token_ids"], strict=False):
            if a != b:
                break
            equal += 1
    return equal / total


def _speed_test(name: str, given: list[float] | str) -> SpeedTest:
    unit: Literal["tokens/s", "images/s"] = "images/s" if name == "img" else "tokens/s"
    if not given:
        given = "the bench was ended before it"
    if isinstance(given, str):
        return SpeedTest(name, unit, reason=given)
    sd = float(np.std(given, ddof=1)) if len(given) > 1 else None
    return SpeedTest(name, unit, float(np.mean(given)), sd, tuple(given))
