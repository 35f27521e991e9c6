"""Manifests changed as a faulty or hostile exporter would write them: sealed, and right about their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.bundle import MANIFEST, sealed
from edgekit.files import sha256_file


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """Put sizes and hashes of what lies there into a bundle's manifest, change it, and seal it anew.

    Args:
        folder: The bundle; files that are gone leave the list.
        change: Of the manifest as JSON.

    Returns:
        The folder.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in manifest["files"]
        if (folder / name).is_file()
    }
    change(manifest)
    (folder / MANIFEST).write_bytes(sealed(manifest))
    return folder


def changed(bundle: Path, folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """A copy of a bundle with one JSON file changed, sealed anew.

    Args:
        bundle, folder: The bundle, and where its copy goes.
        name: Of the file, `manifest.json` or another.
        change: From what stands in it to what shall.
    """
    shutil.copytree(bundle, folder)
    value = change(json.loads((folder / name).read_text()))
    if name == MANIFEST:
        (folder / MANIFEST).write_bytes(sealed(value))
        return folder
    (folder / name).write_text(json.dumps(value))
    return reseal(folder)
