"""Workers from the outside: one process for each runtime, all kept alive, so that they can take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from edgekit.apart import how_it_ended
from edgekit.devices import Board, WorkerGone
from edgekit.errors import EdgekitError
from edgekit.files import write_json
from edgekit.runtimes.worker import Job

PINNED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class WorkerError(EdgekitError):
    """What a worker was asked to do cannot be done; the worker goes on."""


class WorkerDied(WorkerError):
    """A worker's process ended."""


class Away:
    """One worker's process on a board.

    Args:
        board: Ready.
        job: What it holds.
        place: Folder of its own here.
    Raises:
        WorkerError: it does not start.
    """

    def __init__(self, board: Board, job: Job, place: Path) -> None:
        try:
            self._worker = board.open_worker(vars(job), place)
        except EdgekitError as error:
            raise WorkerError(" ".join(str(error).split())) from error

    def call(self, do: str, **arguments: Any) -> Any:
        """As `Member.call`."""
        try:
            return self._worker.call(do, **arguments)
        except WorkerGone as error:
            raise WorkerDied(" ".join(str(error).split())) from error
        except EdgekitError as error:
            raise WorkerError(" ".join(str(error).split())) from error

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def __enter__(self) -> Away:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Member:
    """One worker's process.

    Args:
        job: What it holds.
        place: Folder of its own, for its job and what it prints.
    """

    def __init__(self, job: Job, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / "job.json", vars(job))
        self._log = (place / "stderr.txt").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.runtimes.worker", str(place / "job.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **dict.fromkeys(PINNED, str(job.threads))},
            encoding="utf-8",
        )

    def call(self, do: str, **arguments: Any) -> Any:
        """Have something done, and wait for it.

        Args:
            do: A method of `worker.Worker`.
            arguments: Its arguments.
        Raises:
            WorkerError: it could not be done, with the reason in one line.
            WorkerDied: the process ended meanwhile.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerDied(self._how_it_ended())
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(" ".join(reply["error"].split()))
        return reply["ok"]

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # something was left unsent
                    continue
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Member:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of something long
        self.close()

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        return how_it_ended(code, self._log.read().splitlines())
