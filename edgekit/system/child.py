"""Processes of edgekit's own that end with the one that started them, however that one ends.

The starter keeps the writing end of a pipe, and nobody ever writes. When the starter ends, by SIGKILL too, the kernel
closes it, and a thread of the child that waits for this end of file kills the child; so it is for grandchildren, and on
macOS as on Linux. A child whose starter ended before it came up finds the pipe closed. On Linux the kernel is asked
besides for a signal at the starter's end (PR_SET_PDEATHSIG): that also ends native code that never gives the thread a
turn. It is asked for only where the main thread starts a child, because it comes when the starting *thread* ends.

    python -m edgekit.system.child PIPE PARENT MODULE ARGUMENTS...

runs MODULE as python -m would; PARENT 0 asks no signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launch(module: str, *arguments: str, pass_fds: Sequence[int] = (), **popen: Any) -> subprocess.Popen[Any]:
    """Start a module in a Python process that ends with this one.

    Args:
        module, arguments: As for `python -m`.
        pass_fds: Descriptors that the child gets.
        popen: The rest of `subprocess.Popen`.
    """
    pipe, held = os.pipe()
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    command = [sys.executable, "-m", "edgekit.system.child", str(pipe), str(parent), module, *arguments]
    try:
        process = subprocess.Popen(command, pass_fds=(pipe, *pass_fds), **popen)
    except BaseException:
        os.close(held)
        raise
    finally:
        os.close(pipe)
    weakref.finalize(process, os.close, held)  # at this interpreter's end too
    return process


def end_with_parent(pipe: int, parent: int) -> None:
    """Have this process killed when the one that holds the other end of a pipe ends.

    Args:
        pipe: The reading end; taken over.
        parent: The starter's process id, for the kernel's signal; 0 to leave that out.
    """
    os.set_inheritable(pipe, False)  # a grandchild must not be asked to read it
    threading.Thread(target=_wait_for_end, args=(pipe,), daemon=True, name="edgekit-parent").start()
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            _die()


def _wait_for_end(pipe: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(pipe, 1):
            continue
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Patience:
    """Seconds left to wait; those in which this process was itself stopped, as by Ctrl-Z, do not count."""

    STEP_S = 1.0

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

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


def write_all(descriptor: int, data: bytes, patience: Patience) -> None:
    """Write bytes to a pipe whose reader may have stopped reading.

    Raises:
        TimeoutError: the reader did not take them.
        BrokenPipeError: there is none any more.
    """
    os.set_blocking(descriptor, False)
    left = memoryview(data)
    while left:
        patience.wait([], [descriptor])
        with contextlib.suppress(BlockingIOError):  # less room than a whole piece takes
            left = left[os.write(descriptor, left[: 1 << 16]) :]


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


class Channel:
    """A child that is told things and answers, line by line, through pipes away from what libraries print.

    Args:
        module, arguments: As for `launch`; the child's command line ends with the descriptors that it reads from and
            writes to.
        popen: As for `launch`; its standard input is empty, its standard output goes where its standard error does.
    """

    def __init__(self, module: str, *arguments: str, **popen: Any) -> None:
        theirs_in, told = os.pipe()
        answered, theirs_out = os.pipe()
        self._told, self._answered = os.fdopen(told, "wb", 0), os.fdopen(answered, "rb", 0)
        self._lines = Lines(answered)
        try:
            self.process = launch(
                module, *arguments, str(theirs_in), str(theirs_out), pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL, **popen,
            )  # fmt: skip
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def tell(self, value: Any) -> None:
        """Send a JSON value; nothing where the child has ended, which is found out where it is read."""
        left = memoryview(json.dumps(value).encode() + b"\n")
        with contextlib.suppress(BrokenPipeError):
            while left:
                left = left[self._told.write(left) :]

    def read(self, seconds: float) -> bytes | None:
        """The next line of the child, as `Lines.read`."""
        return self._lines.read(seconds)

    def end(self, patience_s: float = 10.0) -> int:
        """Close its input, which ends it where it is idle; kill it where it does not end; its exit code."""
        self._told.close()
        try:
            self.process.wait(timeout=patience_s)
        except BaseException as error:  # interrupted, or deep in something that nobody waits for any more
            self.process.kill()
            self.process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            self._answered.close()
        return int(self.process.returncode)


def main() -> None:
    """Run the module of the command line."""
    pipe, parent, module, *arguments = sys.argv[1:]
    end_with_parent(int(pipe), int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
