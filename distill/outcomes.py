"""What came out of the arms of an ablation, and which differences are more than chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.distill.arms import BASELINE, LABELS
from edgekit.stats import holm, paired, seeds_interval

LEVEL = 0.05
Scores = NDArray[np.float64]
"""(seeds, questions)."""


@dataclass(frozen=True)
class Difference:
    """An arm's accuracy minus that of plain distillation, in shares of 1.

    Attributes:
        gain: Mean difference to the run of the same seed.
        over_questions: 95 % paired interval for these seeds and other questions.
        over_seeds: 95 % t interval for other seeds and these questions; None with one seed.
        p_value: Of no difference, two-sided: the larger one of that over questions and that over seeds, since both
            must show it; None with one seed.
        p_holm: The same after Holm over the arms.
    """

    gain: float
    over_questions: tuple[float, float]
    over_seeds: tuple[float, float] | None
    p_value: float | None = None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """better, worse or open: both intervals must exclude 0, and Holm's p-value be below 0.05."""
        if self.over_seeds is None or self.p_holm is None:
            return ""
        bounds, sure = [self.over_questions, self.over_seeds], self.p_holm < LEVEL
        if sure and all(low > 0 for low, _ in bounds):
            return "better"
        return "worse" if sure and all(high < 0 for _, high in bounds) else "open"


@dataclass(frozen=True)
class Outcome:
    """What came out of one arm.

    Attributes:
        name, title: Of the arm.
        accuracy: Per seed, in [0, 1].
        mean: Over the seeds.
        steps: Student updates of one seed.
        teacher_forwards: Responses that went through a teacher during training, of one seed.
        over_plain: Difference to plain JSD; None for plain JSD.
        over_labels: Difference to JSD + labels; None for the two and where that arm was not run.
        better_than_both: Whether it is better than plain distillation without and with labels; None where one of them
            is missing.
        retention: Change of the accuracy on `data.retention`, mean over the seeds, and its 95 % interval over
            questions; None without such questions.
        learning_rate: Chosen for it on held-out questions; None where none was asked for.
        tried: Learning rate -> accuracy on these, in [0, 1]; None where the loss was no number any more.
    """

    name: str
    title: str
    accuracy: tuple[float, ...]
    mean: float
    steps: int
    teacher_forwards: int
    over_plain: Difference | None = None
    over_labels: Difference | None = None
    better_than_both: bool | None = None
    retention: tuple[float, float, float] | None = None
    learning_rate: float | None = None
    tried: Mapping[str, float | None] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For report.json; the difference to plain JSD lies flat, as it always did."""
        value = dataclasses.asdict(self)
        value.pop("over_plain")
        empty = dict.fromkeys(("gain", "over_questions", "over_seeds", "p_value", "p_holm"))
        plain = dataclasses.asdict(self.over_plain) if self.over_plain else empty
        if self.over_labels:
            value["over_labels"]["verdict"] = self.over_labels.verdict
        return {**value, **plain, "verdict": self.over_plain.verdict if self.over_plain else ""}


def difference(ours: Scores, plain: Scores) -> Difference:
    """Paired over questions and over seeds; not yet corrected for the other arms.

    Args:
        ours, plain: Of the same seeds and questions.
    """
    per_seed = (ours - plain).mean(1)
    questions = paired(ours.mean(0), plain.mean(0))
    if len(per_seed) < 2:
        return Difference(float(per_seed.mean()), questions.ci95, None)
    p_value = max(questions.p_value, _p_over_seeds(per_seed))
    return Difference(float(per_seed.mean()), questions.ci95, seeds_interval(per_seed), p_value)


def _p_over_seeds(per_seed: NDArray[np.float64]) -> float:
    """Student's t test of no mean difference, two-sided."""
    from scipy.stats import ttest_1samp

    if np.ptp(per_seed) == 0:
        return 1.0 if per_seed[0] == 0 else 0.0
    return float(ttest_1samp(per_seed, 0.0).pvalue)


def after_holm(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same differences, each with its p-value after Holm over all of them."""
    p_values = [one.p_value for one in found.values() if one.p_value is not None]
    if len(p_values) < len(found):
        return dict(found)
    adjusted = holm(p_values)
    return {name: dataclasses.replace(one, p_holm=p) for (name, one), p in zip(found.items(), adjusted, strict=True)}


def compared(scores: Mapping[str, Scores]) -> tuple[dict[str, Difference], dict[str, Difference], dict[str, bool]]:
    """All arms beside plain distillation.

    Better than both is an arm that is better than each after Holm, and so is the larger one of its two p-values after
    Holm over the arms: then one arm in twenty tables at most is called so that is not.

    Args:
        scores: Arm -> its scores, plain JSD's among them.

    Returns:
        Arm -> its difference to plain JSD; arm -> that to JSD + labels; arm -> better than both. The latter two are
        empty without that arm.
    """
    others = [name for name in scores if name != BASELINE]
    plain = after_holm({name: difference(scores[name], scores[BASELINE]) for name in others})
    if LABELS not in scores:
        return plain, {}, {}
    others.remove(LABELS)
    labels = after_holm({name: difference(scores[name], scores[LABELS]) for name in others})
    pairs = [(plain[name].p_value, labels[name].p_value) for name in others]
    weaker = [1.0 if p is None or q is None else max(p, q) for p, q in pairs]
    both = {
        name: p < LEVEL and plain[name].verdict == labels[name].verdict == "better"
        for name, p in zip(others, holm(weaker), strict=True)
    }
    return plain, labels, both
