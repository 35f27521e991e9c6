"""Seconds per phase, added up over all the processes a run took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.seal import read_sealed_json, write_sealed_json
from edgekit.system import interrupts


class PhaseClock:
    """Seconds spent in each phase.

    Args:
        path: JSON file that keeps them between processes. A killed process leaves out what it spent since its phase
            began.
        keep: Whether this process writes the file.
    """

    def __init__(self, path: Path, *, keep: bool = True) -> None:
        self.path, self.keep = path, keep
        self.seconds: dict[str, float] = read_sealed_json(path) if path.exists() else {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's time, also when it is interrupted."""
        start = time.monotonic()
        interrupts.check()
        interrupts.say(f"{name.replace('_', ' ')}, what it finished is kept")
        try:
            yield
            interrupts.check()
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)
            if self.keep:
                write_sealed_json(self.path, self.seconds)
