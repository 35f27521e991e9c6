"""Metrics: one file each, holding a `METRIC`."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.data import Sample
from edgekit.recipe.per_dataset import Choice, entries, pick
from edgekit.registry import Registry


@dataclass(frozen=True)
class Metric:
    """How a predicted answer is scored.

    Attributes:
        score: (prediction, answers, question) -> a score in [0, 1]; `answers` are all accepted references, at least
            one.
    """

    score: Callable[[str, Sequence[str], str], float]

    @classmethod
    def of_answers(cls, score: Callable[[str, Sequence[str]], float]) -> Metric:
        """A metric that does not read the question."""

        def of_both(prediction: str, answers: Sequence[str], _: str = "") -> float:
            return score(prediction, answers)

        return cls(of_both)


SCORING: Registry[Metric] = Registry("edgekit.data.scoring", "metric", "Metric", "METRIC")
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
    return float(metric.score(prediction, sample.answers, sample.text))


def fold(text: str) -> str:
    """Lower case, composed (NFC), white space folded: what every metric sees as the same text."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())
