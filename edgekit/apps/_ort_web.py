"""onnxruntime-web's files: from a folder, from node_modules, or fetched once by npm and kept, checked by their hash."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.files import new_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package's archive, as npm's own lock files name it."""
FILES = (
    "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
)  # fmt: skip
"""Of WebAssembly on the CPU, and of WebGPU."""
FETCH_S = 300.0


def ort_files(folder: Path | None) -> dict[str, Path]:
    """Paths of FILES by name.

    Args:
        folder: Of the package, or of its `dist`; None to look in node_modules, then in the cache, then to ask npm.

    Raises:
        EdgekitError: they are not in the folder, or nowhere and npm cannot fetch them.
    """
    if folder is not None:
        found = _in(folder)
        if found is None:
            raise EdgekitError(
                f"{folder} does not hold {PACKAGE}'s files.",
                why=f"Needed: {', '.join(FILES)}.",
                fix=f"npm install --ignore-scripts {PACKAGE}@{VERSION}    and give  --ort node_modules/{PACKAGE}",
            )
        return found
    for place in _places():
        if (found := _in(place)) is not None and _version(place) == VERSION:
            return found
    return _fetched()


def _in(folder: Path) -> dict[str, Path] | None:
    for place in (folder, folder / "dist"):
        found = {name: place / name for name in FILES}
        if all(path.is_file() for path in found.values()):
            return found
    return None


def _version(folder: Path) -> str:
    try:
        return str(json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _places() -> Iterator[Path]:
    here = Path.cwd()
    for parent in (here, *here.parents):
        yield parent / "node_modules" / PACKAGE
    yield _cache()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "edgekit" / f"{PACKAGE}-{VERSION}"


def _fetched() -> dict[str, Path]:
    """The files from npm, in the cache.

    Raises:
        EdgekitError: npm is not installed or fails, or gives another archive.
    """
    npm = shutil.which("npm")
    by_hand = (
        f"Where npm works:  npm install --ignore-scripts {PACKAGE}@{VERSION}\n"
        f"then here:        --ort FOLDER/node_modules/{PACKAGE}"
    )
    if npm is None:
        raise EdgekitError(
            f"{PACKAGE} {VERSION} is not here, and npm is not installed to fetch it.",
            why="A web app needs its WebAssembly files.",
            fix=by_hand,
        )
    with tempfile.TemporaryDirectory() as scratch:
        try:
            command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent"]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=FETCH_S)
        except subprocess.TimeoutExpired as error:
            why = f"It took longer than {FETCH_S:g} s."
            raise EdgekitError(f"npm does not fetch {PACKAGE}.", why=why, fix=by_hand) from error
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            why = " ".join(done.stderr.split())[-300:]
            raise EdgekitError(f"npm does not fetch {PACKAGE}.", why=why, fix=by_hand)
        return _unpacked(archives[0])


def _unpacked(archive: Path) -> dict[str, Path]:
    digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise EdgekitError(
            f"What npm gives as {PACKAGE} {VERSION} is not that package.",
            why=f"Its hash is {digest[:24]}..., and {INTEGRITY[:24]}... is expected.",
            fix="Look which registry npm is set to.",
        )
    with new_folder(_cache(), replace=True) as folder, tarfile.open(archive) as packed:
        for name in (*(f"dist/{name}" for name in FILES), "package.json"):
            stream = packed.extractfile(f"package/{name}")
            assert stream is not None
            (folder / Path(name).name).write_bytes(stream.read())
    found = _in(_cache())
    assert found is not None
    return found
