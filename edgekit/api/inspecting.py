"""inspect: what is inside an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.api import arguments
from edgekit.api.arguments import Folder, checked
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.formats.counting import Inspection


@checked
def inspect(source: Folder, *, tokens: int | None = None) -> Inspection:
    """What a bundle or checkpoint holds and costs; nothing is run.

    Args:
        source: Folder of a bundle as text, Path or `Bundle`, or a checkpoint: a folder, a demo model or a hub name.
        tokens: In the cache when a token is decoded; those of one image and a question when None.

    Raises:
        EdgekitError: it is neither, damaged, or what reads it is not installed.
    """
    from edgekit.checkpoint.adapters import is_adapter
    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.formats.inspecting import inspect as read

    name = arguments.model(source, "source")
    folder = Path(name)
    if folder.is_file():
        raise EdgekitError(
            f"{folder} is a file.", why="What is inside is told of whole folders.", fix="Name the folder it is in."
        )
    known = folder.is_dir() and not is_adapter(folder)
    return read(folder if known else resolve_checkpoint(name), tokens=tokens)
