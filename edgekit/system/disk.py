"""Space on a disk: refused before it runs out where that is sure, and named where a tool ran out of it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import EdgekitError, NoSpaceError
from edgekit.files import is_disk_full

FIX = "Free some space, or write elsewhere with --out, and run the command again."


@contextmanager
def room_for(path: Path, least: int, most: int) -> Iterator[None]:
    """Write below `path` in this block.

    Tools that write by themselves (protobuf, Core ML's, Core AI's) end on a full disk in errors that do not name it,
    and clear up before anyone can look. So what fails without an explanation where there is less than `most` is said to
    have failed for that, with the tool's own words beside it.

    Args:
        path: A file or folder that need not be there yet.
        least: Bytes that it takes for certain.
        most: Bytes that it may take while it is made.

    Raises:
        NoSpaceError: there is less than `least`, or it ran out.
    """
    if (free := free_bytes(path)) < least:
        raise NoSpaceError(
            f"No space for {path}.", why=f"{size(free)} are free there, and it takes {size(least)} at least.", fix=FIX
        )
    try:
        yield
    except Exception as error:
        free = free_bytes(path)
        full = isinstance(error, NoSpaceError) or is_disk_full(error)
        if not full and (isinstance(error, EdgekitError) or free >= most):
            raise
        reason = error.__cause__ if isinstance(error, NoSpaceError) and error.__cause__ is not None else error
        words = (str(reason).strip() or type(reason).__name__).splitlines()[0][:300]
        raise NoSpaceError(
            f"No space left while writing {path}.",
            why=f"{size(free)} are free there, and it may take {size(most)} while it is made.\n{words}",
            fix=FIX,
        ) from error


def free_bytes(path: Path) -> float:
    """What may still be written at `path`: free space, or the longest file that this process may write."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return min(shutil.disk_usage(there).free, _longest_file())


def _longest_file() -> float:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def size(count: float) -> str:
    """Bytes for people: 3.2 GB, 41 MB, 900 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.{1 if count < 10 * scale else 0}f} {unit}"
    return f"{count / 1e3:.0f} kB"
