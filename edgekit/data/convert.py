"""Samples of any form into edgekit's own: `messages`, `images`, `answer` or `answers`, `id`, `dataset`.

JSONL or Parquet by the file's suffix, written row by row and aside, so that the file is whole or not there.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.data import ImageRef, Sample
from edgekit.data.jsonl import LONGEST_LINE_BYTES, SUFFIXES
from edgekit.errors import DataError
from edgekit.files import new_file
from edgekit.visible import json_text

GROUP_ROWS, GROUP_BYTES = 512, 64 << 20
"""A Parquet row group is closed at so many rows, or bytes of images."""
_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}

Append = Callable[[Sample], None]


@dataclass
class Writing:
    """A file that is being written.

    Attributes:
        add: Appends a sample; a DataError where the form cannot hold it.
        kept: Whether the file is to take its name at the end.
    """

    add: Append
    kept: bool = True


@contextmanager
def writing(path: Path) -> Iterator[Writing]:
    """A data file to fill, which takes its name when the block ends well and `kept` is still set.

    Args:
        path: .jsonl, .ndjson or .parquet; a file of that name is replaced.

    Raises:
        DataError: another suffix, or a folder has that name.
        StorageError: it cannot be written.
    """
    begin = _KINDS.get(path.suffix.lower())
    if begin is None:
        raise DataError(f"Cannot write {path}: it ends neither in .jsonl nor in .parquet.", fix="Name it so.")
    if path.is_dir():
        raise DataError(f"Cannot write {path}: it is a folder.", fix="Name a file.")
    with new_file(path) as aside:
        with begin(aside) as add:
            out = Writing(add)
            yield out
        if not out.kept:
            aside.unlink()


@contextmanager
def _jsonl(aside: Path) -> Iterator[Append]:
    base = aside.parent.resolve()
    with aside.open("wb") as stream:

        def add(sample: Sample) -> None:
            images = [_path(ref, base) or _data_uri(ref) for ref in sample.images]
            line = json_text({**_common(sample), "images": images}).encode() + b"\n"
            if len(line) > LONGEST_LINE_BYTES:
                raise DataError(f"{sample.location}: a line of {len(line):,} bytes", fix="Write .parquet instead.")
            stream.write(line)

        yield add


@contextmanager
def _parquet(aside: Path) -> Iterator[Append]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    turn = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = ("id", "messages", "images", "answer", "answers", "dataset")
    kinds = (pa.string(), pa.list_(turn), pa.list_(image), pa.string(), pa.list_(pa.string()), pa.string())
    schema, base = pa.schema(list(zip(names, kinds, strict=True))), aside.parent.resolve()
    rows: list[dict[str, Any]] = []
    held = 0
    # Small pages: whoever reads the file then holds few images at a time.
    pages: dict[str, Any] = {"write_batch_size": 16, "data_page_size": 1 << 20}
    with pq.ParquetWriter(aside, schema, compression="zstd", use_dictionary=False, **pages) as writer:

        def flush() -> None:
            nonlocal held
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()
            held = 0

        def add(sample: Sample) -> None:
            nonlocal held
            common = _common(sample)
            if more := {key for message in common["messages"] for key in message} - {"role", "content"}:
                raise DataError(
                    f"{sample.location}: a message has {sorted(more)[0]!r}, for which Parquet has no column here.",
                    fix="Write .jsonl instead.",
                )
            rows.append({**common, "images": [{"bytes": r.data, "path": _path(r, base)} for r in sample.images]})
            held += sum(len(ref.data or b"") for ref in sample.images)
            if len(rows) == GROUP_ROWS or held > GROUP_BYTES:
                flush()

        yield add
        flush()


_KINDS: dict[str, Callable[[Path], AbstractContextManager[Append]]] = {
    **dict.fromkeys(SUFFIXES, _jsonl),
    ".parquet": _parquet,
}


def _common(sample: Sample) -> dict[str, Any]:
    """The fields but the images; one reference as `answer`, several as `answers`."""
    row: dict[str, Any] = {"id": sample.id, "messages": sample.messages}
    if len(sample.answers) > 1:
        row["answers"] = list(sample.answers)
    else:
        row["answer"] = sample.answer
    return {**row, "dataset": sample.dataset} if sample.dataset is not None else row


def _path(ref: ImageRef, base: Path) -> str | None:
    """An image's file as the row names it: from the new file's folder where it lies below that, else absolute."""
    if ref.path is None:
        return None
    path = ref.path.absolute()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _data_uri(ref: ImageRef) -> str:
    data = ref.data or b""
    kind = next((kind for start, kind in _TYPES.items() if data.startswith(start)), "x-unknown")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
