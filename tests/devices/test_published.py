"""Predictions against published rows: shapes, the fit, what is held out; the docs show what the code prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.devices import _published, predict
from edgekit.devices._catalogue import catalog
from edgekit.devices._published import CONTEXT, Row, compare, loads, parameters, published
from edgekit.formats.counting import Load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(published().models))
def test_the_shapes_come_to_the_published_parameters(name: str) -> None:
    model = published().models[name]
    assert parameters(model) == pytest.approx(model.parameters, rel=0.01)
    assert model.source.startswith("https://")


def test_loads_by_hand() -> None:
    model = published().models["qwen3-vl-2b"]
    # 28 layers of q and o (2048 x 2048 each), k and v (2048 x 1024 each) and an MLP of 3 x 2048 x 6144.
    body = 28 * (2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144)
    head = 2048 * 151936
    cached = CONTEXT * 28 * 2 * 8 * 128 * 2  # float16
    attention = CONTEXT * 28 * 16 * 128 * 4
    found = loads(model, "q4_0")
    weights = body * 4.5 / 8 + head * 6.5625 / 8
    assert found["decode"] == Load(2 * (body + head) + attention, weights + cached)
    assert found["prefill"].operations == pytest.approx(CONTEXT * (2 * body + attention / 2) + 2 * head)
    assert loads(model, "q8_0")["decode"].bytes == pytest.approx((body + head) * 8.5 / 8 + cached)


def test_states_are_read_and_written() -> None:
    model = published().models["qwen3.5-0.8b"]
    assert model.state_bytes == pytest.approx(18 * 16 * 128 * 128 * 4, rel=0.001)
    plain = loads(replace(model, state_bytes=0), "q4_0")["decode"].bytes
    assert loads(model, "q4_0")["decode"].bytes - plain == pytest.approx(2 * model.state_bytes)


def test_the_shares_are_those_of_the_fitted_rows() -> None:
    fitted = [row for row in published().rows if row.fitted]
    assert {row.phone for row in fitted} == {"galaxy-s25"} and len(fitted) == 2  # the other phone is all held out
    compute, bandwidth = _published.fit()
    assert compute == pytest.approx(predict.CPU_SHARES.compute[1], rel=0.002)
    assert bandwidth == pytest.approx(predict.CPU_SHARES.bandwidth[1], rel=0.002)
    assert {catalog()[row.phone].chip for row in published().rows} == set(predict.CPU_CHECKED)


def test_the_range_holds_what_it_claims() -> None:
    """Eight of ten; the rows are few and alike, so that is asked of those held out and of each test."""
    held = [one for one in compare() if not one.row.fitted]
    assert len(held) == 15
    for test in ("prefill", "decode"):
        inside = [one.inside for one in held if one.test == test]
        assert sum(inside) >= 0.8 * len(inside)


def test_a_row_outside_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("qwen3-vl-2b", "q4_0", "galaxy-s25", decode=470.0)
    monkeypatch.setattr(_published, "published", lambda: _published.Published(published().models, (row, row)))
    one, _ = compare()
    assert not one.inside and one.ratio == pytest.approx(0.102, abs=0.002)
    assert _published._cells(one)[-1] == "held out, outside"


def test_the_docs_show_what_the_code_prints() -> None:
    text = (ROOT / "docs" / "prediction.md").read_text(encoding="utf-8")
    for line in _published.table():
        assert line in text.splitlines(), line
