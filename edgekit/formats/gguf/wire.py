"""What passes between edgekit and llama.cpp's process: messages through pipes, and memory that both have mapped.

A message is a line of JSON and then the bytes of its arrays. Logits, and the tokens of a greedy answer, go through the
memory: through a pipe the logits of a large vocabulary take a tenth of a small model's token, and a pipe's reader wakes
up on its writer's core, in the middle of the next token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Arrays = list[NDArray[Any]]
Message = tuple[dict[str, Any], Arrays]


def send(stream: BinaryIO, head: dict[str, Any], arrays: Arrays) -> None:
    """Write one message."""
    contiguous = [np.ascontiguousarray(array) for array in arrays]
    specs = [[array.dtype.str, list(array.shape)] for array in contiguous]
    stream.write(json.dumps({**head, "arrays": specs}).encode() + b"\n")
    for array in contiguous:
        stream.write(array.data.cast("B") if array.size else b"")
    stream.flush()


def receive(stream: BinaryIO) -> Message | None:
    """Read one message; None at the end of the stream."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    head = json.loads(line)
    arrays: Arrays = []
    for dtype, shape in head.pop("arrays"):
        array: NDArray[Any] = np.empty(shape, dtype=np.dtype(dtype))
        view = array.data.cast("B") if array.size else memoryview(b"")
        done = 0
        while done < len(view):
            count = stream.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                return None
            done += count
        arrays.append(array)
    return head, arrays


FAILED, NOT_FINITE = -2, -1  # in the place of a token


class Shared:
    """A file of both processes' memory.

    Attributes:
        logits: float32 (V,).
        enough: int64 (1,), above zero when edgekit wants no more tokens.
    """

    def __init__(self, path: Path, vocab_size: int, steps: int, *, make: bool) -> None:
        """Map the file.

        Args:
            path: Of the file; whoever makes it does so before the other maps it.
            vocab_size: V.
            steps: Tokens of the longest answer.
            make: Make the file, all zero.
        """
        words = 1 + steps
        size = 8 * words + 4 * vocab_size
        # A plain array over it: one number of a memmap costs ten times as much to read.
        whole = np.asarray(np.memmap(path, np.uint8, "w+" if make else "r+", shape=(size,)))
        self.enough, self._steps = whole[:8].view(np.int64), whole[8 : 8 * words].view(np.int64)
        self.logits = whole[8 * words :].view(np.float32)

    def clear(self) -> None:
        """Before a new answer."""
        self.enough[0] = 0
        self._steps[:] = 0

    def put(self, number: int, token: int, seconds: float) -> None:
        """Write an answer's token, FAILED or NOT_FINITE, and how long it took; one store of eight bytes, so that no
        reader sees half of it.
        """
        self._steps[number] = (token - FAILED + 1) << 32 | min(int(1e6 * seconds), 2**32 - 1)

    def take(self, number: int) -> tuple[int, float] | None:
        """The token and its milliseconds; None while it is not there."""
        word = int(self._steps[number])
        return ((word >> 32) + FAILED - 1, (word & 0xFFFFFFFF) / 1000) if word else None
