"""A bundle: one exported student as a folder that needs nothing else, with a manifest that says what it is.

`manifest.json` lists every file with its size and SHA-256, and is sealed with its own, so a bundle that was cut short
or changed is found before it is loaded. Names are relative: a bundle may be moved, copied to a phone, or unpacked
elsewhere. Nothing in it is a pickle. A seal is no signature: it shows that something changed, and not who wrote it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import bundle_checks, schema, strict_json
from edgekit.errors import BundleError
from edgekit.files import inside, sha256_file, sha256_json, tree_files, write_bytes
from edgekit.manifest import FileEntry, Manifest
from edgekit.visible import json_text

SCHEMA_VERSION = 4  # 2: buckets, position_axes, deepstack; 3: seal; 4: app/, golden/, the order of resizing
SEALED_SINCE = 3
MOST_MANIFEST_BYTES = 8 << 20
UNSEALED = "0" * 64
MANIFEST = "manifest.json"
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    folder: Path
    manifest: Manifest

    @property
    def hash(self) -> str:
        """SHA-256 over the names and contents of all files: the very artefact, wherever it lies."""
        return sha256_json({name: entry.sha256 for name, entry in sorted(self.manifest.files.items())})

    @property
    def size_bytes(self) -> int:
        """All files but the manifest."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def path(self, name: str) -> Path:
        """A file of the bundle, never one outside it."""
        return inside(self.folder, name)

    def check_parts(self) -> None:
        """Look whether the components that a student is split into are all there.

        Raises:
            BundleError: one is not.
        """
        encoders = [component for component, _ in self.manifest.encoders().values()]
        for name in ("text_decoder", "token_embedding", *encoders):
            if name not in self.manifest.components:
                raise BundleError(f"{self.folder} has no component {name!r}.", fix="Export the bundle again.")

    @property
    def unsealed(self) -> str:
        """What to tell of a manifest without a seal; "" for one that has it."""
        if self.manifest.seal:
            return ""
        return (
            f"{self.folder.name}: its manifest is of schema {self.manifest.schema_version}, which had no seal: "
            "a change of manifest.json itself would not be seen. An export of today seals it."
        )

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> Bundle:
        """Read a bundle and check that it is whole.

        Args:
            folder: The bundle.
            verify: Hash every file; the manifest's seal, sizes and names are checked in any case.

        Raises:
            BundleError: missing, damaged, tampered with, or of a newer schema.
        """
        bundle = cls(folder, _read_manifest(folder))
        for name, entry in bundle.manifest.files.items():
            _check_file(folder, name, entry, verify)
        _check_nothing_else(folder, bundle.manifest)
        return bundle


_hashed: ContextVar[dict[tuple[int, ...], str] | None] = ContextVar("hashed", default=None)


@contextmanager
def hashing_once() -> Iterator[None]:
    """Files of bundles are hashed once in this block, for as long as the file system says that they are the same.

    Each counts with its inode, size and times of change, the last of which no program can put back.
    """
    token = _hashed.set({})
    try:
        yield
    finally:
        _hashed.reset(token)


def _sha256(path: Path) -> str:
    known = _hashed.get()
    if known is None:
        return sha256_file(path)
    one = path.stat()
    state = (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
    if state not in known:
        known[state] = sha256_file(path)
    return known[state]


def entry_of(folder: Path, name: str) -> FileEntry:
    """Size and hash of a file as it is."""
    return FileEntry((folder / name).stat().st_size, sha256_file(folder / name))


def seal(folder: Path, hashed: Mapping[str, FileEntry] | None = None, **fields: Any) -> Manifest:
    """List a folder's files and write its manifest.

    Args:
        folder: Filled; a manifest in it is replaced.
        hashed: Files that were hashed a moment ago, and have not been touched since.
        fields: The rest of `Manifest`.
    """
    entries, known = {}, hashed or {}
    for name in tree_files(folder):
        _check_no_pickle(name)
        if name != MANIFEST:
            entries[name] = known[name] if name in known else entry_of(folder, name)
    manifest = Manifest(schema_version=SCHEMA_VERSION, files=entries, seal=UNSEALED, **fields)
    data = sealed(schema.to_json(manifest))
    write_bytes(folder / MANIFEST, data)
    return replace(manifest, seal=json.loads(data)["seal"])


def sealed(value: dict[str, Any]) -> bytes:
    """The bytes of a manifest.json with its seal.

    Args:
        value: The manifest as JSON; an older seal in it does not count.
    """
    text = json_text({**value, "seal": UNSEALED}, indent=2, allow_nan=False) + "\n"
    empty = text.encode()
    return _put_seal(empty, UNSEALED, hashlib.sha256(empty).hexdigest())


def _put_seal(data: bytes, old: str, new: str) -> bytes:
    """The bytes with another seal in the place of the old one."""
    before, place, after = data.rpartition(f'"seal": "{old}"'.encode())
    return before + place.replace(old.encode(), new.encode()) + after


def _check_seal(data: bytes, manifest: Manifest, source: str) -> None:
    """Raises a BundleError unless the seal is that of these very bytes, or of a schema that had none."""
    if manifest.schema_version < SEALED_SINCE and not manifest.seal:
        return
    empty = _put_seal(data, manifest.seal, UNSEALED)
    if hashlib.sha256(empty).hexdigest() != manifest.seal or empty == data:
        raise BundleError(
            f"{source} is not the manifest that was exported.",
            why=f"Its seal does not fit it: the SHA-256 it names is {manifest.seal[:12] or 'missing'}.",
            fix="Copy or export the bundle again.",
        )


def read_manifest(value: Any, source: str) -> Manifest:
    """A manifest from its JSON value.

    Raises:
        BundleError: newer, or not valid; every problem is listed.
    """
    manifest = schema.read_document(
        Manifest, value, newest=SCHEMA_VERSION, what="manifest", source=source, error=BundleError
    )
    bundle_checks.check(manifest, source)
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}.", fix="Make one:  edgekit export CHECKPOINT --target onnx"
        )
    try:
        data = strict_json.read_bytes(path, MOST_MANIFEST_BYTES)
        value = strict_json.loads(data, exact=True)
    except ValueError as error:  # also UnicodeDecodeError
        raise BundleError(f"{path} is damaged.", why=str(error), fix="Copy or export the bundle again.") from error
    manifest = read_manifest(value, str(path))
    _check_seal(data, manifest, str(path))
    return manifest


def _check_file(folder: Path, name: str, entry: FileEntry, verify: bool) -> None:
    path = inside(folder, name)
    again = "Copy or export the bundle again."
    _check_no_pickle(name)
    if not path.is_file():
        raise BundleError(f"{folder} lacks {name}.", fix=again)
    if (size := path.stat().st_size) != entry.bytes:
        raise BundleError(
            f"{path} has {size:,} bytes, its manifest says {entry.bytes:,}.",
            why="It was cut short or changed.",
            fix=again,
        )
    if verify and _sha256(path) != entry.sha256:
        raise BundleError(
            f"{path} is not the file that was exported.", why="Its SHA-256 differs from the manifest's.", fix=again
        )


def _check_no_pickle(name: str) -> None:
    if name.lower().endswith(PICKLES):
        raise BundleError(
            f"A bundle may not hold {name!r}: loading a pickle can run any code.", fix="Do not use this bundle."
        )


def _check_nothing_else(folder: Path, manifest: Manifest) -> None:
    """Nothing lies in the folder but the listed files, the manifest and what `edgekit verify` writes.

    Raises:
        BundleError: another file; a link to a folder, a pipe, a socket or a device.
    """
    known = {*manifest.files, MANIFEST, "parity.json"}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name not in known or not path.is_file():
            raise BundleError(
                f"{folder} holds {name!r}, which its manifest does not list.",
                why="Something was added after the export.",
                fix="Remove it, or export the bundle again.",
            )
