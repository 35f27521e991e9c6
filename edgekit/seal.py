"""Seals: how a file, or a whole folder, shows that it is still what was written.

After a power cut a file may be there by name and be short, empty or zero at its end, and weights that end in zeros load
as well as any. A sealed file holds the SHA-256 of all its bytes, taken with zeros in the digest's own place, so one
rename brings both; a folder of others' files (weights, a trainer's checkpoint) gets one more file that lists them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgekit.errors import DamagedError
from edgekit.files import sha256_file, sync_tree, tree_files, write_bytes
from edgekit.visible import json_text

KEY = "edgekit_seal"
BLANK = "0" * 64
FOLDER_SEAL = "edgekit-seal.json"
_DIGEST = re.compile(rb".{1,6}?([0-9a-f]{64})", re.DOTALL)
_checked: dict[Path, tuple[tuple[str, int, int, int], ...]] = {}


def sealed(data: bytes) -> bytes:
    """`data` with its digest in the place it keeps free: BLANK, soon after the last KEY."""
    place = data.index(BLANK.encode(), data.rindex(KEY.encode()))
    return data[:place] + hashlib.sha256(data).hexdigest().encode() + data[place + len(BLANK) :]


def intact(data: bytes) -> bool | None:
    """Whether bytes are as they were sealed; None where they bear no seal."""
    place = data.rfind(KEY.encode())
    if place < 0:
        return None
    found = _DIGEST.match(data, place + len(KEY))
    if found is None:
        return False
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[: found.start(1)], BLANK.encode(), view[found.end(1) :]):
        digest.update(part)
    return digest.hexdigest().encode() == found[1]


# --------------------------------------------------------------------------------------------------------------- JSON


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object whole, with its seal as the last key."""
    text = json_text({**value, KEY: BLANK}, indent=2, allow_nan=False) + "\n"
    write_bytes(path, sealed(text.encode()))


def read_sealed_json(path: Path) -> dict[str, Any]:
    """A JSON object without its seal; one that was written before there were seals is taken if it can be read.

    Raises:
        DamagedError: it is not what was written.
    """
    value = _read(path)
    if not isinstance(value, dict):
        raise DamagedError(path, _state(path.read_bytes()))
    return value


def write_sealed_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON list of objects whole, with its seal as the last key of the last; a list of none bears no seal."""
    marked = [*rows[:-1], {**rows[-1], KEY: BLANK}] if rows else []
    data = (json_text(marked, indent=2, allow_nan=False) + "\n").encode()
    write_bytes(path, sealed(data) if rows else data)


def read_sealed_rows(path: Path) -> list[dict[str, Any]]:
    """A JSON list of objects without its seal; one of before there were seals is taken if it can be read.

    Raises:
        DamagedError: it is not what was written.
    """
    value = _read(path)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DamagedError(path, _state(path.read_bytes()))
    return value


def _read(path: Path) -> Any:
    data = path.read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise DamagedError(path, _state(data)) from None
    holder = value[-1] if isinstance(value, list) and value else value
    if intact(data) is False or (isinstance(holder, dict) and _seal_renamed(holder)):
        raise DamagedError(path, _state(data))
    if isinstance(holder, dict):
        holder.pop(KEY, None)
    return value


def _seal_renamed(value: dict[str, Any]) -> bool:
    """Whether the seal's own key is what changed: a digest stands last, and under another name."""
    name, last = next(reversed(value.items()), ("", ""))
    return name != KEY and len(name) == len(KEY) and isinstance(last, str) and len(last) == len(BLANK)


def _state(data: bytes) -> str:
    if not data:
        return "It is empty."
    if not data.strip(b"\0"):
        return "It is all zeros."
    return "It is not what was written there."


# ------------------------------------------------------------------------------------------------------------- folders


def seal_folder(folder: Path) -> None:
    """Have a folder's files on the disk, and list their sizes and digests in one more, written last."""
    sync_tree(folder)
    names = [name for name in tree_files(folder) if name != FOLDER_SEAL]
    digests = _digests(folder / name for name in names)
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests, strict=True)
    }
    write_sealed_json(folder / FOLDER_SEAL, {"files": files})


def fault_of(folder: Path) -> str | None:
    """What of a sealed folder is not as it was; None where all is, or it bears no seal. Other files do not matter.

    A folder that was found right is read again only when it changed.
    """
    if not (folder / FOLDER_SEAL).exists():
        return None
    now = tuple((name, *_stamp(folder / name)) for name in tree_files(folder))
    if _checked.get(folder.resolve()) == now:
        return None
    try:
        files = read_sealed_json(folder / FOLDER_SEAL)["files"]
    except DamagedError:
        return f"its seal, {FOLDER_SEAL}, is damaged"
    for name, entry in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (size := (folder / name).stat().st_size) != entry["bytes"]:
            return f"{name} has {size:,} bytes instead of {entry['bytes']:,}"
    found = _digests(folder / name for name in files)
    for (name, entry), digest in zip(files.items(), found, strict=True):
        if digest != entry["sha256"]:
            return f"{name} is not what was written there"
    _checked[folder.resolve()] = now
    return None


def check_folder(folder: Path) -> None:
    """Refuse a sealed folder that is not as it was.

    Raises:
        DamagedError: what is wrong.
    """
    if fault := fault_of(folder):
        raise DamagedError(folder, f"There, {fault}.")


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file; several at once, as hashing lets other threads run."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="seal") as pool:
        return list(pool.map(sha256_file, paths))
