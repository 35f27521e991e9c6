"""How a verb is run on a hostile bundle, with bounds of time and memory, and what must come of it."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS = 10.0
"""Processor time of one verb."""
BYTES = 2_000_000_000
"""Resident memory of one verb."""


@dataclass(frozen=True)
class Outcome:
    """How a verb ended.

    Attributes:
        code: Exit code; below 0 the number of a signal.
        said: Standard output and error.
        seconds: Of the processor.
        peak_bytes: Resident; of a fork, beyond what it began with.
        outside: What lies beside the bundle that was not there before.
    """

    code: int
    said: str
    seconds: float
    peak_bytes: int
    outside: tuple[str, ...]


def check(found: Outcome, names: str = "", codes: tuple[int, ...] = (1,)) -> None:
    """Assert that a verb refused, and how."""
    assert "Traceback" not in found.said, found.said[-3000:]
    assert found.code in codes, (found.code, found.said[-2000:])
    assert found.seconds < SECONDS and found.peak_bytes < BYTES, (found.seconds, found.peak_bytes)
    assert found.outside == ()
    assert len(found.said) < 20_000 and found.said.strip()
    assert names in found.said, (names, found.said)


def arguments(verb: str, bundle: Path, place: Path) -> list[str]:
    """A verb's command line."""
    if verb == "run":
        shown = ["--prompt", "what is there?", "--image", str(image(place))]
        return ["run", str(bundle), *shown, "--max-new-tokens", "3"]
    if verb == "bench":
        questions = place / "questions.jsonl"
        line = {"images": [str(image(place))], "question": "what is there?", "answer": "circle", "id": "1"}
        questions.write_text(json.dumps(line) + "\n")
        return ["bench", str(bundle), "--data", str(questions), "--out", str(bundle.parent / "report"), "--limit", "1"]
    return [verb, str(bundle)]


def image(place: Path) -> Path:
    """A drawn one."""
    from edgekit.demo.shapes import draw

    path = place / "picture.png"
    if not path.exists():
        draw(0)[0].save(path)
    return path


def forked(verb: str, bundle: Path, place: Path) -> Outcome:
    """Run a verb in a fork of this process, with limits of processor time and memory."""
    return forked_words(arguments(verb, bundle, place), bundle, place)


def forked_words(words: list[str], bundle: Path, place: Path) -> Outcome:
    """As `forked`, of any command line."""
    shared = _resident_bytes()  # of a long run of tests it is gigabytes, and none of the verb's
    with _watched(bundle, place) as (log, outside):
        child = os.fork()
        if child == 0:
            _run_here(words, log)
        _, status, used = os.wait4(child, 0)
    return Outcome(
        os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), used.ru_utime + used.ru_stime,
        max(0, used.ru_maxrss * 1024 - shared), tuple(outside),
    )  # fmt: skip


def _run_here(words: list[str], log: Path) -> None:
    """The fork's part; it never comes back."""
    code = 70
    gc.freeze()  # what the tests hold is no verb's: else each collection goes through it, and copies its pages
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        limit(_virtual_bytes() + BYTES)
        from edgekit.cli import build

        try:
            build()(words, standalone_mode=True)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _virtual_bytes() -> int:
    return _pages()[0] * os.sysconf("SC_PAGE_SIZE")


def _resident_bytes() -> int:
    return _pages()[1] * os.sysconf("SC_PAGE_SIZE")


def _pages() -> list[int]:
    """Of this process: virtual, resident, shared."""
    return [int(word) for word in Path("/proc/self/statm").read_text().split()]


def limit(most_bytes: int) -> None:
    """Bounds of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 2))
    signal.alarm(120)  # a wait costs no processor time


def apart(verb: str, bundle: Path, place: Path, most_bytes: int = 12 << 30) -> Outcome:
    """Run a verb in a process of its own, as a user does.

    Args:
        verb, bundle, place: As for `forked`.
        most_bytes: Of address space, of each of its processes; libraries reserve more than they use.
    """
    words = [sys.executable, "-m", "edgekit", *arguments(verb, bundle, place)]
    with _watched(bundle, place) as (log, outside):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        with log.open("wb") as stream:
            code = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=300, cwd=place, check=False,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes)),
            ).returncode  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss * 1024 if after.ru_maxrss > before.ru_maxrss else 0
    return Outcome(code, log.read_text(errors="replace"), min(spent, time.monotonic() - began), peak, tuple(outside))


@contextmanager
def _watched(bundle: Path, place: Path) -> Iterator[tuple[Path, list[str]]]:
    """Notes what appears beside the bundle."""
    log = place / "log.txt"
    log.touch()

    def there() -> set[str]:
        found = {path.relative_to(place).as_posix() for path in place.rglob("*")}
        return {name for name in found if not name.startswith(("inside/bundle/", "inside/report"))}

    before, outside = there(), list[str]()
    yield log, outside
    outside.extend(sorted(there() - before))
