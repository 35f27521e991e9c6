"""Apps around a bundle: fixed library sources of each platform, and what writes an app from a bundle.

A platform is one file here that holds a `PLATFORM`; the sources that it copies lie in the folder of the same name.
Another package adds one by an entry point in the group `edgekit.apps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.registry import Registry


@dataclass(frozen=True)
class App:
    """What an app is written from.

    Attributes:
        bundle: With all that apps need (schema 4).
        name: As people see it.
        bundle_id: As stores and systems see it, for example com.example.ask.
        model_url: Address of the folder that the bundle is downloaded from; "" puts it into the app.
        ort: Folder of onnxruntime-web's files; None to look for them.
    """

    bundle: Bundle
    name: str
    bundle_id: str
    model_url: str = ""
    ort: Path | None = None


@dataclass(frozen=True)
class Piece:
    """A file of an app: copied from `source`, or written with `data`."""

    source: Path | None = None
    data: bytes = b""

    @property
    def bytes(self) -> int:
        """Its size."""
        return len(self.data) if self.source is None else self.source.stat().st_size


@dataclass(frozen=True)
class Platform:
    """Where an app runs.

    Attributes:
        targets: Whose bundles it can run.
        families: Of models that its library speaks for.
        most_bytes: Of a bundle's model that can be part of the app.
        larger: What to do with a larger one.
        pieces: The app's files by relative POSIX name.
        start: What to do next, as lines; {out} is the app's folder.
        tools: Names of files and folders that a developer's tools put between an app's own, at any depth.
        encrypted: Whether its apps download over https:// only.
    """

    targets: tuple[str, ...]
    families: tuple[str, ...]
    most_bytes: int
    larger: str
    pieces: Callable[[App], Mapping[str, Piece]]
    start: str
    tools: tuple[str, ...] = ()
    encrypted: bool = False


PLATFORMS: Registry[Platform] = Registry("edgekit.apps", "platform", "Platform", "PLATFORM")
