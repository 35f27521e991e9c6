"""Work in a process of its own, so that a crash in native code is an answer and not the end of the program.

    with Isolated() as isolated:
        isolated.call(function, argument=1)

One process serves call after call; one that died is replaced at the next.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from edgekit import errors
from edgekit.errors import EdgekitError
from edgekit.system.process import Process, how_it_ended
from edgekit.visible import visible

T = TypeVar("T")
TOLD = {"name", "what", "why", "fix"}  # of an error


class ProcessDied(EdgekitError):
    """The process of a call ended before it answered: a signal, an exit, or a bug's traceback."""


class Isolated:
    """Calls functions in another process; its standard error is passed on as it comes.

    Args:
        quiet: Keep what it prints for the report of its death, and pass none of it on.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._process: Process | None = None
        self._quiet = quiet

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._end(self._process)

    def call(self, function: Callable[..., T], *, limit_s: float = math.inf, **arguments: Any) -> T:
        """Call a function there.

        Args:
            function: Of a module's top level; the process finds it by its name.
            limit_s: Seconds until the process is ended.
            arguments: JSON values.

        Returns:
            What it returns, by way of JSON: tuples come back as lists.

        Raises:
            ValueError: another process cannot find it: it stands in a function or class, or in the program itself.
            ProcessDied: the process ended before it answered, took too long, or what it answered is no answer.
            EdgekitError: the function's own, of its own class.
        """
        if function.__module__ == "__main__" or "." in function.__qualname__:
            raise ValueError(f"{function.__module__}.{function.__qualname__} is not found by name in another process")
        process = self._started()
        process.tell([function.__module__, function.__qualname__, arguments])
        try:
            line = process.read_line(limit_s)
            answer = None if line is None else _read(line)
        except (ValueError, TimeoutError) as error:
            process.kill()
            self._end(process)
            if isinstance(error, TimeoutError):
                raise ProcessDied(f"its process took longer than {limit_s:g} s, and was ended") from error
            raise ProcessDied(f"its process answered what is no answer: {error}") from error
        if answer is None:
            raise ProcessDied(how_it_ended(self._end(process), process.printed()))
        if "error" in answer:
            raise _error(**answer["error"])
        result: T = answer["result"]
        return result

    def _started(self) -> Process:
        if self._process is None:
            self._process = Process("edgekit.system.isolated", on_line=_drop if self._quiet else _pass_on)
        return self._process

    def _end(self, process: Process) -> int:
        """Its exit code, once all it wrote is read."""
        self._process = None
        return process.end()


def _pass_on(line: str) -> None:
    sys.stderr.write(visible(line))
    sys.stderr.flush()


def _drop(line: str) -> None:
    """Its end is kept anyhow."""


def _error(name: str, what: str, why: str, fix: str) -> EdgekitError:
    """The error again, of its own class where that is one of edgekit.errors."""
    kind: type[EdgekitError] = getattr(errors, name, EdgekitError)
    error = kind.__new__(kind)
    EdgekitError.__init__(error, what, why=why, fix=fix)
    return error


def _read(line: bytes) -> dict[str, Any]:
    """The answer of a line.

    Raises:
        ValueError: it is none.
    """
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(line)
        told = found.get("error") if isinstance(found, dict) and len(found) == 1 else None
        if isinstance(found, dict) and (set(found) == {"result"} or (isinstance(told, dict) and set(told) == TOLD)):
            return found
    raise ValueError(repr(line[:80]))


def serve(incoming: int, outgoing: int) -> None:
    """Answer calls until there are no more.

    Args:
        incoming, outgoing: Descriptors of this process's own, away from what libraries print.
    """
    with os.fdopen(incoming, encoding="utf-8") as calls, os.fdopen(outgoing, "w", encoding="utf-8") as answers:
        for line in calls:
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
        serve(int(sys.argv[1]), int(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)  # the caller was interrupted as well, and says so
