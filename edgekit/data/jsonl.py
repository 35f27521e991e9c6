"""JSONL: one JSON object a line, UTF-8; image paths start from the file's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from edgekit.data import BadRow, Sample, Source, make_sample
from edgekit.errors import DataError

SUFFIXES = (".jsonl", ".ndjson")
LONGEST_LINE_BYTES = 64 << 20


def claims(spec: str) -> bool:
    """Whether the spec is a file with a JSONL suffix."""
    return spec.lower().endswith(SUFFIXES) and Path(spec).is_file()


def rows(spec: str) -> Iterator[Sample | BadRow]:
    """Samples in the order of the file; ids are `line-N` unless the row has one; blank lines are skipped."""
    path = Path(spec)
    for number, value in objects(path):
        location = f"{path}:{number}"
        if isinstance(value, BadRow):
            yield value
        else:
            yield make_sample(value, ident=f"line-{number}", location=location, base=path.parent)


def count(spec: str) -> int:
    """Lines of the file, blank ones too."""
    with Path(spec).open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b"")) + 1


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(line number from 1, object) of each line that is not blank, read one line at a time.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"Cannot read {path}.", why=str(error)) from error
    with stream:
        for number, raw in enumerate(_lines(stream), 1):
            value = _object(raw, first=number == 1)
            if value is not None:
                yield number, BadRow(f"{path}:{number}", value) if isinstance(value, str) else value


def _lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Lines; None in the place of one longer than LONGEST_LINE_BYTES, which is read past and not kept."""
    while raw := stream.readline(LONGEST_LINE_BYTES + 1):
        if len(raw) <= LONGEST_LINE_BYTES:
            yield raw
            continue
        while raw and not raw.endswith(b"\n"):
            raw = stream.readline(1 << 20)
        yield None


def _object(raw: bytes | None, *, first: bool) -> dict[str, Any] | str | None:
    """The object of a line, the reason why there is none, or None for a blank line."""
    if raw is None:
        return f"the line is longer than {LONGEST_LINE_BYTES:,} bytes"
    try:
        text = raw.decode("utf-8-sig" if first else "utf-8").strip()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
    if not text:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        return f"not valid JSON: {error}"
    return value if isinstance(value, dict) else f"not a JSON object but {type(value).__name__}"


SOURCE = Source(claims, rows, count)
