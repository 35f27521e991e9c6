"""Who came to the page of a bench, what each is doing, and what each brought; all of it from strangers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgekit import schema
from edgekit.devices import Visit
from edgekit.devices._web_messages import (
    MOST_WORD,
    Beat,
    Failed,
    Join,
    Malformed,
    Result,
    Wanted,
    browser_of,
    problems_of,
    problems_of_join,
    read,
)
from edgekit.devices._web_site import Refused, Said
from edgekit.visible import one_line

RUNTIME = "onnxruntime-web"
SILENT_S = 30.0  # the page says something every 2 s while it is on the screen
LATE_S = 1.5  # what a page sent just before it closed may come behind its word of that
CLOSED_S = 5.0  # a page that said it closes may only be loaded again
HARMLESS = "files"
"""The one check of the self-test whose failure is told and no more: how the browser reads image files, while the
questions' images come to it as pixels."""


@dataclass
class Guest:
    """One browser.

    Attributes:
        key: Its secret.
        name: For the rows.
        about: What it says of itself.
        heard: When it last said something.
        bundle: Where it is; the number of bundles when it is through.
        phase, done, total: Of that bundle.
        closing: It said that its page closes.
        gone: Why it is not waited for any more; "" while it is.
    """

    key: str
    name: str
    about: dict[str, Any]
    heard: float
    bundle: int = 0
    phase: str = "opened"
    done: float = 0.0
    total: float = 0.0
    closing: bool = False
    gone: str = ""


@dataclass
class Room:
    """The guests; its methods that answer requests may be called by any thread.

    Attributes:
        wanted: What is asked.
        phones: So many are let in.
        visits: Filled as they come.
        clock: Seconds.
    """

    wanted: Wanted
    phones: int
    visits: list[Visit]
    clock: Callable[[], float] = time.monotonic
    guests: list[Guest] = field(default_factory=list)
    ended: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def known(self, key: str) -> bool:
        """Whether a guest has this key."""
        return self._find(key) is not None

    def _find(self, key: str) -> Guest | None:
        with self.lock:
            return next((one for one in self.guests if secrets.compare_digest(one.key.encode(), key.encode())), None)

    def join(self, key: str, body: bytes) -> Said:
        """A browser begins, or its page was loaded again."""
        told = read(Join, body)
        if problems := list(problems_of_join(told)):
            raise Malformed("; ".join(problems))
        with self.lock:
            guest = self._find(key)
            if guest is not None:
                self._again(guest)
            elif self.ended:
                raise Refused(409, "the bench is over")
            elif len(self.guests) >= self.phones:
                raise Refused(409, "too many phones")
            else:
                guest = Guest(secrets.token_urlsafe(24), self._name(told), _about(told), self.clock())
                self.guests.append(guest)
            return Said({"name": guest.name, "bundle": guest.bundle}, guest.key)

    def _again(self, guest: Guest) -> None:
        """The bundle that it was at when its page went is lost; it goes on with the next one."""
        if guest.phase != "opened" and not guest.gone and guest.bundle < len(self.wanted.bundles):
            self._fail(guest, f"the page was loaded anew, or crashed, {_at(guest)}")
        guest.gone, guest.closing, guest.heard = "", False, self.clock()

    def _name(self, told: Join) -> str:
        name = _named(told)
        taken = {one.name for one in self.guests}
        numbered = (f"{name} ({number})" for number in range(2, len(taken) + 3))
        return name if name not in taken else next(one for one in numbered if one not in taken)

    def beat(self, key: str, body: bytes) -> Said:
        """A sign of life; the answer says whether to go on."""
        told = read(Beat, body)
        if not 0 <= told.done <= told.total <= 1e15:
            raise Refused(400, "malformed")
        with self.lock:
            guest = self._guest(key)
            late = guest.closing and self.clock() - guest.heard < LATE_S
            if not guest.gone and not self.ended and told.bundle == guest.bundle and not late:
                guest.phase, guest.done, guest.total = told.phase, told.done, told.total
                guest.heard, guest.closing = self.clock(), False
            return Said({"go": not self.ended and not guest.gone, "why": self.ended or guest.gone})

    def result(self, key: str, body: bytes) -> Said:
        """Figures of the bundle that the guest is at."""
        with self.lock:
            guest = self._guest(key)
            try:
                told = read(Result, body)
                self._in_turn(guest, told.bundle)
                problems = list(problems_of(told, self.wanted))
            except Malformed as error:
                problems = [str(error)]
            if problems:
                self._fail(guest, f"what it sent was refused: {'; '.join(problems[:3])}")
                raise Refused(400, "malformed")
            self._take(guest, told)
            return Said({"bundle": guest.bundle})

    def failed(self, key: str, body: bytes) -> Said:
        """Why the guest gives a bundle up."""
        told = read(Failed, body)
        with self.lock:
            guest = self._guest(key)
            self._in_turn(guest, told.bundle)
            self._fail(guest, one_line(told.why[:MOST_WORD]) or "it says no reason")
            return Said({"bundle": guest.bundle})

    def leave(self, key: str, body: bytes) -> Said:
        """The page closes; what it says is a last sign of life."""
        with self.lock:
            self.beat(key, body)
            guest = self._guest(key)
            if guest.bundle < len(self.wanted.bundles):
                guest.closing, guest.heard = True, self.clock()
            return Said({})

    def tick(self) -> None:
        """Give up who said nothing for too long."""
        with self.lock:
            for guest in self.guests:
                silent = self.clock() - guest.heard
                if guest.gone or guest.bundle >= len(self.wanted.bundles):
                    continue
                if guest.closing and silent > CLOSED_S:
                    self._lose(guest, "its page was closed")
                elif silent > SILENT_S:
                    self._lose(guest, f"nothing was heard of it for {SILENT_S:g} s; its screen was locked, or it left")

    def _lose(self, guest: Guest, why: str) -> None:
        place = _at(guest)
        self._fail(guest, f"{why}, {place}")
        guest.gone = why

    def over(self) -> bool:
        """Whether all phones came, and none of them is waited for any more."""
        with self.lock:
            through = [one for one in self.guests if one.gone or one.bundle >= len(self.wanted.bundles)]
            return len(through) >= self.phones

    def end(self, why: str) -> None:
        """Nothing more is taken; what is missing of each guest fails with the reason."""
        with self.lock:
            self.ended = why
            for guest in self.guests:
                if guest.bundle < len(self.wanted.bundles) and guest.phase != "opened" and not guest.gone:
                    self._fail(guest, f"{why}, {_at(guest)}")
                while guest.bundle < len(self.wanted.bundles):
                    self._fail(guest, f"{guest.gone or why}, before it")

    def _guest(self, key: str) -> Guest:
        guest = self._find(key)
        if guest is None:
            raise Refused(403, "no key")
        return guest

    def _in_turn(self, guest: Guest, bundle: int) -> None:
        if self.ended or guest.gone or bundle != guest.bundle or bundle >= len(self.wanted.bundles):
            raise Refused(409, "out of turn")

    def _fail(self, guest: Guest, why: str) -> None:
        self.visits.append(Visit(guest.bundle, guest.name, guest.about, problem=why, runtime=RUNTIME))
        self._next(guest)

    def _next(self, guest: Guest) -> None:
        guest.bundle, guest.phase, guest.done, guest.total = guest.bundle + 1, "opened", 0.0, 0.0
        guest.heard = self.clock()

    def _take(self, guest: Guest, told: Result) -> None:
        wrong = [check for check in told.checks if not check.passed and check.name != HARMLESS]
        if wrong:
            words = "; ".join(f"{one.name}: {', '.join(one.failures[:3])}" for one in wrong)
            self._fail(guest, f"the self-test failed there on {told.backend}: {one_line(words[:MOST_WORD])}")
            return
        self.visits.append(_visit(guest, told, self.wanted.bundles[guest.bundle]))
        self._next(guest)


def _visit(guest: Guest, told: Result, name: str) -> Visit:
    tests = sum(check.count for check in told.checks)
    odd = [check for check in told.checks if not check.passed]
    self_test = f"passed: {tests} checks" + "".join(
        f", but {len(check.failures)} image {check.name} read otherwise" for check in odd
    )
    threads = f"{told.threads} thread{'s' if told.threads > 1 else ''}"
    runtime = f"{RUNTIME} ({told.backend}, {threads})"
    by = one_line(told.memory_by) if told.memory_bytes is not None else "not told by this browser"
    notes = [f"{name} on {guest.name}: {one_line(told.why)}; self-test {self_test}; memory {by}, after the questions."]
    if told.cpu_pressure:
        notes.append(f"{name} on {guest.name}: CPU pressure at worst {one_line(told.cpu_pressure)}.")
    if told.battery_percent is not None:
        notes.append(f"{name} on {guest.name}: battery at {told.battery_percent:g} %.")
    return Visit(
        guest.bundle, guest.name, guest.about, runtime=runtime, self_test=self_test,
        answers=tuple(schema.to_json(one) for one in told.answers),
        figures={"load_ms": told.load_ms, "peak_memory_bytes": told.memory_bytes}, notes=tuple(notes),
    )  # fmt: skip


def _at(guest: Guest) -> str:
    """Where it was, in words."""
    if guest.phase == "opened":
        return "before it began"
    if guest.phase == "questions":
        return f"after {guest.done:g} of {guest.total:g} questions"
    return {"download": "while downloading", "load": "while loading", "memory": "while measuring memory"}.get(
        guest.phase, f"in the {guest.phase}"
    )


def _about(told: Join) -> dict[str, Any]:
    browser, system = browser_of(told.agent)
    found = {
        "browser": browser, "system": system, "model": one_line(told.model[:80]), "cores": told.cores,
        "memory_gib": told.memory_gib, "screen": one_line(told.screen[:40]), "touch_points": told.touch,
        "secure_context": told.secure, "isolated": told.isolated, "webgpu": told.webgpu,
        "user_agent": one_line(told.agent[:MOST_WORD]),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value not in ("", None)}


def _named(told: Join) -> str:
    browser, system = browser_of(told.agent)
    return f"{one_line(told.model[:40]) or system}, {browser}"
