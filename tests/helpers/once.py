"""What several test processes need, made by the first of them that asks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.system.locks import lock


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], object]) -> Path:
    """A folder that all processes of this run share; do not write into it.

    Args:
        name: Its own among all that are made so.
        factory: pytest's; with xdist a process's base folder lies in the run's.
        make: Fills a folder that does not exist yet.
    """
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    place, aside = shared / name, shared / "making" / name  # its own name: bundles hold theirs
    aside.parent.mkdir(parents=True, exist_ok=True)
    with (shared / f"{name}.lock").open("w") as held:
        lock(held.fileno(), wait=True)
        if not place.exists():
            make(aside)
            aside.rename(place)
    return place
