"""Exports as `edgekit export` makes them: each bundle is compared by its own runtime."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import edgekit
from edgekit.export import bundling
from edgekit.runtimes.comparison import open_bundle

export_checkpoint = partial(bundling.export_checkpoint, opens=open_bundle)


def of_this_machine(bundle: Path, checkpoint: Path) -> list[str]:
    """Files of a bundle that name a folder of the machine that wrote it: nobody else's affair."""
    import torch

    folders = [str(Path(torch.__file__).parents[1]), str(Path(edgekit.__file__).parents[1]), str(checkpoint)]
    files = (path for path in bundle.rglob("*") if path.is_file())
    return [path.name for path in files if any(folder.encode() in path.read_bytes() for folder in folders)]
