"""JSON within bounds: size, depth, and what JSON itself leaves open."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.strict_json import MOST_BYTES, MOST_DEPTH, loads, read, read_bytes

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_what_json_writes_is_read(value: Any) -> None:
    data = json.dumps(value).encode()
    assert loads(data) == value and loads(data, exact=True) == value


def test_bounds_are_those_of_the_docs() -> None:
    assert (MOST_BYTES, MOST_DEPTH) == (16 * 1024 * 1024, 64)


def test_depth() -> None:
    def nested(levels: int) -> bytes:
        return b"[" * levels + b"]" * levels

    assert loads(nested(MOST_DEPTH)) and loads(b'{"a":' * (MOST_DEPTH - 1) + b"[]" + b"}" * (MOST_DEPTH - 1))
    for levels in (MOST_DEPTH + 1, 500, 100_000):
        with pytest.raises(ValueError, match=f"nested more than {MOST_DEPTH} deep"):
            loads(nested(levels))
        with pytest.raises(ValueError, match=f"nested more than {MOST_DEPTH} deep"):
            loads(b'{"a":' * levels + b"1" + b"}" * levels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[NaN]", "NaN is no JSON"), ("[-Infinity]", "-Infinity is no JSON"), ("[1e999]", "1e999 is too large"),
        ("[-1e999]", "-1e999 is too large"), ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        ('{"x": {"k": 1, "k": 1}}', "'k' stands twice"),
        ('{"a": 1, "b": 2, "b": 3}', "'b' stands twice"),
    ],
)  # fmt: skip
def test_what_is_open_is_refused_where_it_counts(text: str, said: str) -> None:
    loads(text.encode())
    with pytest.raises(ValueError) as caught:
        loads(text.encode(), exact=True)
    assert said in str(caught.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[1, 2.5]")
    assert read(path, most_bytes=8) == [1, 2.5] and read_bytes(path, 8) == b"[1, 2.5]"
    with pytest.raises(ValueError, match="it has 8 bytes, and no more than 7 are read"):
        read(path, most_bytes=7)
    with pytest.raises(ValueError, match="it is not there"):
        read(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        with pytest.raises(ValueError, match="it is no regular file"):
            read(tmp_path / name)
    path.write_bytes(b"[NaN]")
    assert len(read(path)) == 1
    with pytest.raises(ValueError, match="no JSON"):
        read(path, exact=True)
