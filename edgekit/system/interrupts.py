"""Ctrl-C and SIGTERM: answered at once, and by the second at the latest obeyed at once.

What edgekit keeps survives SIGKILL, so ending is always safe; the first signal only gives what is under way the chance
to come to a good end. Python runs signal handlers in the main thread between two of its own instructions, which may be
seconds away (a matrix product, a barrier). So a thread of its own reads the signals here, from the file descriptor that
C writes them to.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from edgekit.asides import remove_own_asides
from edgekit.console import is_main_process
from edgekit.visible import visible

DEAF_S = 5.0
"""How long the main thread may not answer, outside of `finishing`, before the process is ended around it."""
EXIT_S = 1.0
"""How long the interpreter's own end may take: it joins threads that may wait for a server."""

TICK_S = 0.2
"""How often a process that was asked to end looks whether it must be ended."""

_asked: int | None = None  # the first signal
_answered = threading.Event()
_under_way = ""
_finishing = 0


def install() -> None:
    """Take Ctrl-C and SIGTERM over from Python; for a process of edgekit's own, from its main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _handle)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="interrupts", daemon=True).start()


def asked() -> bool:
    """Whether the user, or the system, wants an end."""
    return _asked is not None


def check() -> None:
    """End here, if that was asked for: an exception that a signal raises inside a callback may be lost.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: after SIGTERM.
    """
    if _asked == signal.SIGINT:
        raise KeyboardInterrupt
    if _asked is not None:
        sys.exit(128 + _asked)


def say(under_way: str) -> None:
    """What is under way from now on, in the words of "Interrupted: leaving ..."."""
    global _under_way
    _under_way = under_way


@contextmanager
def finishing(what: str) -> Iterator[None]:
    """A block that asks `asked()` itself and comes to a good end; the first signal does not interrupt it.

    Args:
        what: In the words of "Interrupted: finishing ...".
    """
    global _finishing
    before = _under_way
    say(what)
    _finishing += 1
    try:
        yield
    finally:
        _finishing -= 1
        say(before)


def leave(code: int) -> None:
    """The interpreter is about to end by itself; end it with this exit code if it does not within EXIT_S."""
    timer = threading.Timer(EXIT_S, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _handle(number: int, _: FrameType | None) -> None:
    global _asked
    if _asked is None:
        _asked = number
    _answered.set()
    if not _finishing:
        check()


def _watch(reader: int) -> None:
    """The thread: reads a byte for each signal that has a handler."""
    global _asked
    first: int | None = None
    begun, launcher = 0.0, os.getppid()
    while True:
        if not select.select([reader], [], [], None if first is None else TICK_S)[0] and first is not None:
            if not _answered.is_set() and not _finishing and time.monotonic() > begun + DEAF_S:
                _end(128 + first, "It does not come to an end by itself: ended.")
            if os.getppid() != launcher and "RANK" in os.environ:  # a launcher does not pass the second one on
                _end(128 + first, "The launcher is gone: ended.")
            continue
        for number in os.read(reader, 64):
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            if first is not None:
                _end(128 + number, "Ended at once. What was kept is whole: the same command goes on from there.")
            first, begun = number, time.monotonic()
            _asked = number
            _tell(f"{'Interrupted' if number == signal.SIGINT else 'Asked to end'}: {_plan()}")


def _plan() -> str:
    verb = "finishing" if _finishing else "leaving"
    what = f"{verb} {_under_way}" if _under_way else "ending"
    return f"{what}. Once more ends it at once; nothing that is kept is lost by that."


def _tell(text: str) -> None:
    if is_main_process():
        with suppress(OSError, ValueError):
            os.write(2, f"\n{visible(text)}\n".encode())


def _end(code: int, text: str) -> None:
    """End the process and its children without unwinding."""
    _tell(text)
    cleaner = threading.Thread(target=remove_own_asides, daemon=True)
    cleaner.start()
    _end_children()
    cleaner.join(EXIT_S)
    os._exit(code)


def _end_children() -> None:
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
