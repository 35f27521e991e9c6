"""Parquet and the `datasets` library: damage, memory, and what is left unread."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.data import BadRow, Sample, datasets, open_data, samples
from edgekit.errors import DataError


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "PNG")
    return stream.getvalue()


def table(count: int, first: int = 0) -> pa.Table:
    return pa.table({"question": [f"q{i}" for i in range(first, first + count)], "answer": ["a"] * count})


def described(spec: Path | str) -> list[str]:
    return [row.text if isinstance(row, Sample) else f"{row.location}: {row.reason}" for row in open_data(str(spec))]


# ------------------------------------------------------------------------------------------------------------- Parquet


def test_one_row_that_is_not_utf8(tmp_path: Path) -> None:
    stored = pa.array([b"one", b"\xff\xfe", b"three"]).buffers()
    text = pa.StringArray.from_buffers(3, stored[1], stored[2])
    pq.write_table(pa.table({"question": text, "answer": ["a", "b", "c"]}), tmp_path / "q.parquet")
    one, bad, three = described(tmp_path / "q.parquet")
    assert (one, three) == ("one", "three")
    assert bad.startswith(f"{tmp_path / 'q.parquet'} row 2: cannot be read: 'utf-8' codec")


def test_a_damaged_row_group_does_not_stop_the_next(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    with pq.ParquetWriter(path, table(1).schema, compression="snappy") as writer:
        for group in range(3):
            writer.write_table(table(20, 20 * group))
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    broken = bytearray(path.read_bytes())
    broken[start : start + 40] = b"\xff" * 40
    path.write_bytes(broken)
    read = described(path)
    assert read[:20] == [f"q{i}" for i in range(20)]
    assert read[20].startswith(f"{path} rows 21 to 40: cannot be read: ")
    assert read[21:] == [f"q{i}" for i in range(40, 60)]
    assert [row.id for row in open_data(str(path)) if isinstance(row, Sample)][20] == "q-41"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"hello" * 100])
def test_what_is_no_parquet(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "q.parquet"
    path.write_bytes(content)
    (bad,) = open_data(str(path))
    assert isinstance(bad, BadRow) and bad.location == str(path) and bad.reason.startswith("cannot be read: ")


def test_foreign_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"asked": ["q"], "label": ["a"]}), tmp_path / "q.parquet")
    (bad,) = described(tmp_path / "q.parquet")
    assert bad.endswith("none of its columns is question, messages, or of another form that is read")


def test_files_still_being_written_are_not_shards(tmp_path: Path) -> None:
    pq.write_table(table(1), tmp_path / "0.parquet")
    (tmp_path / ".1.parquet").write_bytes(b"half")
    (tmp_path / "_2.parquet").write_bytes(b"half")
    assert described(tmp_path) == ["q0"]


def test_shards_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (7, 3, 9, 0, 5, 1, 8, 2, 6, 4):
        pq.write_table(table(1, number), tmp_path / f"{number}.parquet")
    assert described(tmp_path) == [f"q{i}" for i in range(10)]


def test_messages_with_images(tmp_path: Path) -> None:
    """As TRL stores them: every part of the column has all keys."""
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]
    row = {"messages": [{"role": "user", "content": parts}], "images": [{"bytes": png(), "path": None}], "answer": "a"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    (sample,) = samples(str(tmp_path / "q.parquet"))
    assert sample.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "what?"}]
    assert sample.images[0].open().size == (8, 6)
    json.dumps(sample.messages)


def test_parquet_is_never_whole_in_memory(tmp_path: Path) -> None:
    """40 MB of images in two row groups: neither the file, nor a group, nor a large batch is held."""
    path = tmp_path / "q.parquet"
    schema = pa.schema([("question", pa.string()), ("image", pa.binary()), ("answer", pa.string())])
    rows = [{"question": "q", "image": os.urandom(50_000), "answer": "a"}] * 400
    pages: dict[str, Any] = {"write_batch_size": 8, "data_page_size": 200_000}
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, **pages) as writer:
        for _ in range(2):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    usual, watched = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(watched)
    try:
        assert sum(1 for _ in open_data(str(path))) == 800
    finally:
        pa.set_memory_pool(usual)
    assert path.stat().st_size > 40_000_000
    assert 500_000 < watched.max_memory() < 8_000_000


def test_a_column_nobody_asks_for_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    pq.write_table(table(20).append_column("other", pa.array([str(i) for i in range(20)])), path)
    start = pq.ParquetFile(path).metadata.row_group(0).column(2).data_page_offset
    broken = bytearray(path.read_bytes())
    broken[start : start + 40] = b"\xff" * 40
    path.write_bytes(broken)
    with pytest.raises(OSError, match=r".+"):
        pq.read_table(path)
    assert described(path) == [f"q{i}" for i in range(20)]


SOUND = io.BytesIO()
pq.write_table(table(40), SOUND)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, len(SOUND.getvalue()) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(SOUND.getvalue())),
)
def test_damaged_bytes_never_raise(tmp_path: Path, changes: list[tuple[int, int]], length: int) -> None:
    content = bytearray(SOUND.getvalue())
    for place, value in changes:
        content[place] = value
    (tmp_path / "q.parquet").write_bytes(content[: length or None])
    for row in itertools.islice(open_data(str(tmp_path / "q.parquet")), 1000):
        assert isinstance(row, (Sample, BadRow))


# ------------------------------------------------------------------------------------------------------------ datasets


@pytest.mark.parametrize(
    ("rest", "parts"),
    [
        ("name:train", ("name", None, "train")),
        ("org/name:config:train", ("org/name", "config", "train")),
        ("name:train[:10]", ("name:train[", None, "10]")),
    ],
)
def test_spec(rest: str, parts: tuple[str, str | None, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "name:train[").mkdir()  # a folder's own colons are not separators
    assert datasets._parts(f"datasets:{rest}") == parts


@pytest.mark.parametrize(
    "spec", ["datasets:", "datasets:name", "datasets:name:", "datasets::train", "datasets:n::train"]
)
def test_incomplete_spec(spec: str) -> None:
    with pytest.raises(DataError, match="is not datasets:NAME_OR_FOLDER:SPLIT"):
        open_data(spec)


def test_a_stream_that_breaks_says_after_which_row() -> None:
    def stream() -> Iterator[dict[str, Any]]:
        yield {"question": "one", "answer": "a"}
        yield {"answer": "b"}
        raise RuntimeError("shard 3 is gone\nlong story")

    one, two, end = datasets._rows(stream(), "datasets:n:train", "train", None)
    assert isinstance(one, Sample) and (one.id, one.location) == ("train-1", "datasets:n:train row 1")
    assert two == BadRow("datasets:n:train row 2", "neither 'question' nor 'messages'")
    assert end == BadRow("datasets:n:train after row 2", "cannot be read further: shard 3 is gone")


def test_rows_are_taken_one_at_a_time() -> None:
    taken = []

    def stream() -> Iterator[dict[str, Any]]:
        for number in itertools.count(1):
            taken.append(number)
            yield {"question": "q", "answer": "a"}

    assert len(list(itertools.islice(datasets._rows(stream(), "s", "train", None), 3))) == 3
    assert taken == [1, 2, 3]


def test_a_broken_line_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": "a"}\n{broken\n')
    *_, bad = described(f"datasets:{tmp_path}:train")
    assert "cannot be read further: " in bad and "JSON parse error" in bad


def test_splits(tmp_path: Path) -> None:
    import datasets as library

    stored = library.Dataset.from_dict({"question": ["q"], "answer": ["a"]})
    library.DatasetDict({"train": stored, "test": stored}).save_to_disk(tmp_path / "two")
    assert described(f"datasets:{tmp_path / 'two'}:test") == ["q"]
    with pytest.raises(DataError, match=r"two has no split 'dev'\.\n.*train, test"):
        open_data(f"datasets:{tmp_path / 'two'}:dev")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    with pytest.raises(DataError, match=r"(?s)split 'dev'.*Available splits: \['train'\]"):
        open_data(f"datasets:{tmp_path / 'one'}:dev")


def test_an_imagefolder_by_the_library(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "metadata.csv").write_text("file_name,question,answer,extra\na.png,what?,cat,x\n")
    (sample,) = samples(f"datasets:{tmp_path}:train")
    assert (sample.text, sample.answer, sample.images[0].open().size) == ("what?", "cat", (8, 6))


def test_images_stay_encoded_and_other_columns_unread(tmp_path: Path) -> None:
    import datasets as library

    rows = {"question": ["q"], "images": [[{"bytes": png(), "path": None}] * 2], "answer": ["a"], "other": [b"x"]}
    stored = library.Dataset.from_dict(rows).cast_column("images", library.List(library.Image()))
    stored.to_parquet(tmp_path / "train.parquet")
    stream = datasets._encoded(datasets._open(str(tmp_path), None, "train"))
    assert set(stream.column_names) == {"question", "images", "answer"}
    (row,) = open_data(f"datasets:{tmp_path}:train")
    assert isinstance(row, Sample) and [ref.data for ref in row.images] == [png(), png()]
