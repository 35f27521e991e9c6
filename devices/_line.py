"""The line to an agent on a board: commands out, answers and files back, over the pipes of one `ssh` process."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edgekit.devices import _agent
from edgekit.errors import EdgekitError
from edgekit.system.pipes import Lines, Patience, TooLongError, write_all

BEAT_S = 60.0  # how often the agent is told that we are still here
NOISE_LINES = 200  # what a login may print before the agent speaks
GREETING_S = 120.0  # until it does
SILENCE_S = 300.0  # of an agent that was asked something, or sends a file
LONGEST_LINE = 1 << 28  # bytes: all that a worker tells of one turn

BOOT = "import os;exec(b''.join(iter(lambda:os.read(0,1),b'\\0')))"
"""Reads the agent's source up to a zero byte, one byte at a time, so that nothing behind it is taken from the line."""


class LineLost(EdgekitError):
    """The connection ended in the middle of something."""


class Line:
    """A running agent.

    Args:
        command: What starts a Python on the board that runs BOOT, such as an `ssh` command.
        name: Of the board, for messages.

    Raises:
        LineLost: it did not come up; `why` holds what the command said.
    """

    def __init__(self, command: Sequence[str], name: str) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._out: IO[bytes] = self._process.stdin
        self._lines = Lines(self._process.stdout.fileno(), LONGEST_LINE)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._why: LineLost | None = None
        self._events: dict[int, deque[dict[str, Any]]] = {}
        try:
            self._write(Path(_agent.__file__).read_bytes() + b"\0")
            self.about = self._greeting()
            threading.Thread(target=self._beat, daemon=True).start()
        except BaseException:
            self._process.kill()  # nothing of ours is there yet that it could clean up
            self.close()
            raise

    def _greeting(self) -> dict[str, Any]:
        mark = _agent.GREETING.encode()
        for _ in range(NOISE_LINES):
            raw = self._line(GREETING_S)
            if raw.startswith(mark):
                found = self._value(raw[len(mark) :])
                if {"place", "home", "python"} - set(found):
                    raise self._strange(raw)
                return found
        raise LineLost("No agent came up.", why=f"{self.name} prints and prints.", fix="Quieten its login scripts.")

    def _line(self, seconds: float) -> bytes:
        """The next line.

        Raises:
            LineLost: there is none any more, none for so long, or one without an end.
        """
        try:
            return self._raw(seconds)
        except TimeoutError as error:
            raise self._silent(seconds) from error

    def _raw(self, seconds: float) -> bytes:
        """As `_line`, but a TimeoutError where none comes in time."""
        try:
            raw = self._lines.read(seconds)
        except TooLongError as error:
            raise LineLost(f"{self.name} sent {error}.", why="That is not the agent's language.") from error
        if raw is None:
            raise self._lost()
        return raw

    def _value(self, raw: bytes) -> dict[str, Any]:
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise self._strange(raw) from error
        if not isinstance(found, dict):
            raise self._strange(raw)
        return found

    def _strange(self, raw: bytes) -> LineLost:
        return LineLost(f"{self.name} answered {raw[:80]!r}.", why="That is not the agent's language.")

    def _silent(self, seconds: float) -> LineLost:
        return LineLost(f"The connection to {self.name} was lost.", why=f"Nothing came for {seconds:g} s.")

    def _lost(self) -> LineLost:
        if self._why is None:
            self._why = self._find_out_why()
        return self._why

    def _find_out_why(self) -> LineLost:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("**")]
        code = self._process.poll()
        return LineLost(f"The connection to {self.name} was lost.", why=" / ".join(lines[-4:]) or f"exit code {code}")

    def _write(self, data: bytes) -> None:
        try:
            write_all(self._out.fileno(), data, Patience(SILENCE_S))
        except TimeoutError as error:
            raise LineLost(f"The connection to {self.name} was lost.", why="It takes nothing any more.") from error
        except (BrokenPipeError, ValueError) as error:
            raise self._lost() from error

    def _answer(self, *keys: str) -> dict[str, Any]:
        """The next frame that is no child's; it has these keys."""
        patience = Patience(SILENCE_S)  # of all of it: what children print is no answer
        while "id" in (found := self._frame(patience)):
            self._keep(found)
        if "error" in found:
            raise EdgekitError(f"{self.name}: {found['error']}")
        if set(keys) - set(found):
            raise self._strange(json.dumps(found).encode())
        return found

    def _frame(self, patience: Patience) -> dict[str, Any]:
        if self.closed:
            raise self._lost()
        begun = time.monotonic()
        found = self._value(self._line(max(0.0, patience.left_s)))
        patience.left_s -= time.monotonic() - begun
        return found

    def _keep(self, frame: dict[str, Any]) -> None:
        """Put a child's frame where its reader finds it."""
        told = isinstance(frame.get("line"), str) or (
            isinstance(frame.get("exit"), int) and isinstance(frame.get("tail"), list)
        )
        if not isinstance(frame.get("id"), int) or not told:
            raise self._strange(json.dumps(frame).encode())
        self._events.setdefault(frame["id"], deque()).append(frame)

    def ask(self, do: str, *keys: str, **fields: Any) -> dict[str, Any]:
        """One command that is answered at once, by an answer with these keys."""
        self.tell(do, **fields)
        return self._answer(*keys)

    def put(self, source: Path, name: str) -> None:
        """Copy a file into the agent's folder."""
        size = source.stat().st_size
        with self._lock, source.open("rb") as stream:
            self._write(json.dumps({"do": "put", "name": name, "bytes": size}).encode() + b"\n")
            while size:
                piece = stream.read(min(size, 1 << 20))
                if not piece:
                    raise EdgekitError(f"{source} became shorter while it was copied to {self.name}.")
                self._write(piece)
                size -= len(piece)
        self._answer()

    def get(self, name: str, target: Path) -> bool:
        """Copy a file back; whether there was one."""
        left = self.ask("get", "bytes", name=name)["bytes"]
        if left is None:
            return False
        if not isinstance(left, int) or left < 0:
            raise self._strange(str(left).encode())
        with target.open("wb") as stream:
            while left:
                try:
                    piece = self._lines.take(min(left, 1 << 20), SILENCE_S)
                except TimeoutError as error:
                    raise self._silent(SILENCE_S) from error
                if not piece:
                    raise self._lost()
                stream.write(piece)
                left -= len(piece)
        return True

    def start(self, argv: Sequence[str], env: dict[str, str]) -> Remote:
        """Start a program on the board, in the agent's folder; variables come on top of the board's own."""
        return Remote(self, self.ask("start", "child", argv=list(argv), env=env)["child"])

    def tell(self, do: str, **fields: Any) -> None:
        """One command that is not answered."""
        with self._lock:
            self._write(json.dumps({"do": do, **fields}).encode() + b"\n")

    @property
    def closed(self) -> bool:
        """Whether it has been hung up."""
        return self._closed.is_set()

    def event(self, child: int, seconds: float) -> dict[str, Any]:
        """The next line that a program has printed, or how it ended; those of others are kept for them.

        Raises:
            TimeoutError: none came in so many seconds.
        """
        waiting, patience = self._events.setdefault(child, deque()), Patience(seconds)
        while not waiting:
            if self.closed:
                raise self._lost()
            begun = time.monotonic()
            frame = self._value(self._raw(max(0.0, patience.left_s)))
            patience.left_s -= time.monotonic() - begun
            self._keep(frame)
        return waiting.popleft()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with suppress(EdgekitError, OSError):
                self.tell("beat")

    def close(self) -> None:
        """Hang up; the agent takes its folder away. Waits for that."""
        self._closed.set()
        self._why = self._why or LineLost(f"The connection to {self.name} was closed.")
        with suppress(OSError):
            self._out.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


class Remote:
    """A program on a board, started by `Line.start`.

    Args:
        line: The line to its agent.
        child: The agent's number for it.
    """

    def __init__(self, line: Line, child: int) -> None:
        self._line, self._child = line, child
        self.code: int | None = None
        self.tail: list[str] = []

    @property
    def alive(self) -> bool:
        """Whether there is a line to it."""
        return not self._line.closed

    def write(self, text: str) -> None:
        """A line for its standard input."""
        self._line.tell("write", id=self._child, text=text)

    def readline(self, seconds: float) -> str | None:
        """The next line that it prints, without its end; None when it has ended, and `code` and `tail` are set.

        Raises:
            TimeoutError: none came in so many seconds.
            LineLost: the connection ended first.
        """
        if self.code is not None:
            return None
        event = self._line.event(self._child, seconds)
        if "exit" in event:
            self.code, self.tail = event["exit"], [str(text) for text in event["tail"]]
            return None
        text: str = event["line"]
        return text

    def finish(self, on_line: Callable[[str], None], seconds: float) -> int:
        """Close its input and read it to the end; its exit code, negative for a signal.

        Raises:
            LineLost: it printed nothing for so many seconds, or the connection ended.
        """
        self._line.tell("close", id=self._child)
        try:
            while (text := self.readline(seconds)) is not None:
                on_line(text)
        except TimeoutError as error:
            raise LineLost(f"A program on {self._line.name} does not end.", why=f"Silent for {seconds:g} s.") from error
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """Kill it with all that it started."""
        self._line.tell("kill", id=self._child)
