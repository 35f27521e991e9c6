"""Judges give R_acc: 1 for a right response, 0 for a wrong, irrelevant, repetitive or empty one (MASTERS Eq. 6).

Each file holds `make(scoring) -> Judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# (question, reference answer, response) of many responses -> 0.0 or 1.0 for each.
Judge = Callable[[Sequence[tuple[str, str, str]]], list[float]]
