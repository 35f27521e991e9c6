"""Exact match for closed answers, after trimming, lower-casing and dropping trailing dots."""

from __future__ import annotations


def normalise(text: str) -> str:
    """Trimmed, lower case, inner white space folded, trailing dots dropped ("Yes." is "yes")."""
    return " ".join(text.lower().split()).rstrip(".").rstrip()


def score(prediction: str, answer: str) -> float:
    """1.0 when both are the same text after `normalise`, else 0.0; an empty prediction is never right."""
    said = normalise(prediction)
    return float(bool(said) and said == normalise(answer))
