"""Memory that edgekit and llama.cpp's process both have mapped: logits, and the tokens of a greedy answer.

Through a pipe the logits of a large vocabulary take a tenth of a small model's token, and a pipe's reader wakes up on
its writer's core, in the middle of the next token.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
