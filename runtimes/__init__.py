"""Runtimes, one file each. A runtime module holds:

    TARGETS                                 targets whose bundles it runs; "checkpoint" for a Hugging Face folder
    open_session(folder, threads) -> Session

    PACKAGES                                optional: names of the packages it needs, for the report and for boards
    timing_note() -> str | None             optional: why its timings say nothing of the hardware its bundles are for

and imports what it needs when a session is opened, so that each process holds one runtime only.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle import MANIFEST
from edgekit.errors import EdgekitError
from edgekit.registry import Registry

RUNTIMES = Registry(
    "edgekit.runtimes",
    "runtime",
    helpers=frozenset(
        {"session", "generate", "sampling", "stream", "worker", "bench", "verify", "modules", "attribute", "gates"}
        | {"crew", "examples", "journal", "measure", "phases", "rows", "speed", "side_by_side", "where"}
        | {"golden"}
    ),
    needs=("TARGETS", "open_session"),
)


def runtime_for(folder: Path) -> str:
    """The runtime that runs a folder: by the bundle's target, or PyTorch for a checkpoint.

    Raises:
        EdgekitError: no runtime runs that target.
    """
    if not (folder / MANIFEST).exists():
        return "pytorch"
    from edgekit.bundle import Bundle

    target = Bundle.load(folder, verify=False).manifest.target
    for name, module in RUNTIMES.working():
        if target in module.TARGETS:
            return name
    broken = [f"{name!r} cannot be loaded: {' '.join(error.why.split())}" for name, error in RUNTIMES.broken()]
    raise EdgekitError(
        f"No runtime here runs bundles of target {target!r}.",
        why="\n".join(broken),
        fix=f"There are: {', '.join(RUNTIMES.names())}.",
    )
