"""Processes of edgekit's own from the outside: how each is started, asked, waited for, ended, and told of.

What runs in them may crash in native code, stop answering, or print where it likes. So each is a module of its own that
gets two pipes away from what libraries print, ends with this process (`edgekit.system.child`), keeps the end of what it
printed for the report of its death, and is given up after a time. What the bytes in the pipes mean is the module's:
lines of JSON (`edgekit.system.isolated`, `edgekit.runtimes.crew`), or frames of arrays (`edgekit.formats.coreai`,
`edgekit.formats.gguf`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from edgekit.system.child import launch
from edgekit.system.pipes import Lines, Patience, read_into, widen, write_all

PATIENCE_S = 10.0  # for a process that was asked to end, or seems to have ended
LAST = 5  # lines of what it printed that a death is reported with
LAST_BYTES = 1 << 16  # of what it printed, that these are looked for in


def ending(code: int) -> str:
    """A process's end in words: `was ended by SIGSEGV`, `ended with exit code 1`.

    Args:
        code: As subprocess gives it: below 0 the number of a signal.
    """
    if code >= 0:
        return f"ended with exit code {code}" if code else "ended before its work was done, with exit code 0"
    known = {number.value for number in signal.Signals}
    return f"was ended by {signal.Signals(-code).name if -code in known else f'signal {-code}'}"


def how_it_ended(code: int, lines: Iterable[str]) -> str:
    """The same with its last words: `its process was ended by SIGSEGV: last line / last line`.

    Args:
        code: As of `ending`.
        lines: Of its standard error.
    """
    last = last_words(lines)
    return f"its process {ending(code)}{': ' + last if last else ''}"


def last_words(lines: Iterable[str]) -> str:
    """The end of a process's standard error in one line."""
    return " / ".join([text for line in lines if (text := line.strip())][-LAST:])


class Process:
    """A process that is told things and answers, through pipes away from what libraries print.

    Attributes:
        pid: Of the process.
        closed: Whether `end` was called.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Start it.

        Args:
            module, arguments: As for `python -m`; the command line ends with the descriptors that it reads from and
                writes to.
            env: Variables on top of this process's own.
            log: Where what it prints is kept; a temporary file when None.
            on_line: Told each line that it prints, as it comes, from another thread; only the last lines are kept then.
        """
        self.closed = False
        self._log, self._lines, self._reader = _Log(log) if on_line is None else None, deque[str](maxlen=4 * LAST), None
        theirs_in, told = os.pipe()
        answered, theirs_out = os.pipe()
        widen(told)
        widen(answered)
        # Files and not mere descriptors: they are closed with an object that nobody ended.
        self._told, self._answered = os.fdopen(told, "wb", 0), os.fdopen(answered, "rb", 0)
        self._read_lines = Lines(answered)
        prints: Any = subprocess.PIPE if self._log is None else self._log.stream
        try:
            self._process = launch(
                module, *arguments, str(theirs_in), str(theirs_out), pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL, stdout=prints, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
            )  # fmt: skip
        except BaseException:
            self._told.close()
            self._answered.close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self.pid = self._process.pid
        if on_line is not None:
            given = (self._process.stdout, self._lines, on_line)
            self._reader = threading.Thread(target=_pass_on, args=given, daemon=True)
            self._reader.start()

    # ------------------------------------------------------------------------------------------------ what is said

    def tell(self, value: Any) -> None:
        """Send a JSON value as a line; nothing where the process has ended, which is found out where it is read."""
        with contextlib.suppress(BrokenPipeError):
            self.write(json.dumps(value).encode() + b"\n", Patience(math.inf))

    def write(self, data: Any, patience: Patience) -> None:
        """Send bytes, or the memory of an array; errors as of `edgekit.system.pipes.write_all`."""
        write_all(self._told.fileno(), data, patience)

    def read_line(self, seconds: float) -> bytes | None:
        """Its next line, as `edgekit.system.pipes.Lines.read`."""
        return self._read_lines.read(seconds)

    def read_into(self, place: Any, patience: Patience) -> None:
        """Fill memory with its next bytes; not after `read_line`, which may hold some of them already.

        Raises:
            TimeoutError: they did not come.
            EOFError: it has ended.
        """
        read_into(self._answered.fileno(), place, patience)

    def read(self, count: int, patience: Patience) -> bytearray:
        """Its next bytes; errors as of `read_into`."""
        data = bytearray(count)
        self.read_into(data, patience)
        return data

    def printed(self) -> list[str]:
        """The end of what it printed, line by line."""
        return list(self._lines) if self._log is None else self._log.tail(LAST_BYTES)

    def all_printed(self) -> str:
        """Everything that it printed, where nobody is told each line."""
        return "" if self._log is None else self._log.read(0)

    # ------------------------------------------------------------------------------------------------ how it ends

    def ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it at once, and wait for that."""
        self._process.kill()
        self._process.wait()

    def wait_end(self) -> int:
        """The exit code of what seems to have ended; it is killed where that is not so."""
        try:
            return self._process.wait(timeout=PATIENCE_S)
        except BaseException as error:  # interrupted, or deep in something that nobody waits for any more
            self.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            if self._reader is not None:
                self._reader.join(timeout=PATIENCE_S)
        return int(self._process.returncode)

    def end(self) -> int:
        """Close its input, which ends it where it is idle; kill it where it does not end; its exit code."""
        if not self.closed:
            self.closed = True
            self._told.close()
            try:
                self.wait_end()
            finally:
                self._answered.close()
                if self._log is not None:
                    self._log.close()
        return int(self._process.returncode)


class _Log:
    """What a process prints, in a file; read after it has ended too, until it is closed where it is temporary."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.stream: IO[bytes] = tempfile.TemporaryFile() if path is None else path.open("w+b")  # noqa: SIM115
        self._kept = ""

    def read(self, most: int) -> str:
        """The last so many bytes; all for 0."""
        if self.stream.closed:
            return self._kept
        size = os.fstat(self.stream.fileno()).st_size
        start = max(0, size - most) if most else 0
        # The process writes at the same place of the file: it is read without going there.
        return os.pread(self.stream.fileno(), size - start, start).decode(errors="replace")

    def tail(self, most: int) -> list[str]:
        return self.read(most).splitlines()

    def close(self) -> None:
        self._kept = self.read(LAST_BYTES)
        self.stream.close()


def _pass_on(stream: IO[bytes], lines: deque[str], on_line: Callable[[str], None]) -> None:
    with stream:
        for raw in stream:
            line = raw.decode(errors="replace")
            lines.append(line)
            on_line(line)
