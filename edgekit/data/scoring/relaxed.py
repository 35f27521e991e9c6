"""Relaxed accuracy of ChartQA: numbers within 5 %, text by exact match.

Source: Masry et al., "ChartQA", arXiv:2203.10244, section 5.1 (after PlotQA). `x%` is x/100; a target of 0, which has
no relative error, and text are compared as text, case and trailing dots aside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from edgekit.data.scoring import Metric, exact

TOLERANCE = Decimal("0.05")
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+(\.\d*)?|\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)


def number(text: str) -> Decimal | None:
    """The number a text is: thousands separators, a sign (also the Unicode minus) and a percent sign are understood.

    Returns:
        The exact decimal value; None for anything else, also for `nan` and `inf`.
    """
    plain = exact.normalise(text).replace("\N{MINUS SIGN}", "-")
    digits = plain.removesuffix("%").rstrip()
    if not _NUMBER.fullmatch(digits):
        return None
    value = Decimal(digits.replace(",", ""))
    return value / 100 if plain.endswith("%") else value


def score(prediction: str, answers: Sequence[str]) -> float:
    """1.0 when the prediction is within 5 % of a numeric reference, bounds included, or the same text as one."""
    return float(any(_right(prediction, answer) for answer in answers))


def _right(prediction: str, answer: str) -> bool:
    said, wanted = number(prediction), number(answer)
    if said is None or not wanted:
        return bool(exact.score(prediction, [answer]))
    return abs(said - wanted) <= TOLERANCE * abs(wanted)


METRIC = Metric.of_answers(score)
