"""Hashes, and writes that either happen whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.asides import aside, clear_left_behind_of, hold, made_file, made_folder
from edgekit.errors import BundleError, NoSpaceError, StorageError
from edgekit.visible import json_text

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Contents of a regular file; a pipe or a device is never waited for.

    Raises:
        OSError: not there, may not be read, no regular file, or larger than `most_bytes`.
        ValueError: no file name at all.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
            kind = next((text for holds, text in kinds if holds(status.st_mode)), "a device")
            raise OSError(f"It is {kind}, no file.")
        if status.st_size > most_bytes:
            raise OSError(f"It has {status.st_size:,} bytes; at most {most_bytes:,} are read.")
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(most_bytes)
    finally:
        os.close(descriptor)


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
    if any(len(part.encode(errors="replace")) > 255 for part in pure.parts):
        raise BundleError(f"{name[:80]!r} is too long a file name.", fix="Do not use this bundle.")
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
            raise NoSpaceError(
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
    if is_disk_full(error):
        return True
    if isinstance(error, OSError):
        return False
    there = next((folder for folder in (path, *path.parents) if folder.exists()), None)
    wrote = type(error).__name__ in ("SafetensorError", "RuntimeError")
    return wrote and there is not None and shutil.disk_usage(there).free < _CHUNK


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that the disk is full or a file too long for it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: aside first, then renamed over the old one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole: aside first, then renamed over the old one; both are on the disk when this returns."""
    with storage_errors(path):
        make_folder(path.parent)
        clear_left_behind_of(path)
        with aside(path, made_file) as (beside, descriptor):
            with os.fdopen(os.dup(descriptor), "wb") as stream:
                stream.write(data)
                stream.flush()
                _sync(descriptor)
            beside.replace(path)
            sync_path(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to fill that takes its name only when the block ends well, and is on the disk then.

    Args:
        path: The final name; a file that is there is replaced.

    Yields:
        The file aside; where the block removes it, `path` stays as it is.
    """
    with storage_errors(path):
        make_folder(path.parent)
        clear_left_behind_of(path)
        with aside(path, made_file) as (beside, descriptor):
            yield beside
            if beside.exists():
                _sync(descriptor)
                beside.replace(path)
                sync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole, indented, keys in the order given; controls are escaped (`edgekit.visible`)."""
    write_text(path, json_text(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill that takes its final name only when the block ends well, and all of it is on the disk.

    Args:
        path: The final name.
        replace: Put it in the place of an existing folder; else an existing one is an error.

    Yields:
        The folder aside, on the same file system.

    Raises:
        StorageError: it exists, or cannot be written.
    """
    with storage_errors(path):
        make_folder(path.parent)
        clear_left_behind_of(path)
        if path.exists() and not replace:
            raise StorageError(f"{path} exists already.", fix="Name another folder, or remove this one.")
        with aside(path, made_folder) as (beside, _):
            yield beside
            sync_tree(beside)
            if path.exists():
                _swap(beside, path)
            else:
                beside.replace(path)
            sync_path(path.parent)


def _swap(beside: Path, path: Path) -> None:
    """Put a folder in the place of another, which is removed."""
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    held = hold(path)  # so that nobody takes it for left behind while it has the other name
    try:
        path.replace(old)
        try:
            beside.replace(path)
        except BaseException:
            old.replace(path)
            raise
        shutil.rmtree(old)
    finally:
        if held is not None:
            os.close(held)


# ---------------------------------------------------------------------------------------------------- on the disk


def make_folder(path: Path) -> None:
    """Make a folder and those above it; their names are on the disk when this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_path(folder.parent)


def sync_path(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk; nothing where its file system cannot say."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # one may write into a folder, and not list it
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have a folder's files and folders, at every depth, on the disk; several at once, which is one journal's turn."""
    from concurrent.futures import ThreadPoolExecutor

    paths = [path for path in folder.rglob("*") if not path.is_symlink() and (path.is_file() or path.is_dir())]
    with ThreadPoolExecutor(8, thread_name_prefix="sync") as pool:
        list(pool.map(sync_path, [*paths, folder]))


def _sync(descriptor: int) -> None:
    try:
        if sys.platform == "darwin":  # where fsync alone leaves it in the drive's own memory
            from fcntl import F_FULLFSYNC, fcntl

            with suppress(OSError):
                fcntl(descriptor, F_FULLFSYNC)
                return
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise


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
