"""Rows of devices that came by themselves, from values worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.devices import Errand, Visit
from edgekit.errors import EdgekitError
from edgekit.report.model import Row
from edgekit.runtimes import guests
from edgekit.runtimes.measure import Measured, Settings

NAMED = Row("0" * 64, "onnx-int8", "onnxruntime", "onnx", "int8", "web", "ok", size_bytes=7)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    rows = [
        {"id": f"q{n}", "messages": [{"role": "user", "content": f"{n}?"}], "answer": answer}
        for n, answer in enumerate(("yes", "no", "red", "yes"))
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Settings(str(tmp_path / "q.jsonl"), limit=4)


def said(text: str, ids: list[int]) -> dict[str, Any]:
    return {
        "text": text, "token_ids": ids, "prompt_tokens": 20, "preprocess_ms": 1.0, "image_encode_ms": 2.0,
        "prefill_ms": 4.0, "first_token_ms": 0.5, "itl_ms": [10.0] * (len(ids) - 1),
    }  # fmt: skip


def reference(*answers: list[int]) -> Measured:
    found = Measured("reference")
    for ids in answers:
        one = {**said("", ids), "turn": 0, "score": 1.0, "ttft_ms": 3.75}
        found.answers.append(one)
    return found


def test_answers_are_scored_here_and_compared_with_the_reference(settings: Settings) -> None:
    """Three of the bench's four questions; the last answer wrong, its second token another one."""
    visit = Visit(
        0, "Pixel 8, Chrome 126", {"browser": "Chrome 126"}, runtime="onnxruntime-web (wasm, 1 thread)",
        self_test="passed: 9 checks", answers=[said("yes", [5, 2]), said("no", [6, 2]), said("blue", [8, 9, 2])],
        figures={"load_ms": 30.0, "peak_memory_bytes": 1000},
    )  # fmt: skip
    (found,) = guests.rows([visit], [NAMED], settings, reference([5, 2], [6, 2], [8, 7, 2], [5, 2]))
    row = found.row
    assert (row.device, row.runtime, row.verified_by, row.status) == (
        "Pixel 8, Chrome 126", "onnxruntime-web (wasm, 1 thread)", "device", "ok",
    )  # fmt: skip
    assert row.n == 3 and row.accuracy == pytest.approx(2 / 3) and row.accuracy_delta == pytest.approx(-1 / 3)
    assert row.token_agreement == pytest.approx(5 / 7)
    assert row.ttft_ms == 7.5 and row.itl_ms_p50 == 10.0 and row.decode_tokens_per_s == 100.0
    assert row.prefill_tokens_per_s == 5000.0 and row.load_ms == 30.0 and row.peak_memory_bytes == 1000
    assert row.self_test == "passed: 9 checks" and row.size_bytes == 7
    assert row.ttft_ratio is None and row.decode_ratio is None
    assert [one["id"] for one in found.measured.answers] == ["q0", "q1", "q2"]


def test_a_visit_that_failed_is_a_failed_row(settings: Settings) -> None:
    visits = [
        Visit(0, "iPhone, Safari 18", {}, problem="its page was closed", runtime="onnxruntime-web"),
        Visit(0, "empty", {}),
    ]
    gone, empty = guests.rows(visits, [NAMED], settings, None)
    assert (gone.row.status, gone.row.reason, gone.row.runtime) == ("failed", "its page was closed", "onnxruntime-web")
    assert gone.row.accuracy is None and gone.measured.answers == []
    assert (empty.row.status, empty.row.reason) == ("failed", "it answered nothing")


def test_where_nobody_can_be_asked_every_bundle_has_a_row(settings: Settings) -> None:
    class Guests:
        def describe(self) -> dict[str, Any]:
            return {}

        def gather(self, errand: Errand, visits: list[Visit]) -> None:
            assert errand.limit == 4 and errand.max_new_tokens == 16
            visits.append(Visit(1, "web", {}, problem="no ONNX"))
            raise EdgekitError("Cannot listen.", why="The port is taken.")

    visits: list[Visit] = []
    guests.gather(Guests(), [Path("a"), Path("b")], settings, visits, "web")
    assert [(one.bundle, one.problem) for one in visits] == [(1, "no ONNX"), (0, "Cannot listen. The port is taken.")]
    guests.gather(Guests(), [], settings, visits, "web")
    assert len(visits) == 2
