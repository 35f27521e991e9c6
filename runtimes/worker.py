"""One runtime in a process of its own: `python -m edgekit.runtimes.worker JOB.json [IN OUT]`, told what to do.

What it is asked and answers is `edgekit.system.dialogue`, line by line through two descriptors, or standard input and
output where none are given. The process idles between requests, so that several of them can take turns on one machine.
Whatever libraries print goes to standard error. `edgekit.runtimes.crew` is the other end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.checkpoint.generation import Mode, as_dict
from edgekit.data import ImageRef, Sample, samples
from edgekit.data.scoring import score_answer
from edgekit.errors import EdgekitError
from edgekit.held import Held
from edgekit.inputs.chat import question
from edgekit.inputs.images import upright
from edgekit.recipe.per_dataset import Choice
from edgekit.report.tally import Tally
from edgekit.runtimes import RUNTIMES, speed
from edgekit.runtimes.generate import Answer, answer, exhausted, follow
from edgekit.runtimes.phases import PHASE
from edgekit.runtimes.session import Session, generation_of
from edgekit.stats import finite_or_none, largest_gap
from edgekit.system.dialogue import READY, beat_s, first_phase
from edgekit.system.machine import peak_memory_bytes
from edgekit.system.timeouts import Timeouts

TRACE = "trace.npz"
PIXEL_SAMPLES = 8  # images whose preprocessing is compared: every tile of one, so a few tell enough
RELOADS = 3  # warm loads, of which the median is told


@dataclass(frozen=True)
class Job:
    """What a worker holds.

    Attributes:
        runtime: Name in edgekit.runtimes.
        folder: Bundle or checkpoint.
        threads: CPU threads.
        data, limit, scoring: Questions and metric; no data for prompts given one by one.
        max_new_tokens: Longest answer.
        held: `stamp` and `identity` of the folder (`edgekit.held`), which it must have; empty for any.
        timeouts: Seconds of each phase, as fields of `Timeouts`; whoever asks holds the worker to them.
    """

    runtime: str
    folder: str
    threads: int
    data: str = ""
    limit: int | None = None
    scoring: Choice = "exact"
    max_new_tokens: int = 16
    held: Mapping[str, str] = field(default_factory=dict)
    timeouts: Mapping[str, float] = field(default_factory=dict)


class Worker:
    """The session and its place in the questions; each public method is something to do."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._held = Held(Path(job.folder), **job.held) if job.held else None
        self._session: Session | None = None
        self._rest: Iterator[Sample] = iter(())
        self._first: Sample | None = None

    def load(self) -> dict[str, Any]:
        """Open the session; milliseconds of it, the import of the runtime included, and what the runtime notes."""
        if self._job.data:
            self._rest = iter(samples(self._job.data, limit=self._job.limit))
            self._first = next(iter(samples(self._job.data, limit=1)), None)
        self._check()
        runtime = RUNTIMES.load(self._job.runtime)
        if runtime.rehearse is not None:
            runtime.rehearse(Path(self._job.folder))  # what only the very first load costs is no part of a load's time
        _forget(Path(self._job.folder))
        start = time.perf_counter()
        self._open()
        found: dict[str, Any] = {"load_ms": 1000 * (time.perf_counter() - start)}
        self._check()
        if self._first is not None:
            ids = self._ready.prepare(self._first.messages, [image.open() for image in self._first.images]).ids
            found["image_tokens"] = int((ids == self._ready.image_token_id).sum())
        found["notes"] = list(self._ready.notes)
        found["verified_by"] = self._ready.verified_by
        found["timing_note"] = None if runtime.timing_note is None else runtime.timing_note()
        return found

    def warm(self, count: int) -> None:
        """Answer the first questions, untimed."""
        for sample in samples(self._job.data, limit=count) if count else ():
            self._ask(sample)

    def ask(self, count: int, turn: int) -> list[dict[str, Any]]:
        """Answer the next questions.

        One answer is given before that is not timed: other processes had the machine, and what this one held in the
        processor's caches is gone.

        Args:
            count: How many; fewer where they end.
            turn: Written into each answer.
        """
        if self._first is not None:
            self._ask(self._first)
        rows = []
        for _ in range(count):
            sample = next(self._rest, None)
            if sample is None:
                break
            said = self._ask(sample)
            rows.append(
                {
                    "id": sample.id,
                    "turn": turn,
                    "question": sample.text,
                    "expected": sample.answer,
                    "answer": said.text,
                    "token_ids": said.token_ids,
                    "score": score_answer(self._job.scoring, said.text, sample),
                    **said.timings.as_dict(),
                }
            )
        self._check()
        return rows

    def skip(self, count: int) -> None:
        """Leave out questions that a process before has answered."""
        for _ in range(count):
            next(self._rest, None)

    def memory(self) -> int:
        """Bytes: the high-water mark so far."""
        return peak_memory_bytes() + self._ready.helper_memory_bytes()

    def speed(self, kind: str, tokens: int) -> dict[str, Any]:
        """One repetition of a speed test."""
        shown = next((image.open() for image in self._first.images), None) if self._first is not None else None
        return speed.run_once(self._ready, kind, tokens, shown)

    def sustain(self, seconds: float, points: int) -> list[dict[str, float]]:
        """Answer without a pause."""
        return speed.sustain(lambda: self._ask(self._next_round()), seconds, points)

    def trace(self, out: str, count: int) -> None:
        """Write the logits along this model's own answers, for others to compare theirs with."""
        _write_trace(self._ready, self._chosen(count), Path(out), self._job.max_new_tokens)

    def compare(self, trace: str, count: int) -> dict[str, Any]:
        """Follow the reference's answers."""
        found = _compare(self._ready, self._chosen(count), Path(trace))
        self._check()
        return found

    def reload(self) -> dict[str, float]:
        """Close the session and open it again: what a load costs when the runtime and the files are in memory."""
        spent = []
        for _ in range(RELOADS):
            self._close()
            start = time.perf_counter()
            self._open()
            spent.append(1000 * (time.perf_counter() - start))
        self._check()
        self._close()
        return {"load_warm_ms": float(np.median(spent))}

    def answer(self, prompt: str, images: list[str], max_new_tokens: int, generation: Mode) -> dict[str, Any]:
        """Answer a prompt about image files."""
        opened = [upright(ImageRef(path=Path(path)).open()) for path in images]
        settings = generation_of(self._ready, generation)
        asked = question(prompt, len(opened))
        said = answer(self._ready, asked, opened, max_new_tokens=max_new_tokens, generation=settings)
        self._check()
        return {
            "generation": as_dict(settings, generation),
            "text": said.text,
            "token_ids": said.token_ids,
            "finish": said.finish,
            "timings": said.timings.as_dict(),
        }

    @property
    def _ready(self) -> Session:
        if self._session is None:
            raise EdgekitError("The model is not loaded.")
        return self._session

    def _check(self) -> None:
        """What is open, or about to be opened, must be what was to be measured."""
        if self._held is not None:
            self._held.check()

    def _open(self) -> None:
        PHASE.enter("load")
        with exhausted(f"load {self._job.folder}"):
            self._session = RUNTIMES.load(self._job.runtime).open(Path(self._job.folder), self._job.threads)

    def _close(self) -> None:
        self._ready.close()
        self._session = None
        gc.collect()

    def _ask(self, sample: Sample) -> Answer:
        images = [image.open() for image in sample.images]
        return answer(self._ready, sample.messages, images, max_new_tokens=self._job.max_new_tokens)

    def _next_round(self) -> Sample:
        """The next question, from the first again behind the last."""
        sample = next(self._rest, None)
        if sample is None:
            self._rest = iter(samples(self._job.data, limit=self._job.limit))
            sample = next(self._rest)
        return sample

    def _chosen(self, count: int) -> list[Sample]:
        limit = count if self._job.limit is None else min(count, self._job.limit)
        return list(samples(self._job.data, limit=limit))


class Voice:
    """What this process says: replies, and beats while it is busy.

    Args:
        descriptor: Away from what libraries print.
        every_s: From one beat to the next.
    """

    def __init__(self, descriptor: int, every_s: float) -> None:
        self._out, self._lock, self._every_s = os.fdopen(descriptor, "wb", 0), threading.Lock(), every_s
        self._busy: int | None = None
        self.say(READY)
        threading.Thread(target=self._beat, daemon=True, name="edgekit-beats").start()

    def say(self, value: Mapping[str, Any]) -> None:
        """One line."""
        left = memoryview(json.dumps(value).encode() + b"\n")
        while left:
            left = left[self._out.write(left) :]

    def begin(self, number: int, phase: str) -> None:
        """Work on a request begins."""
        PHASE.enter(phase)
        self._busy = number

    def reply(self, number: int, value: Mapping[str, Any]) -> None:
        """It is done: no beat of it comes behind this."""
        with self._lock:
            self._busy = None
            self.say({"reply": number, **value})

    def _beat(self) -> None:
        while True:
            time.sleep(self._every_s)
            with self._lock, contextlib.suppress(BrokenPipeError):  # nobody listens any more: the end is near
                if self._busy is not None:
                    self.say({"beat": self._busy, **PHASE.told()})


def main(path: Path, incoming: int | None = None, outgoing: int | None = None) -> int:
    """Do what is asked until nothing more can come.

    Args:
        path: The job.
        incoming, outgoing: Descriptors; standard input and output where there are none.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted as well, and ends this process
    source = os.fdopen(os.dup(0) if incoming is None else incoming, "rb")
    answers = os.dup(1) if outgoing is None else outgoing
    os.dup2(2, 1)  # native libraries print where they like
    sys.stdout = sys.stderr
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    worker, voice = Worker(job), Voice(answers, beat_s(Timeouts(**job.timeouts)))
    for line in source:
        request = json.loads(line)
        doing: Callable[..., Any] = getattr(worker, request["do"])
        voice.begin(request["ask"], first_phase(request["do"]))
        voice.reply(request["ask"], _done(doing, request["given"]))
    return 0


def _done(doing: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": doing(**arguments)}
    except EdgekitError as error:
        return {"error": str(error)}


def _forget(folder: Path) -> None:
    """Drop a model's files from the page cache, where the system does that on request, so that a load is a cold one."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with contextlib.suppress(OSError), path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write_trace(session: Session, chosen: list[Sample], out: Path, max_new_tokens: int) -> None:
    arrays: dict[str, Any] = {}
    for number, sample in enumerate(chosen):
        images = [image.open() for image in sample.images]
        tokens = answer(session, sample.messages, images, max_new_tokens=max_new_tokens).token_ids
        arrays[f"tokens_{number}"] = np.array(tokens)
        arrays[f"logits_{number}"] = np.stack([*follow(session, sample.messages, images, tokens)])
        if number < PIXEL_SAMPLES:
            prepared = session.prepare(sample.messages, images)
            arrays[f"ids_{number}"] = prepared.ids
            if prepared.pixels is not None:
                arrays[f"pixels_{number}"] = prepared.pixels
    np.savez_compressed(out / TRACE, **arrays)


def _compare(session: Session, chosen: list[Sample], trace_file: Path) -> dict[str, Any]:
    """Next-token distributions, best tokens, prompt ids and pixels against the reference's trace."""
    tally, gaps, same_ids = Tally(), [], True
    with np.load(trace_file, allow_pickle=False) as trace:
        for number, sample in enumerate(chosen):
            images = [image.open() for image in sample.images]
            tokens = trace[f"tokens_{number}"].tolist()
            tally.add(trace[f"logits_{number}"], follow(session, sample.messages, images, tokens))
            if f"ids_{number}" in trace:
                prepared = session.prepare(sample.messages, images)
                same_ids &= np.array_equal(prepared.ids, trace[f"ids_{number}"])
                if prepared.pixels is not None:
                    gaps.append(largest_gap(prepared.pixels, trace[f"pixels_{number}"]))
    return {
        "mean_kl": tally.mean_kl,
        "top1_agreement": tally.top1_agreement,
        "prompt_ids_equal": same_ids,
        "margin_at_difference": tally.margin_at_difference,
        # Images of another shape, as of a bundle for chosen sizes, have no difference to state; the ids differ then.
        **({"pixel_max_abs": finite_or_none(max(gaps))} if gaps else {}),
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
