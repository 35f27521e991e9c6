"""What is done to a bundle: a field or a file of it is changed, and the manifest sealed anew."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manifests import reseal

Change = Callable[[Path], None]


def field(path: str, value: Any) -> Change:
    """Set a field of the manifest: a dotted path, numbers for places in lists; `*` stands for any one key or place."""

    def change(folder: Path) -> None:
        reseal(folder, lambda manifest: put(manifest, path.split("."), value))

    return change


def put(value: Any, path: list[str], new: Any) -> None:
    """Set what a path leads to."""
    for step in path[:-1]:
        value = value[_key(value, step)]
    value[_key(value, path[-1])] = new


def _key(value: Any, step: str) -> Any:
    if isinstance(value, list):
        return 0 if step == "*" else int(step)
    return next(iter(value)) if step == "*" else step


def text(data: bytes | str) -> Change:
    """Put other bytes in the place of manifest.json."""
    return lambda folder: write(folder / "manifest.json", data)


def file(name: str, data: bytes | str | Callable[[bytes], bytes]) -> Change:
    """Put other bytes in the place of a listed file, under its right hash.

    Args:
        name: A file name, or the start of one, or a component's name for its file.
        data: Bytes, or what makes them from the old ones.
    """

    def change(folder: Path) -> None:
        path = folder / named(folder, name)
        old = path.read_bytes()
        write(path, data(old) if callable(data) else data)
        reseal(folder)

    return change


def setting(name: str, path: str, value: Any) -> Change:
    """Set a field of a JSON file beside the manifest."""

    def change(folder: Path) -> None:
        parsed = json.loads((folder / name).read_text())
        put(parsed, path.split("."), value)
        write(folder / name, json.dumps(parsed))
        reseal(folder)

    return change


def write(path: Path, data: bytes | str) -> None:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def named(folder: Path, name: str) -> str:
    manifest = json.loads((folder / "manifest.json").read_text())
    if name in manifest["components"]:
        return str(manifest["components"][name]["file"])
    return next(listed for listed in manifest["files"] if listed.startswith(name))


def special(name: str, make: Callable[[Path], object]) -> Change:
    """Put something that is no regular file in the place of one."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def deep(levels: int) -> str:
    """A JSON text that is nested."""
    return "[" * levels + "1" + "]" * levels


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change
