"""Do the terms of the loss pull the same way? Norms of their gradients and the angle between objective and policy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "gradient_"


def term_gradients(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, float]:
    """For the log: the norm of each term's gradient, and the cosine between those of objective and policy.

    Args:
        terms: Name -> scalar, over a graph that is kept; those that no parameter takes part in have a gradient of 0.
        parameters: Of the student; frozen ones are left out.
    """
    trained = [one for one in parameters if one.requires_grad]
    found = {name: _gradient(term, trained) for name, term in terms.items()}
    values = {f"{PREFIX}{name}": math.sqrt(_dot(one, one)) for name, one in found.items()}
    if "policy" in found:
        product = values[f"{PREFIX}objective"] * values[f"{PREFIX}policy"]
        # A gradient of 0 has no direction.
        cosine = _dot(found["objective"], found["policy"]) / product if product else 0.0
        values[f"{PREFIX}cosine"] = cosine
    return {name: round(value, 6) for name, value in values.items()}


def _gradient(term: Tensor, trained: Sequence[nn.Parameter]) -> list[Tensor | None]:
    if not term.requires_grad:
        return [None] * len(trained)
    return list(torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True))


def _dot(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    pairs = zip(one, other, strict=True)
    return math.fsum(float((a.double() * b.double()).sum()) for a, b in pairs if a is not None and b is not None)


def at_war(row: Mapping[str, Any]) -> bool:
    """Whether the policy's gradient is above the objective's and against it, by what was logged."""
    size = row.get(f"{PREFIX}policy", 0.0)
    return bool(size > row.get(f"{PREFIX}objective", 0.0) and row.get(f"{PREFIX}cosine", 0.0) < 0)


def training_summary(logs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What the logs of a run's teacher stages say of rewards and gradients, for its manifest.

    Args:
        logs: For each teacher stage its rows, as Trainer logs them; a row's means are over the steps
            since the one before.

    Returns:
        `no_advantage` and `cancelled`, shares of the groups, where rewards were used; `gradients` where measured.
    """
    found: dict[str, Any] = {}
    for name in ("no_advantage", "cancelled"):
        told = [(row[name], steps) for log in logs for row, steps in _with_steps(log) if name in row]
        if total := sum(steps for _, steps in told):
            found[name] = round(math.fsum(value * steps for value, steps in told) / total, 6)
    rows = [row for log in logs for row in log if f"{PREFIX}policy" in row]
    if rows:
        keys = ("objective", "policy", "kl", "cosine")
        means = {key: round(math.fsum(row[f"{PREFIX}{key}"] for row in rows) / len(rows), 6) for key in keys}
        found["gradients"] = {"measured": len(rows), "at_war": sum(map(at_war, rows)), "means": means}
    return found


def _with_steps(log: Sequence[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], int]]:
    """Rows of the loss with the steps each is a mean over."""
    rows = [row for row in log if "loss" in row]
    steps = [0, *(int(row["step"]) for row in rows)]
    return zip(rows, (b - a for a, b in itertools.pairwise(steps)), strict=True)
