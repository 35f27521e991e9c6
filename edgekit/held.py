"""Whether a bundle or a checkpoint is still what it was when it was opened: an export may replace it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import MANIFEST, Bundle
from edgekit.checkpoint.folder import HASHED, checkpoint_hash
from edgekit.errors import EdgekitError
from edgekit.files import sha256_file, sha256_json, tree_files

WRITTEN = "parity.json"  # by `edgekit verify` into a bundle, at any time


class ChangedError(EdgekitError):
    """A folder was replaced or changed while it was being used."""


def stamp(folder: Path) -> str:
    """What the file system says of a folder's files, in a few bytes: another one where a file may have changed.

    Contents are not read. Each file counts with its inode, size and times of change, the last of which no program can
    put back; "" where the folder cannot be read.
    """
    bundle = (folder / MANIFEST).exists()
    try:
        names = [name for name in tree_files(folder) if bundle or name.endswith((*HASHED, ".json"))]
        stats = {name: (folder / name).stat() for name in names if name != WRITTEN}
    except OSError:
        return ""
    return sha256_json(
        {name: [one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns] for name, one in stats.items()}
    )


def identity(folder: Path) -> str:
    """SHA-256 over all that decides what a bundle or a checkpoint answers; a bundle's manifest too.

    Raises:
        EdgekitError: a bundle that is not whole.
    """
    if not (folder / MANIFEST).exists():
        return checkpoint_hash(folder)
    return sha256_json([Bundle.load(folder).hash, sha256_file(folder / MANIFEST)])


@dataclass
class Held:
    """A folder as it was opened.

    Attributes:
        folder: Where it lies, or a copy of it.
        stamp: Of its files, then.
        identity: Of its contents, then; "" where that was not read: any other stamp is another folder then.
    """

    folder: Path
    stamp: str
    identity: str = ""

    def check(self) -> None:
        """Look whether it is the same still.

        Raises:
            ChangedError: it is not.
        """
        now = stamp(self.folder)
        if now and now == self.stamp:
            return
        if self.identity and self._same_contents():
            self.stamp = now
            return
        raise ChangedError(
            f"{self.folder} was replaced or changed while it was being used.",
            why="What was seen belongs to no one state of it.",
            fix="Run the command again, and leave the folder alone meanwhile.",
        )

    def _same_contents(self) -> bool:
        try:
            return identity(self.folder) == self.identity
        except (EdgekitError, OSError):
            return False

    def as_json(self) -> dict[str, Any]:
        """For a worker, which may find a copy of it elsewhere."""
        return {"stamp": self.stamp, "identity": self.identity}
