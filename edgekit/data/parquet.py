"""Parquet: one file, or a folder of shards, read by record batches; images as paths, bytes or {"bytes", "path"}."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.data import BadRow, Sample, Source, make_sample
from edgekit.data.forms import COLUMNS

# Images are large: few rows at a time, and read through a buffer instead of a whole column chunk at once. The least
# that must be held is then one page, which is up to the writer of the file.
BATCH_ROWS = 16
BUFFER_BYTES = 1 << 20


def claims(spec: str) -> bool:
    """Whether the spec is a .parquet file, or a folder that holds some and no metadata.jsonl."""
    path = Path(spec)
    if path.is_dir():
        return not (path / "metadata.jsonl").exists() and bool(_shards(path))
    return spec.lower().endswith(".parquet") and path.is_file()


def rows(spec: str) -> Iterator[Sample | BadRow]:
    """Samples in the order of the files' names and of their rows; ids are `file-ROW` unless the row has one."""
    path = Path(spec)
    for file in _shards(path) if path.is_dir() else [path]:
        yield from _file_rows(file)


def count(spec: str) -> int | None:
    """Rows by the files' own word; None where one is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(spec)
    try:
        return sum(int(pq.read_metadata(file).num_rows) for file in (_shards(path) if path.is_dir() else [path]))
    except (pa.ArrowException, OSError):
        return None


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith((".", "_")))


def _file_rows(path: Path) -> Iterator[Sample | BadRow]:
    for number, row in _stored_rows(path):
        location = f"{path} row {number}"
        if isinstance(row, BadRow):
            yield row
        elif isinstance(row, str):
            yield BadRow(location, row)
        else:
            yield make_sample(row, ident=f"{path.stem}-{number}", location=location, base=path.parent)


def _stored_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str | BadRow]]:
    """(row number from 1, row), or the reason why it cannot be read; a BadRow for a damaged file or row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    damage = (pa.ArrowException, OSError, UnicodeDecodeError)  # the last: names of columns
    try:
        stored = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        columns = [name for name in COLUMNS if name in stored.schema_arrow.names]
    except damage as error:
        yield 0, BadRow(str(path), f"cannot be read: {_first_line(error)}")
        return
    if not columns:
        yield 0, BadRow(str(path), "none of its columns is question, messages, or of another form that is read")
        return
    end = 0
    with stored:
        for group in range(stored.num_row_groups):
            number, end = end, end + stored.metadata.row_group(group).num_rows
            try:
                for batch in stored.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=columns):
                    for i in range(len(batch)):
                        number += 1
                        yield number, _row(batch.slice(i, 1))
            except damage as error:
                yield number, BadRow(f"{path} rows {number + 1} to {end}", f"cannot be read: {_first_line(error)}")


def _row(batch: Any) -> dict[str, Any] | str:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date out of Python's range
        return f"cannot be read: {_first_line(error)}"
    return row


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


SOURCE = Source(claims, rows, count)
