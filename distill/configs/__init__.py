"""Settings for `accelerate launch --config_file`: ddp, fsdp2 and zero3."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import EdgekitError


def path(engine: str) -> Path:
    """The file for one engine.

    Raises:
        EdgekitError: there is none.
    """
    file = Path(__file__).parent / f"{engine}.yaml"
    if not file.is_file():
        there = sorted(found.stem for found in file.parent.glob("*.yaml"))
        raise EdgekitError(f"No settings for an engine {engine!r}.", fix=f"There are: {', '.join(there)}.")
    return file
