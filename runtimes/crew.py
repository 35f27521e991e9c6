"""Workers from the outside: one process for each runtime, all kept alive, so that they can take turns."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from edgekit.devices import Board, WorkerGone
from edgekit.errors import EdgekitError
from edgekit.files import write_json
from edgekit.runtimes.worker import Job
from edgekit.system.dialogue import EndedError, GaveUpError, RefusedError, wait_ready, wait_reply
from edgekit.system.process import Process, how_it_ended, last_words
from edgekit.system.timeouts import Timeouts

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
    """One worker's process; its temporary files lie in its folder too.

    Args:
        job: What it holds.
        place: Folder of its own, for its job and what it prints.
    """

    def __init__(self, job: Job, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / "job.json", vars(job))
        self._timeouts, self._number, self._ready = Timeouts(**job.timeouts), 0, False
        pinned = dict.fromkeys(PINNED, str(job.threads))
        self._process = Process(
            "edgekit.runtimes.worker", str(place / "job.json"),
            env={**pinned, "TMPDIR": str(place)}, log=place / "stderr.txt",
        )  # fmt: skip

    def call(self, do: str, **arguments: Any) -> Any:
        """Have something done, and wait for it.

        Args:
            do: A method of `worker.Worker`.
            arguments: Its arguments.

        Raises:
            WorkerError: it could not be done, with the reason in one line.
            WorkerDied: the process ended meanwhile, took longer than it may, or answered rubbish.
        """
        try:
            if not self._ready:
                wait_ready(self._process.read_line, self._timeouts)
                self._ready = True
            self._number += 1
            self._process.tell({"ask": self._number, "do": do, "given": arguments})
            return wait_reply(self._process.read_line, self._number, do, self._timeouts)
        except RefusedError as error:
            raise WorkerError(error.what) from error
        except EndedError as error:
            raise WorkerDied(how_it_ended(self._process.end(), self._process.printed())) from error
        except GaveUpError as error:
            self._process.kill()
            self._process.end()
            last = last_words(self._process.printed())
            raise WorkerDied(f"{error.what}{': ' + last if last else ''}") from error

    def close(self) -> None:
        """End the process."""
        self._process.end()

    def __enter__(self) -> Member:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of something long
        self.close()
