"""Work in a process of its own, so that a crash in native code is an answer and not the end of the program.

    with Apart() as apart:
        apart.call("edgekit.some.module", "function", argument=1)

One process serves call after call; one that died is replaced at the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from edgekit import errors
from edgekit.errors import EdgekitError

LAST = 5  # lines of standard error that a death is reported with


class ProcessDied(EdgekitError):
    """The process of a call ended before it answered: a signal, an exit, or a bug's traceback."""


def how_it_ended(code: int, lines: Iterable[str]) -> str:
    """A process's end in words: `its process was ended by SIGSEGV: last line / last line`.

    Args:
        code: As subprocess gives it: below 0 the number of a signal.
        lines: Of its standard error.
    """
    how = f"ended with exit code {code}" if code else "ended before its work was done, with exit code 0"
    if code < 0:
        known = {number.value for number in signal.Signals}
        how = f"was ended by {signal.Signals(-code).name if -code in known else f'signal {-code}'}"
    last = " / ".join([text for line in lines if (text := line.strip())][-LAST:])
    return f"its process {how}{': ' + last if last else ''}"


class Apart:
    """Calls functions in another process; its standard error is passed on as it comes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._end(self._process)

    def call(self, module: str, function: str, **arguments: Any) -> Any:
        """Call a function of edgekit's.

        Args:
            module, function: Where it is.
            arguments: JSON values.
        Returns:
            What it returns, by way of JSON.
        Raises:
            ProcessDied: the process ended before it answered.
            EdgekitError: the function's own, of its own class.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([module, function, arguments]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            self._process = None
            code = self._end(process)
            raise ProcessDied(how_it_ended(code, self._lines))
        answer = json.loads(line)
        if "error" in answer:
            raise _error(**answer["error"])
        return answer["result"]

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgekit.apart"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
            self._lines: deque[str] = deque(maxlen=4 * LAST)
            self._reader = threading.Thread(target=_pass_on, args=(self._process.stderr, self._lines), daemon=True)
            self._reader.start()
        return self._process

    def _end(self, process: subprocess.Popen[str]) -> int:
        """Close its input, which ends it where it is idle; its exit code, once all it wrote is read."""
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except BaseException as error:  # interrupted, or deep in a call that nobody waits for any more
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        self._reader.join(timeout=10)
        process.stdout.close()
        return process.returncode


def _pass_on(stream: Any, lines: deque[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line)
            sys.stderr.write(line)
            sys.stderr.flush()


def _error(name: str, what: str, why: str, fix: str) -> EdgekitError:
    """The error again, of its own class where that is one of edgekit.errors."""
    kind: type[EdgekitError] = getattr(errors, name, EdgekitError)
    error = kind.__new__(kind)
    EdgekitError.__init__(error, what, why=why, fix=fix)
    return error


def serve() -> None:
    """Answer calls from standard input until it ends."""
    # Runtimes print to standard output as they like; the answers go where nobody else writes.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        module, function, arguments = json.loads(line)
        try:
            answer = {"result": getattr(import_module(module), function)(**arguments)}
        except EdgekitError as error:
            told = {"name": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
            answer = {"error": told}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    try:
        serve()
    except KeyboardInterrupt:
        sys.exit(130)  # the caller was interrupted as well, and says so
