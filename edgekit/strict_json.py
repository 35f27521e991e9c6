"""JSON of strangers, read within bounds: size, depth, and what JSON itself leaves open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 16 << 20
"""Of a configuration; the largest known, of a tokenizer with many added tokens, have some 1 MB."""
MOST_DEPTH = 64


def loads(data: bytes, *, exact: bool = False) -> Any:
    """A JSON value.

    Args:
        data: UTF-8.
        exact: Also refuse what JSON does not have or leaves open: NaN and infinities, numbers that become one, and a
            key that stands twice in an object.

    Raises:
        ValueError: not JSON, or nested more than MOST_DEPTH deep.
    """
    hooks: dict[str, Any] = {}
    if exact:
        hooks = {"parse_constant": _no_constant, "parse_float": _finite, "object_pairs_hook": _once}
    try:
        value = json.loads(data.decode("utf-8"), **hooks)
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from None
    _check_depth(value)
    return value


def read(path: Path, *, most_bytes: int = MOST_BYTES, exact: bool = False) -> Any:
    """The JSON value of a file.

    Args:
        path: A regular file; a pipe or a device would never end.
        most_bytes: A larger one is refused unread.
        exact: As for `loads`.

    Raises:
        ValueError: as for `loads`, too large, or no regular file.
        OSError: cannot be read.
    """
    return loads(read_bytes(path, most_bytes), exact=exact)


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """A regular file of bounded size; errors as of `read`."""
    if not path.is_file():
        raise ValueError("it is no regular file" if path.exists() else "it is not there")
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"it has {size:,} bytes, and no more than {most_bytes:,} are read")
    return path.read_bytes()


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands twice in an object")
    return found


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        level = [one for one in inner if isinstance(one, (dict, list))]
