"""docs/pins.md names every package of the targets, with the pin of constraints.txt and why it is held."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from packaging.version import Version
from scripts import script

pins = script("pins")
DAY, ROWS = pins.documented()


def test_every_package_of_a_target_has_a_row_and_a_pin() -> None:
    wanted = pins.requirements()
    assert {"torch", "transformers", "onnxruntime", "executorch", "coremltools", "coreai-opt", "gguf"} <= set(wanted)
    assert sorted(pins.canonicalize_name(row.name) for row in ROWS) == sorted(wanted)
    assert set(wanted) <= set(pins.pins())
    date.fromisoformat(DAY)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_tells_the_pin_and_why_it_is_held(row: Any) -> None:
    name = pins.canonicalize_name(row.name)
    assert row.pinned == pins.pins()[name]
    assert all(Version(row.pinned) in one.specifier for one in pins.requirements()[name])
    assert Version(row.newest) >= Version(row.pinned)
    if row.newest == row.pinned:
        assert row.reason == "newest"
    else:
        assert len(row.reason.split()) >= 8, "a held pin needs its reason, and what moving costs"


def test_what_is_newer_than_the_table_is_named() -> None:
    rows = [pins.Row("a_b", "1.0", "1.1", "held")]
    assert pins.unexplained({"a-b": "1.1"}, rows) == []
    assert pins.unexplained({"a-b": "1.10"}, rows) == ["a-b: 1.10 is there, docs/pins.md tells of 1.1"]
    assert pins.unexplained({"c": "2"}, rows) == ["c: 2 is there, docs/pins.md tells of none"]
