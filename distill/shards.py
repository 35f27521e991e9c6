"""Parquet shards of a run: where they lie, whether they are whole, what is missing in them.

A shard is written aside and renamed, so it is whole or not there. What is needed beyond a shard of responses goes into
a further part of it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgekit.distill import processes
from edgekit.files import write_bytes
from edgekit.seal import BLANK, KEY, intact, read_sealed_json, sealed


def shard_path(folder: Path, number: int, part: int = 0) -> Path:
    """File of a shard, or of a further part of it."""
    return folder / f"shard-{number:05d}{f'-part-{part}' if part else ''}.parquet"


def write_shard(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as one sealed file, whole or not at all."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        writer.add_key_value_metadata({KEY: BLANK})
    write_bytes(path, sealed(buffer.getvalue()))


def shard_fault(path: Path) -> str | None:
    """What is wrong with a shard; of one without a seal, whether it can be read at all."""
    data = path.read_bytes()
    if (whole := intact(data)) is None:
        try:
            pq.read_table(io.BytesIO(data))
            whole = True
        except (pa.ArrowException, OSError):
            whole = False
    return None if whole else "it is not what was written there" if data.strip(b"\0") else "it is empty"


def open_shards(folder: Path, cache: Path, schema: pa.Schema | None = None) -> Any:
    """All shards of a folder as one memory-mapped `datasets.Dataset`, in order.

    Args:
        folder: Where they lie.
        cache: Folder for what is mapped.
        schema: Columns to give, null where a shard has none; those of the shards when None.
    """
    from datasets import Dataset, Features, disable_progress_bars

    disable_progress_bars()
    files = [str(path) for path in sorted(folder.glob("shard-*.parquet"))]
    features = Features.from_arrow_schema(schema) if schema is not None else None
    return Dataset.from_parquet(files, features=features, cache_dir=str(cache))


def own_shards(questions: Path) -> list[Path]:
    """Question shards that this process answers: every n-th of n processes, so none is answered twice."""
    return sorted(questions.glob("shard-*.parquet"))[processes.index() :: processes.count()]


def parts_of(folder: Path, shard: Path) -> list[Path]:
    """Files of a pass that answer questions of one question shard."""
    return sorted(folder.glob(f"{shard.stem}.parquet")) + sorted(folder.glob(f"{shard.stem}-part-*.parquet"))


def shard_number(path: Path) -> int:
    """Of a question shard."""
    return int(path.stem.partition("-")[2])


def missing_rows(
    questions: Path, folder: Path, wanted: NDArray[np.int64], *, everywhere: bool = False
) -> dict[Path, list[int]]:
    """Question shard of this process -> places in it of the wanted questions that have no responses yet.

    Args:
        questions: Folder of question shards.
        folder: Folder of one pass's response shards.
        wanted: (n,) rows of questions, counted over all shards.
        everywhere: Look at the shards of all processes.
    """
    size = read_sealed_json(questions / "index.json")["shard"]
    todo: dict[Path, list[int]] = {}
    wanted = np.unique(wanted)
    for path in sorted(questions.glob("shard-*.parquet")) if everywhere else own_shards(questions):
        number = shard_number(path)
        first, after = np.searchsorted(wanted, [number * size, (number + 1) * size])
        places = (wanted[first:after] - number * size).tolist()
        if places and (parts := parts_of(folder, path)):
            answered = {name for part in parts for name in _ids(part, "question_id")}
            ids = _ids(path, "id")
            places = [place for place in places if ids[place] not in answered]
        if places:
            todo[path] = places
    return todo


def _ids(path: Path, column: str) -> list[str]:
    names: list[str] = pq.read_table(path, columns=[column])[column].to_pylist()
    return names
