"""Metrics: one file each, holding `score(prediction, answer) -> float` in [0, 1]."""

from __future__ import annotations

from edgekit.registry import Registry

SCORING = Registry("edgekit.data.scoring", "metric")
