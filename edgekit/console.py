"""Where words go: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgekit.errors import EdgekitError
from edgekit.visible import json_text, message, one_line, visible

if TYPE_CHECKING:
    from rich.console import Console


def stderr() -> Console:
    """A console on standard error as it is now, wherever that is led later; plain where that is not a terminal."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that a launcher started together; the others are quiet.

    torchrun and `accelerate launch` say so in RANK.
    """
    return os.environ.get("RANK", "0") == "0"


def note(text: str, console: Console | None = None, *, style: str = "") -> None:
    """One line to standard error, or a console; `text` is shown, never read as markup or obeyed (edgekit.visible)."""
    if not is_main_process():
        return
    (console or stderr()).print(visible(text), markup=False, soft_wrap=True, style=style)


def print_error(error: EdgekitError) -> None:
    """An error's message to standard error."""
    sys.stderr.write(f"{message(error)}\n")


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As `sys.excepthook`; a traceback tells values of others too."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))


@cache
def note_once(text: str) -> None:
    """`note`, a second time not shown."""
    note(text)


def print_json(value: Any) -> None:
    """One JSON document to standard output; controls, and what its encoding cannot hold, as JSON escapes."""
    text = json_text(value, indent=2)
    if _encodable(text) != text:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


def print_text(text: str) -> None:
    """Lines to standard output, at once; controls, and what its encoding cannot hold, stand there as escapes."""
    sys.stdout.write(_encodable(visible(text)) + "\n")
    sys.stdout.flush()


def print_piece(text: str) -> None:
    """Part of a line to standard output, seen at once; escapes as of `print_text`."""
    sys.stdout.write(_encodable(visible(text)))
    sys.stdout.flush()


def _encodable(text: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Bar(Protocol):
    """What a loop needs of a progress display."""

    def add_task(self, description: str, *, total: float, completed: float = 0) -> Any:
        """Begin a task of `total` steps."""

    def update(self, task: Any, *, completed: float, description: str | None = None) -> None:
        """Say how many steps are done."""


@dataclass
class _Task:
    text: str
    total: float
    completed: float
    first: float
    begun: float


class PlainProgress:
    """Progress for a log file: a line at the start, about every tenth with the time left, and at the end of a task."""

    def __init__(self) -> None:
        self._tasks: list[_Task] = []
        self._to = stderr()

    def add_task(self, description: str, *, total: float, completed: float = 0) -> int:
        """Begin a task of `total` steps."""
        self._tasks.append(_Task(description, total, completed, completed, time.monotonic()))
        text = f"{description}: 0 %" if not completed else f"{description}: resumed at {completed:g} of {total:g}"
        note(text, self._to)
        return len(self._tasks) - 1

    def update(self, task: int, *, completed: float, description: str | None = None) -> None:
        """Say how many steps are done."""
        one = self._tasks[task]
        one.text = description or one.text
        if int(10 * completed / one.total) > int(10 * one.completed / one.total):
            spent = time.monotonic() - one.begun
            left = spent * (one.total - completed) / max(completed - one.first, 1e-9)
            ending = f"{_clock(left)} left" if completed < one.total else f"in {_clock(spent)}"
            note(f"{one.text}: {100 * completed / one.total:.0f} %, {ending}", self._to)
        one.completed = completed


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@contextmanager
def progress() -> Iterator[Bar]:
    """A progress bar with elapsed and remaining time on standard error; lines where that is no terminal.

    In a process that is not the main one, nothing is shown.
    """
    console = stderr()
    if not console.is_terminal or not is_main_process():
        yield PlainProgress()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Title(TextColumn):
        """A task's description, which may name a file."""

        def render(self, task: Any) -> Any:
            """One line of it."""
            from rich.text import Text

            return Text(one_line(task.description))

    columns = (
        Title(""),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield cast(Bar, bar)
