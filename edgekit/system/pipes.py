"""Pipes to processes, read and written with a limit of time and of length."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class Patience:
    """Seconds left to wait; those in which this process was itself stopped, as by Ctrl-Z, do not count."""

    STEP_S = 1.0

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds
        self.endless = math.isinf(seconds)  # nothing is asked of the clock then: questions of a token are many

    def wait(self, reading: Sequence[int], writing: Sequence[int]) -> None:
        """Until one of these descriptors is ready.

        Raises:
            TimeoutError: no seconds are left.
        """
        while True:
            step, start = min(self.STEP_S, max(0.0, self.left_s)), time.monotonic()
            ready, free, _ = select.select(reading, writing, [], step)
            self.left_s -= min(step, time.monotonic() - start)
            if ready or free:
                return
            if self.left_s <= 0.0:
                raise TimeoutError


ROOM = 1 << 20
"""Bytes: what a pipe is made to hold, so that arrays go through it in few pieces; usual are 65,536."""


def widen(descriptor: int) -> None:
    """Make a pipe hold `ROOM` bytes; it stays as it is where the system has no such setting, or no more to give."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, ROOM)


def write_all(descriptor: int, data: ReadableBuffer, patience: Patience) -> None:
    """Write bytes to a pipe whose reader may have stopped reading.

    Raises:
        TimeoutError: the reader did not take them.
        BrokenPipeError: there is none any more.
    """
    os.set_blocking(descriptor, patience.endless)
    left = memoryview(data).cast("B")
    while left:
        if not patience.endless:
            patience.wait([], [descriptor])
        with contextlib.suppress(BlockingIOError):  # less room than a whole piece takes
            left = left[os.write(descriptor, left[:ROOM]) :]


def read_into(descriptor: int, place: WriteableBuffer, patience: Patience) -> None:
    """Fill a piece of memory from a pipe.

    Raises:
        TimeoutError: the bytes did not come.
        EOFError: there are no more.
    """
    left = memoryview(place).cast("B")
    while left:
        if not patience.endless:
            patience.wait([descriptor], [])
        count = os.readv(descriptor, [left])
        if not count:
            raise EOFError
        left = left[count:]


class TooLongError(ValueError):
    """A line without an end."""


class Lines:
    """Lines of a descriptor, read with a limit of time and of length.

    Args:
        descriptor: Of a pipe; the caller closes it.
        longest: Bytes of the longest line that is taken.
    """

    def __init__(self, descriptor: int, longest: int = 1 << 28) -> None:
        self._descriptor, self._longest, self._buffer, self._looked = descriptor, longest, bytearray(), 0

    def read(self, seconds: float) -> bytes | None:
        """The next line without its end; None where there is none any more, half a line included.

        Raises:
            TimeoutError: none came in so many seconds.
            TooLongError: the line is longer than is taken.
        """
        patience = Patience(seconds)
        while (end := self._buffer.find(b"\n", self._looked)) < 0:
            self._looked = len(self._buffer)
            if self._looked > self._longest:
                raise TooLongError(f"a line of more than {self._longest:,} bytes")
            patience.wait([self._descriptor], [])
            data = os.read(self._descriptor, 1 << 16)
            if not data:
                return None
            self._buffer += data
        line, self._looked = bytes(self._buffer[:end]), 0
        del self._buffer[: end + 1]
        return line

    def take(self, most: int, seconds: float) -> bytes:
        """Some bytes, as they are; none where there are no more. Raises TimeoutError as `read`."""
        if not self._buffer:
            Patience(seconds).wait([self._descriptor], [])
            return os.read(self._descriptor, most)
        data, self._looked = bytes(self._buffer[:most]), 0
        del self._buffer[:most]
        return data
