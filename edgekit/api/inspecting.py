"""inspect: what is inside an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.inside.counting import Inspection


def inspect(source: Path | str, *, tokens: int | None = None) -> Inspection:
    """What a bundle or checkpoint holds and costs; nothing is run.

    Args:
        source: Folder of a bundle, or a checkpoint: a folder, a demo model or a hub name.
        tokens: In the cache when a token is decoded; those of one picture and a question when None.
    Raises:
        EdgekitError: it is neither, damaged, or what reads it is not installed.
    """
    from edgekit.adapters import is_adapter
    from edgekit.checkpoint import resolve_checkpoint
    from edgekit.inside.counting import inspect as read

    folder = Path(source)
    if folder.is_file():
        raise EdgekitError(
            f"{folder} is a file.", why="What is inside is told of whole folders.", fix="Name the folder it is in."
        )
    known = folder.is_dir() and not is_adapter(folder)
    return read(folder if known else resolve_checkpoint(str(source)), tokens=tokens)
