"""Average normalised Levenshtein similarity of DocVQA: 1 - edits/length, nothing below 0.5, the best reference counts.

Source: Biten et al., "Scene Text Visual Question Answering", arXiv:1905.13648, Eq. (1), threshold 0.5. Case and the
amount of white space do not count; a trailing dot is one edit, as in the official evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.data.scoring import Metric, fold

THRESHOLD = 0.5


def score(prediction: str, answers: Sequence[str]) -> float:
    """The best similarity to a reference; 0.0 for an empty prediction."""
    said = fold(prediction)
    return max((_similarity(said, fold(answer)) for answer in answers), default=0.0) if said else 0.0


def _similarity(said: str, wanted: str) -> float:
    longest = max(len(said), len(wanted))
    if min(len(said), len(wanted)) < THRESHOLD * longest:
        return 0.0  # the lengths alone differ by more than half
    similarity = 1 - levenshtein(said, wanted) / longest
    return similarity if similarity >= THRESHOLD else 0.0


def levenshtein(one: str, other: str) -> int:
    """Least number of characters to insert, delete or replace, in len(one) * len(other) steps."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


METRIC = Metric.of_answers(score)
