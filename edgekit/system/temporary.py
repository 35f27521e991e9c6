"""Temporary folders that are cleared away even when their process was killed: the next call does it.

A room is locked for as long as its process lives, in whatever way it ends; so what lies there without a lock is left
behind by a dead one. Only folders of this name and of this user are ever touched.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.asides import hold

PREFIX, SUFFIX = "edgekit-", ".room"
TRIES = 5  # of making one that nobody clears away at once


@contextmanager
def room(purpose: str, base: Path | None = None) -> Iterator[Path]:
    """A temporary folder for as long as the block lasts; those of dead processes are cleared away before.

    Args:
        purpose: A word for its name.
        base: Where; the usual place of temporary files when None.
    """
    place = base or Path(tempfile.gettempdir())
    sweep(place)
    folder, held = _make(place, purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def sweep(base: Path) -> None:
    """Clear away the rooms in a folder that no living process holds."""
    for left in base.glob(f"{PREFIX}*{SUFFIX}"):
        try:
            if left.is_symlink() or not left.is_dir() or left.stat().st_uid != os.getuid():
                continue
            held = hold(left)
        except OSError:  # another has cleared it away meanwhile
            continue
        if held is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _make(base: Path, purpose: str) -> tuple[Path, int | None]:
    """A new folder and its lock; None where the file system knows no locks."""
    for number in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-", suffix=SUFFIX, dir=base))
        try:
            held = hold(folder)
            # Another process may have taken it for a dead one's, between its making and its lock.
            if held is not None and folder.stat().st_ino == os.fstat(held).st_ino:
                return folder, held
            if held is None and number == TRIES - 1 and folder.is_dir():
                return folder, None
            if held is not None:
                os.close(held)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(f"a folder in {base} that stays")
