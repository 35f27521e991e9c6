"""Hashes, and writes that either happen whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.errors import BundleError, StorageError

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(folder: Path, *, names: list[str] | None = None) -> str:
    """SHA-256 over the sorted relative names and contents of a folder's files.

    Args:
        folder: Its files are read at every depth; the folder's own name does not count.
        names: Relative names to hash instead of all.
    """
    chosen = names if names is not None else tree_files(folder)
    digest = hashlib.sha256()
    for name in sorted(chosen):
        digest.update(name.encode() + b"\0" + bytes.fromhex(sha256_file(folder / name)))
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in one canonical spelling."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tree_files(folder: Path) -> list[str]:
    """Relative POSIX names of a folder's files at every depth, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused when `name` is absolute or leads out of `folder`, also through a link.

    Raises:
        BundleError: the name escapes, or cannot be a file's.
    """
    pure, top = PurePosixPath(name), folder.resolve()
    try:
        resolved = (folder / name).resolve()
    except ValueError as error:  # a null byte, half a surrogate pair
        raise BundleError(f"{name!r} is no file name.", why=str(error), fix="Do not use this bundle.") from error
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or top not in resolved.parents:
        raise BundleError(f"The file name {name!r} leads out of {folder}.", fix="Do not use this bundle.")
    return folder / name


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write below `path` into a StorageError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StorageError):
            raise
        if _disk_full(error, path):
            raise StorageError(
                f"No space left while writing {path}.", why=str(error), fix="Free some space and run the command again."
            ) from error
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(
                f"Cannot write {path}.", why=str(error), fix="Choose a folder you may write to, for example with --out."
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise StorageError(
                f"Cannot write {path}: a file of that name is in the way.", why=str(error), fix="Choose another path."
            ) from error
        raise


def _disk_full(error: Exception, path: Path) -> bool:
    """Whether a write failed for want of space; safetensors and torch say so in exceptions of their own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if "No space left on device" in str(error):
        return True
    there = next((folder for folder in (path, *path.parents) if folder.exists()), None)
    wrote = type(error).__name__ in ("SafetensorError", "RuntimeError")
    return wrote and there is not None and shutil.disk_usage(there).free < _CHUNK


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: aside first, then renamed over the old one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole: aside first, then renamed over the old one."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with aside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill that takes its final name only when the block ends well.

    Args:
        path: The final name.
        replace: Put it in the place of an existing folder; else an existing one is an error.
    Yields:
        The folder aside, on the same file system.
    Raises:
        StorageError: it exists, or cannot be written.
    """
    if path.exists() and not replace:
        raise StorageError(f"{path} exists already.", fix="Name another folder, or remove this one.")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_left_behind(path)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        aside.with_suffix(".new").mkdir()
        held = _hold(aside.with_suffix(".new"))  # before it has the name that others clear away
        aside.with_suffix(".new").replace(aside)
        try:
            yield aside
            if path.exists():
                old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
                path.replace(old)
                try:
                    aside.replace(path)
                except BaseException:
                    old.replace(path)
                    raise
                shutil.rmtree(old)
            else:
                aside.replace(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            if held is not None:
                os.close(held)


def _clear_left_behind(path: Path) -> None:
    """Remove what a killed process was writing aside; nobody can go on with it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        if left.is_dir() and not left.is_symlink() and (held := _hold(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _hold(folder: Path) -> int | None:
    """Lock a folder until its descriptor is closed, or the process ends in whatever way.

    None where another has it, or the file system knows no locks: such a folder is left alone.
    """
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """Temporary files of this process, tools' ones too, go into a folder inside `folder`, which is removed at the end.

    So they are on the disk that holds what they become, which may be far larger than /tmp; and what a kill leaves of
    them lies where `new_folder` clears up.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=folder, prefix=".scratch-", ignore_cleanup_errors=True) as place:
        tempfile.tempdir = place
        try:
            yield
        finally:
            tempfile.tempdir = before
