"""R_acc by rule, for closed answers: the metric of the data set decides.

For open answers a rule hurts (the paper: 82.3 against 84.0 for the untouched student).
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.data.scoring import SCORING
from edgekit.distill.judges import Judge


def make(scoring: str) -> Judge:
    """A judge that gives 1 where the metric gives at least one half.

    Args:
        scoring: Name of the metric.
    """
    score = SCORING.load(scoring).score

    def judge(rows: Sequence[tuple[str, str, str]]) -> list[float]:
        return [float(bool(said.strip()) and score(said, reference) >= 0.5) for _, reference, said in rows]

    return judge
