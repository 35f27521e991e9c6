"""JSONL: one JSON object a line, UTF-8; image paths start from the file's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.data import BadRow, Sample, make_sample

SUFFIXES = (".jsonl", ".ndjson")


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


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(line number from 1, object) of each line that is not blank, read one line at a time."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            location = f"{path}:{number}"
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield number, BadRow(location, f"not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}")
                continue
            if not text:
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield number, BadRow(location, f"not valid JSON: {error}")
                continue
            if not isinstance(value, dict):
                yield number, BadRow(location, f"not a JSON object but {type(value).__name__}")
                continue
            yield number, value
