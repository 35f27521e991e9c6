"""Two reports side by side: what got significantly worse.

Rows are matched by name, runtime and device. Where both reports have their raw samples beside them, accuracies are
compared question by question and latencies by the medians of their processes, or turns; else by the intervals that the
rows hold. p-values are adjusted by Holm over all comparisons of the call. A latency must also be worse by more than a
tolerance: with enough samples a change too small to matter is significant too. Memory and size are one number each, and
are held to the tolerance alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.report.files import Measured
from edgekit.report.model import Interval, Row
from edgekit.stats import FEWEST_PROCESSES, holm, median_change, paired, process_change, turn_medians, two_shares

ALPHA = 0.05
TOLERANCE = 0.05
LEAST = 1e-9
"""Of a figure that another is divided by, in its own unit: what a broken clock leaves is none."""
MOST_TURNS = 10_000
"""Of a row; beyond, drawing from them would take minutes."""
MOST_REASON = 300
"""Characters of a failed row's reason."""


@dataclass(frozen=True)
class Change:
    """One figure of one row, then and now.

    Attributes:
        row: Name of the row.
        figure: What.
        old, new: Values; None where it was not there.
        change: For people: points, or percent.
        p: Adjusted p-value of no change; None where there is nothing to test.
        method: How it was tested.
        verdict: What it means.
    """

    row: str
    figure: str
    old: float | None
    new: float | None
    change: str
    p: float | None
    method: str
    verdict: str

    @property
    def regression(self) -> bool:
        """Whether it got worse."""
        return self.verdict == "worse"


def key(row: Row) -> tuple[str, str, str]:
    """What makes a row the same one in two reports."""
    return row.name, row.runtime, row.device


def compare(old: Measured, new: Measured, *, tolerance: float = TOLERANCE) -> list[Change]:
    """Every figure of every row that is in both reports, and rows that were lost.

    Args:
        old, new: Reports.
        tolerance: Share that a latency, a speed, memory or size may get worse.
    """
    now = {key(row): row for row in new.report.rows}
    changes: list[Change] = []
    for before in old.report.rows:
        after = now.get(key(before))
        if after is None or (after.status == "failed" and before.status == "ok"):
            why = "not measured" if after is None else f"failed: {str(after.reason)[:MOST_REASON]}"
            changes.append(Change(before.name, "status", None, None, f"ok -> {why}", None, "", "worse"))
        elif before.status == "ok":
            samples = (old.raw.get(key(before), []), new.raw.get(key(after), []))
            changes += _row(before, after, samples, tolerance)
    adjusted = iter(holm([change.p for change in changes if change.p is not None]))
    changes = [change if change.p is None else replace(change, p=next(adjusted)) for change in changes]
    return [_judged(change, tolerance) for change in changes]


def notes(old: Measured, new: Measured, changes: Sequence[Change]) -> list[str]:
    """What to keep in mind when reading the comparison."""
    found = []
    if old.report.data != new.report.data or old.report.scoring != new.report.scoring:
        found.append("The questions or the metric differ, so accuracies are not comparable.")
    if old.report.machine != new.report.machine:
        found.append("The machines differ, so latencies say little of the bundles.")
    if old.report.threads != new.report.threads:
        found.append(f"{old.report.threads} thread(s) then, {new.report.threads} now.")
    reference = {row.name for row in new.report.rows if row.target == "checkpoint"}
    if any(c.row in reference and c.verdict != "same" and c.figure.endswith("ms") for c in changes):
        found.append("The PyTorch reference itself changed its speed; the ratios to PyTorch do not feel that.")
    return found


def _row(before: Row, after: Row, samples: tuple[list[Any], list[Any]], tolerance: float) -> list[Change]:
    changes: list[Change | None] = [_accuracy(before, after, *samples)]
    for figure, field, upper in (("TTFT ms", "ttft_ms", True), ("decode tokens/s", "decode_tokens_per_s", False)):
        changes.append(_speed(figure, before, after, field, samples, upper))
    for figure, field, upper in (("TTFT / PyTorch", "ttft_ratio", True), ("decode / PyTorch", "decode_ratio", False)):
        changes.append(_ratio(figure, before, after, field, upper))
    for figure, field in (("memory bytes", "peak_memory_bytes"), ("size bytes", "size_bytes")):
        changes.append(_plain(figure, before, after, field, tolerance))
    return [change for change in changes if change is not None]


def _accuracy(before: Row, after: Row, old: list[Any], new: list[Any]) -> Change | None:
    if before.accuracy is None or after.accuracy is None or not before.n or not after.n:
        return None
    then, now = ({str(item["id"]): float(item["score"]) for item in items} for items in (old, new))
    shared = sorted(set(then) & set(now))
    if shared and len(shared) == len(then) == len(now):
        gain = paired([now[name] for name in shared], [then[name] for name in shared])
        delta, ci, p, method = gain.delta, gain.ci95, gain.p_value, "same questions, McNemar or permutation"
    else:
        delta, ci, p = two_shares((after.accuracy, after.n), (before.accuracy, before.n))
        method = "as if of other questions, Newcombe interval, pooled z"
    text = f"{100 * delta:+.2f} points [{100 * ci[0]:+.2f}, {100 * ci[1]:+.2f}]"
    return Change(before.name, "accuracy", before.accuracy, after.accuracy, text, p, method, _way(delta, False))


def _speed(
    figure: str, before: Row, after: Row, field: str, samples: tuple[list[Any], list[Any]], upper: bool
) -> Change | None:
    then, now = getattr(before, field), getattr(after, field)
    if not _divisible(then, now):
        return None
    if all(samples):
        ran = [_medians(items, field, "process") for items in samples]
        if all(len(values) >= FEWEST_PROCESSES for values in ran):
            ratio, chance = process_change(ran[1], ran[0])
            ratio = ratio if upper else 1 / ratio
            method = "medians of the processes, Welch's t on the logarithm"
            return Change(before.name, figure, then, now, _percent(ratio), chance, method, _way(ratio - 1, upper))
        mine = [_medians(items, field, "turn") for items in samples]
        if all(1 < len(values) <= MOST_TURNS for values in mine):  # one says nothing of how far turns lie apart
            # Tokens per second are compared by the milliseconds behind them.
            ratio, chance = median_change(mine[1], mine[0])
            ratio = ratio if upper else 1 / ratio
            method = "medians of the turns, bootstrap standard error"
            return Change(before.name, figure, then, now, _percent(ratio), chance, method, _way(ratio - 1, upper))
    p = _p_of_intervals(then, getattr(before, f"{field}_ci95"), now, getattr(after, f"{field}_ci95"))
    method = "from the rows' intervals" if p is not None else "no interval"
    return Change(before.name, figure, then, now, _percent(now / then), p, method, _way(now / then - 1, upper))


def _ratio(figure: str, before: Row, after: Row, field: str, upper: bool) -> Change | None:
    then, now = getattr(before, field), getattr(after, field)
    if not _divisible(then, now):
        return None
    p = _p_of_intervals(then, getattr(before, f"{field}_ci95"), now, getattr(after, f"{field}_ci95"))
    text, way = _percent(now / then), _way(now / then - 1, upper)
    method = "from the rows' intervals" if p is not None else "no interval"
    return Change(before.name, figure, then, now, text, p, method, way)


def _plain(figure: str, before: Row, after: Row, field: str, tolerance: float) -> Change | None:
    then, now = getattr(before, field), getattr(after, field)
    if not _divisible(then, now):
        return None
    way = _way(now / then - 1, True) if abs(now / then - 1) > tolerance else "same"
    return Change(before.name, figure, then, now, _percent(now / then), None, "tolerance only", way)


def _divisible(then: float | None, now: float | None) -> bool:
    return then is not None and now is not None and min(then, now) > LEAST


def _medians(items: list[Any], field: str, unit: str) -> list[float]:
    """Milliseconds of each turn or process: TTFT, or the time between tokens."""
    usual = itertools.count() if unit == "turn" else itertools.repeat(0)
    units = [item.get(unit, other) for item, other in zip(items, usual, strict=False)]
    if field == "ttft_ms":
        pairs = [(float(item["ttft_ms"]), place) for item, place in zip(items, units, strict=True)]
    else:
        pairs = [(float(gap), place) for item, place in zip(items, units, strict=True) for gap in item["itl_ms"]]
    if not pairs:
        return []
    medians = [float(value) for value in turn_medians([value for value, _ in pairs], [turn for _, turn in pairs])]
    return medians if min(medians) > LEAST else []  # a clock that stood still or jumped says nothing


def _p_of_intervals(then: float, old: Interval | None, now: float, new: Interval | None) -> float | None:
    """p-value of no change from two 95 % intervals, taken as normal on the logarithm."""
    from scipy.stats import norm

    if old is None or new is None or min(*old, *new) <= 0:
        return None
    spread = math.hypot(*(math.log(high / low) / (2 * 1.959964) for low, high in (old, new)))
    if spread == 0:
        return 1.0 if now == then else 0.0
    return float(2 * norm.sf(abs(math.log(now / then)) / spread))


def _judged(change: Change, tolerance: float) -> Change:
    """The verdict, once the p-value is adjusted."""
    if change.method in ("", "tolerance only"):
        return change
    if change.p is None or change.p >= ALPHA:
        return replace(change, verdict="same")
    if change.figure != "accuracy" and change.old and change.new and abs(change.new / change.old - 1) <= tolerance:
        return replace(change, verdict="same")
    return change


def _way(gain: float, upper: bool) -> str:
    """Which way a figure moved; `upper` where more of it is worse."""
    if gain == 0:
        return "same"
    return "worse" if (gain > 0) == upper else "better"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"
