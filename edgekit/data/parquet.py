"""Parquet: one file, or a folder of shards, read by record batches; images as paths, bytes or {"bytes", "path"}."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgekit.data import BadRow, Sample, make_sample
from edgekit.errors import DataError

BATCH = 256


def claims(spec: str) -> bool:
    """Whether the spec is a .parquet file, or a folder that holds some and no metadata.jsonl."""
    path = Path(spec)
    if path.is_dir():
        return not (path / "metadata.jsonl").exists() and any(path.glob("*.parquet"))
    return spec.lower().endswith(".parquet") and path.is_file()


def rows(spec: str) -> Iterator[Sample | BadRow]:
    """Samples in the order of the files' names and of their rows; ids are `file-ROW` unless the row has one."""
    path = Path(spec)
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        yield from _file_rows(file)


def _file_rows(path: Path) -> Iterator[Sample | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as stored:
            for batch in stored.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    location = f"{path} row {number}"
                    yield make_sample(row, ident=f"{path.stem}-{number}", location=location, base=path.parent)
    except (pa.ArrowInvalid, OSError) as error:
        if number == 0:
            raise DataError(f"Cannot read {path}.", why=str(error).strip()) from error
        yield BadRow(f"{path} after row {number}", f"cannot be read further: {error}")
