"""Exact match for closed answers, after trimming, lower-casing and dropping trailing dots."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.data.scoring import Metric, fold


def normalise(text: str) -> str:
    """Trimmed, lower case, inner white space folded, trailing dots dropped ("Yes." is "yes")."""
    return fold(text).rstrip(".").rstrip()


def score(prediction: str, answers: Sequence[str]) -> float:
    """1.0 when the prediction is the same text as a reference after `normalise`; an empty one is never right."""
    said = normalise(prediction)
    return float(bool(said) and any(said == normalise(answer) for answer in answers))


METRIC = Metric.of_answers(score)
