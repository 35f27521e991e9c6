"""Regressions from one report to the next: found where they are, and not where they are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import api
from edgekit.errors import DataError
from edgekit.report.compare import compare
from edgekit.report.files import Measured, read_measured
from edgekit.report.model import Report, Row
from edgekit.report.write import write_report

ROW = Row(
    "b" * 64, "onnx-int8", "onnxruntime", "onnx", "int8", "host", "ok", n=200, accuracy=0.8, ttft_ms=10.0,
    ttft_ms_ci95=(9.8, 10.2), peak_memory_bytes=100, size_bytes=50,
)  # fmt: skip


def samples(right: int, ttft: float, seed: int) -> list[dict[str, Any]]:
    """200 answers in 20 turns, the first so many of them right."""
    noise = np.random.default_rng(seed).lognormal(0, 0.05, 200)
    return [
        {
            "bundle": ROW.bundle, "name": ROW.name, "runtime": ROW.runtime, "device": "host", "id": str(n),
            "turn": n // 10, "score": float(n < right), "ttft_ms": ttft * noise[n], "itl_ms": [ttft / 5 * noise[n]],
        }
        for n in range(200)
    ]  # fmt: skip


def measured(right: int = 160, ttft: float = 10.0, seed: int = 0, **changes: Any) -> Measured:
    row = replace(ROW, accuracy=right / 200, ttft_ms=ttft, decode_tokens_per_s=5000 / ttft, **changes)
    report = Report(2, "d", "exact", 1, {"cpu": "x"}, (row,))
    return Measured(report, {("onnx-int8", "onnxruntime", "host"): samples(right, ttft, seed)})


def worse(old: Measured, new: Measured) -> list[str]:
    return [change.figure for change in compare(old, new) if change.regression]


def test_the_same_again_is_no_regression() -> None:
    assert worse(measured(seed=0), measured(seed=1)) == []


def test_each_figure_that_got_worse_is_found_alone() -> None:
    assert worse(measured(), measured(right=140)) == ["accuracy"]
    assert worse(measured(), measured(ttft=12.0, seed=1)) == ["TTFT ms", "decode tokens/s"]
    assert worse(measured(), measured(peak_memory_bytes=120)) == ["memory bytes"]
    assert worse(measured(), measured(size_bytes=54)) == ["size bytes"]
    assert worse(measured(), measured(size_bytes=52)) == []  # 4 % is within the tolerance
    assert worse(measured(right=140, ttft=12.0), measured(seed=1)) == []  # better is no regression


def test_a_tiny_change_is_not_worth_a_failure() -> None:
    """2 % slower is beyond doubt with these samples, and below the tolerance."""
    old, new = measured(ttft=10.0), measured(ttft=10.2)
    change = next(change for change in compare(old, new, tolerance=0.0) if change.figure == "TTFT ms")
    assert change.change == "+2.0 %"
    assert "TTFT ms" not in worse(old, new)


def test_a_single_turn_each_proves_nothing_of_speed() -> None:
    old, new = measured(), measured(ttft=12.0)
    for one in (old, new):
        for items in one.raw.values():
            for item in items:
                item["turn"] = 0
    change = next(change for change in compare(old, new) if change.figure == "decode tokens/s")
    assert (change.p, change.method) == (None, "no interval")


def test_processes_are_what_is_compared_where_there_are_some() -> None:
    """10 % slower in every turn is beyond doubt among turns, and nothing where processes lie 20 % apart."""
    old, new = measured(seed=0), measured(ttft=11.0, seed=1)
    assert "TTFT ms" in worse(old, new)
    for one in (old, new):
        for items in one.raw.values():
            for item in items:
                item["process"] = item["turn"] // 4
                slow = 1 + 0.2 * (item["process"] % 2)
                item["ttft_ms"], item["itl_ms"] = item["ttft_ms"] * slow, [gap * slow for gap in item["itl_ms"]]
    change = next(change for change in compare(old, new) if change.figure == "TTFT ms")
    assert change.method.startswith("medians of the processes") and change.p is not None and change.p > 0.05
    assert "TTFT ms" not in worse(old, new)
    assert "TTFT ms" in worse(old, measured_in_processes(ttft=20.0))


def measured_in_processes(ttft: float) -> Measured:
    found = measured(ttft=ttft, seed=2)
    for items in found.raw.values():
        for item in items:
            item["process"] = item["turn"] // 4
    return found


def test_one_question_lost_is_chance() -> None:
    change = compare(measured(), measured(right=159))[0]
    assert (change.figure, change.verdict, change.p) == ("accuracy", "same", 1.0)
    assert change.method.startswith("same questions")


def test_without_samples_the_intervals_are_used() -> None:
    old, new = (Measured(one.report, {}) for one in (measured(), measured(right=140)))
    change = compare(old, new)[0]
    assert change.method.startswith("as if of other questions") and change.verdict == "worse"
    slow = Measured(measured(ttft=13.0, ttft_ms_ci95=(12.7, 13.3)).report, {})
    assert worse(old, slow) == ["TTFT ms"]
    vague = Measured(measured(ttft=13.0, ttft_ms_ci95=(7.0, 24.0)).report, {})
    assert worse(old, vague) == []


def test_a_row_that_is_gone_or_fails_is_a_regression() -> None:
    old = measured()
    gone = Measured(replace(old.report, rows=()), {})
    failed = Measured(replace(old.report, rows=(replace(ROW, status="failed", reason="boom"),)), {})
    assert [(change.figure, change.change) for change in compare(old, gone)] == [("status", "ok -> not measured")]
    assert compare(old, failed)[0].change == "ok -> failed: boom" and worse(failed, failed) == []


def test_the_call_and_its_files(tmp_path: Path) -> None:
    for name, one in (("old", measured()), ("new", measured(right=120))):
        write_report(one.report, tmp_path / name, next(iter(one.raw.values())))
    found = api.compare(tmp_path / "old", tmp_path / "new" / "report.json")
    assert found.regressions == 1 and found.verdict.startswith("FAIL: onnx-int8: accuracy -20.00 points")
    assert api.compare(tmp_path / "old", tmp_path / "old").verdict.startswith("PASS")
    lines = (tmp_path / "new" / "results.jsonl").read_text().replace("b" * 64, "c" * 64)
    (tmp_path / "new" / "results.jsonl").write_text(lines)  # samples of another bundle prove nothing
    assert read_measured(tmp_path / "new").raw == {}
    (tmp_path / "bad.json").write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(Exception, match="not a valid report"):
        read_measured(tmp_path / "bad.json")
    with pytest.raises(DataError, match="Cannot read the report"):
        read_measured(tmp_path / "none.json")
