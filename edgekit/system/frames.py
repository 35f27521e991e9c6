"""Messages of arrays between two processes: four bytes of length, a JSON header of that length, the arrays' bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Fill = Callable[[Any], None]
"""Fills a bytearray or an array with the next bytes; EOFError where there are no more."""
LENGTH = struct.Struct("<I")
SMALL = 1 << 16  # bytes that go in one write: a reader that wakes up finds all of them


def pack(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
    """A message, as pieces of memory to write one after the other.

    Args:
        header: JSON-able.
        arrays: By name, in any order; of any dtype NumPy has a name for.
    """
    plain = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    listed = {name: [str(array.dtype), list(array.shape)] for name, array in plain.items()}
    head = json.dumps({**header, "arrays": listed}).encode()
    pieces: list[Any] = [LENGTH.pack(len(head)) + head]
    pieces += [array.reshape(-1).view(np.uint8) for array in plain.values() if array.size]
    return [b"".join(pieces)] if sum(array.nbytes for array in plain.values()) <= SMALL else pieces


def unpack(fill: Fill) -> tuple[dict[str, Any], Arrays]:
    """The next message's header and arrays.

    Raises:
        EOFError: there is none, or half of one.
    """
    size = bytearray(LENGTH.size)
    fill(size)
    head = bytearray(*LENGTH.unpack(size))
    fill(head)
    header = json.loads(head)
    arrays: Arrays = {}
    for name, (dtype, shape) in header.pop("arrays").items():
        arrays[name] = np.empty(shape, np.dtype(dtype))
        if arrays[name].size:
            fill(arrays[name].reshape(-1).view(np.uint8))
    return header, arrays


def numbered(arrays: Sequence[NDArray[Any]]) -> Arrays:
    """Arrays in order as a message holds them, by names that nobody reads."""
    return {str(number): array for number, array in enumerate(arrays)}


def filled_from(stream: BinaryIO) -> Fill:
    """What reads messages of a stream."""

    def fill(place: Any) -> None:
        left = memoryview(place)
        while left:
            count = stream.readinto(left)  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            left = left[count:]

    return fill


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a message to a stream."""
    for piece in pack(header, arrays):
        stream.write(piece)
    stream.flush()
