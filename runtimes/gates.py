"""Gates a bundle is held to, and the one-line verdict for CI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.recipe.model import Gates
from edgekit.report.model import Row


def failures(rows: Sequence[Row], gates: Gates) -> list[str]:
    """Every gate that some bundle misses; a bundle that could not be measured misses all of them.

    Args:
        rows: The reference's row is not held to anything, nor is one that was measured elsewhere.
        gates: Absent gates hold.
    """
    found = []
    for row in rows:
        if row.target == "checkpoint" or row.origin is not None:
            continue
        if row.status == "failed":
            found.append(f"{row.name} was not measured")
            continue
        found += [f"{row.name}: {text}" for text in _missed(row, gates)]
    return found


def _missed(row: Row, gates: Gates) -> list[str]:
    drop = None if row.accuracy_delta is None else -100 * row.accuracy_delta
    checks: list[tuple[str, Any, Any, bool]] = [
        ("accuracy drop in points", drop, gates.max_drop, True),
        ("TTFT ms", row.ttft_ms, gates.max_ttft_ms, True),
        ("decode tokens/s", row.decode_tokens_per_s, gates.min_decode, False),
        ("bytes", row.size_bytes, gates.max_size, True),
        ("bytes of memory", row.peak_memory_bytes, gates.max_memory, True),
    ]
    missed = []
    for name, value, gate, upper in checks:
        if gate is None:
            continue
        if row.timing_note is not None and name in ("TTFT ms", "decode tokens/s"):
            missed.append(f"{name} cannot be judged here, timings are not representative, gate {gate:g}")
        elif value is None:
            missed.append(f"{name} unknown, gate {gate:g}")
        elif (value > gate) if upper else (value < gate):
            missed.append(f"{name} {value:.4g}, gate {gate:g}")
    return missed
