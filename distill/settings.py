"""What `probe` and the plan of `distill` are told beside a model and a recipe; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How a teacher is probed."""

    questions: int = 512
    """How many, drawn uniformly."""
    step: float = 0.05
    """Between ratios, in (0, 1)."""
    max_drop: float = 2.0
    """Accuracy that may be lost before the cliff, points of 100."""
    scope: str = "all"
    """Which linear layers: all, language or vision."""
    exclude: str | Iterable[str] | None = None
    """One pattern or several of weight names to leave whole."""
    seed: int = 0
    """Of the draw."""
    max_new_tokens: int = 16
    """Longest answer."""
    threads: int | None = None
    """CPU threads; torch's choice when None."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What an estimate of a run takes for given."""

    flops: float | None = None
    """FLOP/s that a large matrix product reaches on one device; measured on this machine when None."""
    response_tokens: float | None = None
    """Mean tokens of a response; `max_new_tokens`, the most there can be, when None."""
    distinct_responses: float | None = None
    """Mean number of different ones among the responses to a question; all of them when None."""
    processes: int = 1
    """Processes that share the work, one per GPU."""
