"""What a worker is asked and answers: one reply to each request, and beats that say how far it is while it works.

Each is one line of JSON. Up: `{"ready": 1}` once; then `{"beat": N, "phase": ..., "step": ..., "steps": ..., "answer":
...}` several times a request, and `{"reply": N, "ok": value}` or `{"reply": N, "error": text}` once, N being the
request's number. Down: `{"ask": N, "do": name, "given": {...}}`. Anything else is rubbish, and the worker is given up:
nothing that comes behind it can be trusted.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.system.timeouts import Timeouts, described

READY = {"ready": 1}
WORDS = {"start": "start", "load": "load", "encode": "image's encoding", "prefill": "prefill", "decode": "token"}
NOISE_LINES = 200  # what may be printed before a worker speaks
MISSED_BEATS = 5  # after so many it is not known what the worker does; native code may hold the interpreter

Read = Callable[[float], "bytes | None"]
"""The next line within so many seconds, None at the end; TimeoutError, or ValueError of a line that is none."""


class GaveUpError(EdgekitError):
    """A worker took too long, or answered rubbish; it must not be asked again."""


class EndedError(EdgekitError):
    """Nothing more comes of a worker."""


class RefusedError(EdgekitError):
    """A worker cannot do what it was asked; it goes on."""


def beat_s(timeouts: Timeouts) -> float:
    """Seconds from one beat to the next: often enough for the shortest limit."""
    shortest = min(timeouts.of(name) for name in ("load", "encode", "prefill", "decode", "answer"))
    return min(1.0, max(0.02, shortest / 5))


@dataclass
class _Clock:
    """How long a worker has been at what it does.

    Attributes:
        phase: What it does.
        at: Its phase and step, as the last beat said.
        answer: Its answer, as the last beat said.
        allowed: How many times the phase's limit this step may take.
        phase_s, answer_s, silent_s: Seconds since these changed, and since the last beat.
    """

    timeouts: Timeouts
    phase: str
    at: tuple[Any, ...] = ()
    answer: Any = None
    allowed: float = 1.0
    phase_s: float = 0.0
    answer_s: float = 0.0
    silent_s: float = 0.0

    def heard(self, beat: dict[str, Any]) -> None:
        """Note a beat."""
        self.silent_s = 0.0
        if (at := (beat["phase"], beat["step"])) != self.at:
            self.at, self.phase, self.phase_s = at, beat["phase"], 0.0
            self.allowed = float(beat["steps"])
        if beat["answer"] != self.answer:
            self.answer, self.answer_s = beat["answer"], 0.0

    def spend(self, seconds: float) -> None:
        """Note that time went by; what is over says so.

        Raises:
            GaveUpError: a limit is reached.
        """
        self.phase_s += seconds
        self.answer_s += seconds
        self.silent_s += seconds
        known = self.phase == "start" or self.silent_s <= MISSED_BEATS * beat_s(self.timeouts)
        limit = self.timeouts.of(self.phase) * self.allowed
        if known and self.phase_s > limit:
            what = WORDS.get(self.phase, "answer")
            raise _too_long(f"its {what} took longer than {described(limit)}", self.phase)
        if self.phase not in ("start", "load") and self.answer_s > self.timeouts.answer_s:
            raise _too_long(f"its answer took longer than {described(self.timeouts.answer_s)}", "answer")
        if self.silent_s > self.timeouts.longest_s:
            raise _too_long(f"it was silent for longer than {described(self.timeouts.longest_s)}", self.phase)


def _too_long(what: str, phase: str) -> GaveUpError:
    return GaveUpError(f"{what}, and its process was ended; --timeout {phase}=TIME allows more")


def wait_ready(read: Read, timeouts: Timeouts) -> None:
    """Wait until a worker has come up; what a machine prints before is borne.

    Args:
        read: Its lines.
        timeouts: Of which `start` counts.

    Raises:
        GaveUpError, EndedError: it does not.
    """
    clock, step = _Clock(timeouts, "start"), beat_s(timeouts)
    line = b""
    for _ in range(NOISE_LINES):
        line = _next(read, clock, step)
        with contextlib.suppress(GaveUpError):
            if _value(line) == READY:
                return
    raise _rubbish(line)


def wait_reply(read: Read, number: int, do: str, timeouts: Timeouts) -> Any:
    """Wait for the reply to a request.

    Args:
        read: The worker's lines.
        number, do: Of the request.
        timeouts: By phase.

    Returns:
        What it gives.

    Raises:
        RefusedError: it could not be done.
        GaveUpError: a limit was reached, or rubbish came.
        EndedError: the worker ended.
    """
    clock, step = _Clock(timeouts, first_phase(do)), beat_s(timeouts)
    while True:
        found = _value(_next(read, clock, step))
        keys = set(found) if isinstance(found, dict) else set()
        if keys == {"beat", "phase", "step", "steps", "answer"} and found["beat"] == number and _is_beat(found):
            clock.heard(found)
        elif keys == {"reply", "ok"} and found["reply"] == number:
            return found["ok"]
        elif keys == {"reply", "error"} and found["reply"] == number and isinstance(found["error"], str):
            raise RefusedError(" ".join(found["error"].split()))
        else:
            raise _rubbish(found)


def first_phase(do: str) -> str:
    """What a request begins with."""
    return "load" if do in ("load", "reload") else "answer"


def _is_beat(found: dict[str, Any]) -> bool:
    return found["phase"] in ("load", "encode", "prefill", "decode", "answer") and isinstance(found["steps"], int)


def _next(read: Read, clock: _Clock, step_s: float) -> bytes:
    while True:
        begun = time.monotonic()
        try:
            line = read(step_s)
        except TimeoutError:
            line = b""
        except ValueError as error:
            raise GaveUpError(f"it sent {error} where a reply belongs, and its process was ended") from error
        if line is None:
            raise EndedError("it has ended")
        # Not more than was asked for: while this process was itself stopped, the worker was too.
        clock.spend(min(2 * step_s, max(0.0, time.monotonic() - begun)))
        if line:
            return line


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _rubbish(line) from error


def _rubbish(found: Any) -> GaveUpError:
    text = repr(found)
    shown = text if len(text) < 120 else f"{text[:120]}..."
    return GaveUpError(f"it sent {shown} where a reply belongs, and its process was ended")
