"""Checkpoint folders whose safetensors file claims what is not there."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile.changes import Change, deep

WEIGHTS = "model.safetensors"
HUGE, FAR = 1 << 40, (1 << 64) - 1
Entries = dict[str, dict[str, Any]]


def cases() -> Iterator[tuple[str, Change]]:
    """Name and change of each."""
    yield from ((f"weights {name}", _put(data)) for name, data in _documents())
    for size in (0, 1, 99, 100_000_001, 1 << 31, HUGE, 1 << 62, FAR):
        yield f"a header of {size} bytes", _change(lambda data, size=size: struct.pack("<Q", size) + data[8:])
    for share in (0.01, 0.5, 0.99):
        yield f"weights cut at {share}", _change(lambda data, share=share: data[: int(share * len(data))])
    for name, edit in _headers().items():
        yield name, _change(lambda data, edit=edit: _edited(data, edit))


def _documents() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "garbage", b"\xff" * 5000
    yield "of eight bytes", struct.pack("<Q", 8)
    for name, text in (
        ("a header deep", deep(100_000)), ("a header of 50 MB", '{"a":"' + "x" * 50_000_000 + '"}'),
        ("a header of 20 MB of lists", "[" + "[]," * 6_000_000 + "[]]"), ("a header a list", "[1]"),
        ("a header null", "null"),
        ("a header of 300,000 tensors", _many(300_000)),
    ):  # fmt: skip
        yield name, struct.pack("<Q", len(text)) + text.encode()


def _many(count: int) -> str:
    return json.dumps({f"t{at}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for at in range(count)})


def _headers() -> dict[str, Callable[[Entries], None]]:
    """Entries of the first tensor that cannot be."""

    def first(entries: Entries) -> dict[str, Any]:
        return entries[min(name for name in entries if name != "__metadata__")]

    def set_to(key: str, value: Any) -> Callable[[Entries], None]:
        return lambda entries: first(entries).__setitem__(key, value)

    return {
        **{f"offsets {value}": set_to("data_offsets", value)
           for value in ([0, HUGE], [HUGE, 0], [FAR - 3, FAR], [-1, 4], [1, 0], [0], "x", None, [0.5, 1.5])},
        **{f"sizes {value}": set_to("shape", value)
           for value in ([HUGE, HUGE], [FAR, FAR], [-1], [0], "x", None, [1] * 1000, [1.5])},
        **{f"type {value}": set_to("dtype", value) for value in ("F33", "", 7, None, "I64", "F64")},
        "an entry a list": lambda entries: entries.__setitem__("more", [1]),  # type: ignore[call-overload]
        "metadata a list": lambda entries: entries.__setitem__("__metadata__", [1]),  # type: ignore[call-overload]
        "no tensors": lambda entries: entries.clear(),
    }  # fmt: skip


def _edited(data: bytes, edit: Callable[[Entries], None]) -> bytes:
    (size,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + size])
    edit(entries)
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _put(data: bytes) -> Change:
    return _change(lambda _: data)


def _change(make: Callable[[bytes], bytes]) -> Change:
    def change(folder: Path) -> None:
        path = folder / WEIGHTS
        path.write_bytes(make(path.read_bytes()))

    return change
