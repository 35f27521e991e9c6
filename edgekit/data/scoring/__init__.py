"""Metrics: one file each, holding `score(prediction, answers) -> float` in [0, 1].

`answers` are all accepted references of the question, at least one; a metric of closed answers takes the best match. A
metric that must read the question as well says `USES_QUESTION = True` and takes it as a third argument.
"""

from __future__ import annotations

import unicodedata

from edgekit.choice import Choice, entries, pick
from edgekit.data import Sample
from edgekit.registry import Registry

SCORING = Registry("edgekit.data.scoring", "metric")
KEY = "data.scoring"


def check_metrics(choice: Choice) -> None:
    """Import every metric of a choice, before anything is answered.

    Raises:
        EdgekitError: no such metric.
    """
    for _, name in entries(choice, KEY):
        SCORING.load(name)


def score_answer(choice: Choice, prediction: str, sample: Sample) -> float:
    """What a prediction is worth by the metric chosen for the sample's data set.

    Args:
        choice: `data.scoring` of a recipe.
        prediction: What a model said.
        sample: The question with its references.
    Returns:
        A score in [0, 1].
    Raises:
        DataError: no metric is chosen for this data set.
        EdgekitError: no such metric.
    """
    metric = SCORING.load(pick(choice, sample.dataset, KEY))
    if getattr(metric, "USES_QUESTION", False):
        return float(metric.score(prediction, sample.answers, sample.text))
    return float(metric.score(prediction, sample.answers))


def fold(text: str) -> str:
    """Lower case, composed (NFC), white space folded: what every metric sees as the same text."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())
