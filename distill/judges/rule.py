"""R_acc by rule, for closed answers: the metric of the data set decides.

For open answers a rule hurts (the paper: 82.3 against 84.0 for the untouched student).
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.data import Sample
from edgekit.data.scoring import score_answer
from edgekit.distill.judges import Judge, Verdicts
from edgekit.recipe.per_dataset import Choice


def make(scoring: Choice, *_: object) -> Verdicts:
    """A judge that gives 1 where the metric gives at least one half.

    Args:
        scoring: Name of the metric, or data set -> name.
    """

    def judge(rows: Sequence[tuple[Sample, str]]) -> list[float]:
        return [float(bool(said.strip()) and score_answer(scoring, said, sample) >= 0.5) for sample, said in rows]

    return judge


JUDGE = Judge(make)
