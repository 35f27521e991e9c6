"""What is written aside before it gets its name: locked while its process lives, cleared away when that has died."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.system.locks import lock

_LEFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)", re.DOTALL)
LARGE_FOLDER = 1000
"""Names in a folder above which it is listed once in a process only: it may hold as many shards as there are."""
_large: set[Path] = set()
_own: set[Path] = set()


def clear_left_behind(folder: Path, *, deep: bool = True) -> list[str]:
    """Remove what dead processes were writing aside below a folder; what a live one writes stays.

    Args:
        folder: It need not be there.
        deep: Anywhere below it, not right in it alone.

    Returns:
        The names removed, relative to `folder`.
    """
    found = [path for path in sorted((folder.rglob if deep else folder.glob)(".*")) if _LEFT.fullmatch(path.name)]
    return [path.relative_to(folder).as_posix() for path in found if path.exists() and _clear(path)]


def remove_own_asides() -> None:
    """Remove what this process is writing aside; for a process that is about to end without unwinding."""
    for path in list(_own):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def clear_left_behind_of(path: Path) -> None:
    """The same for what was to become `path`."""
    folder = path.parent
    if folder in _large:
        return
    names = [one.name for one in folder.iterdir()]
    if len(names) > LARGE_FOLDER:
        _large.add(folder)
    for name in sorted(names):
        found = _LEFT.fullmatch(name)
        if found is not None and found["name"] == path.name:
            _clear(folder / name)


def _clear(left: Path) -> bool:
    """Remove a leftover unless a live process has it; a whole folder that lost its name gets that back."""
    if left.is_symlink() or (held := hold(left)) is None:
        return False
    try:
        found = _LEFT.fullmatch(left.name)
        assert found is not None
        if found["kind"] == "old" and not left.with_name(found["name"]).exists():
            left.replace(left.with_name(found["name"]))
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    finally:
        os.close(held)
    return True


@contextmanager
def aside(path: Path, make: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """A new file or folder beside `path`, locked for as long as the block runs and removed after it.

    Yields:
        Its path, and its descriptor.
    """
    while True:
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        descriptor = make(beside)
        if _lock(descriptor) is not False and beside.exists():
            break  # else another took it for left behind before the lock was there
        os.close(descriptor)
    _own.add(beside)
    try:
        yield beside, descriptor
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)
        _own.discard(beside)
        os.close(descriptor)


def made_file(path: Path) -> int:
    """A new file; its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def made_folder(path: Path) -> int:
    """A new folder; its descriptor."""
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _lock(descriptor: int) -> bool | None:
    """Lock a file or folder until its descriptor is closed, or the process ends in whatever way.

    Returns:
        Whether; None where the file system knows no locks.
    """
    try:
        return lock(descriptor)
    except OSError:
        return None


def hold(path: Path) -> int | None:
    """A locked descriptor of what is there; None where it is gone, another has it, or there are no locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    if not _lock(descriptor):
        os.close(descriptor)
        return None
    return descriptor
