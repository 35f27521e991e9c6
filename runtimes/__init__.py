"""Runtimes, one file each, holding a `RUNTIME`.

A runtime's file imports what it needs when a session is opened, so that each process holds one runtime only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bundle import MANIFEST
from edgekit.errors import EdgekitError
from edgekit.registry import Registry

if TYPE_CHECKING:
    from edgekit.runtimes.session import Session


@dataclass(frozen=True)
class Runtime:
    """What runs the bundles of some targets.

    Attributes:
        targets: Whose bundles it runs; "checkpoint" is a Hugging Face folder.
        open_session: (folder, threads) -> a session with what is in the folder.
        packages: Names of the distributions it needs, for the report and for boards.
        timing_note: Why its timings say nothing of the hardware that its bundles are for; None where they do.
        rehearse: Does what the first load of a folder does besides loading it; called before times are taken.
    """

    targets: tuple[str, ...]
    open_session: Callable[[Path, int], Session]
    packages: tuple[str, ...] = ()
    timing_note: Callable[[], str | None] | None = None
    rehearse: Callable[[Path], None] | None = None

    def open(self, folder: Path, threads: int) -> Session:
        """`open_session`.

        Raises:
            EdgekitError: another package's runtime gave something else.
        """
        from edgekit.runtimes.session import Session

        session: Any = self.open_session(folder, threads)
        if not isinstance(session, Session):
            raise EdgekitError(
                f"The runtime for {', '.join(self.targets)} gave a {type(session).__name__}, no session.",
                why="A session inherits from edgekit.runtimes.session.Session.",
                fix="Tell whoever wrote that runtime.",
            )
        return session


RUNTIMES: Registry[Runtime] = Registry(
    "edgekit.runtimes",
    "runtime",
    "Runtime",
    "RUNTIME",
    helpers=frozenset(
        {"session", "generate", "sampling", "stream", "worker", "bench", "verify", "modules", "attribute", "gates"}
        | {"crew", "examples", "journal", "measure", "phases", "rows", "speed", "side_by_side", "placement"}
        | {"golden", "guests", "comparison"}
    ),
)


_asked: ContextVar[str | None] = ContextVar("asked", default=None)


@contextmanager
def asking(name: str | None) -> Iterator[None]:
    """Let this runtime run what is opened in the block, in the place of the first that could; None changes nothing.

    Raises:
        EdgekitError: there is none of that name, or it is broken.
    """
    if name is not None:
        RUNTIMES.load(name)
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def runtime_for(folder: Path) -> str:
    """The runtime that runs a folder: the one that is asked for, else the first that names its target.

    edgekit's own come before other packages', so that one that is installed changes nothing by itself.

    Raises:
        EdgekitError: no runtime runs that target, or not the one that is asked for.
    """
    from edgekit.bundle import Bundle

    is_bundle = (folder / MANIFEST).exists()
    target = Bundle.load(folder, verify=False).manifest.target if is_bundle else "checkpoint"
    able = [name for name, runtime in RUNTIMES.working() if target in runtime.targets]
    asked = _asked.get()
    if asked is not None and asked not in able:
        what = f"bundles of target {target!r}" if is_bundle else "checkpoints"
        raise EdgekitError(
            f"The runtime {asked!r} does not run {what}.", fix=f"Those that do: {', '.join(able) or 'none'}."
        )
    if asked is not None or able:
        return asked or min(able, key=lambda name: (not RUNTIMES.own(name), name))
    broken = [f"{name!r} cannot be loaded: {' '.join(error.why.split())}" for name, error in RUNTIMES.broken()]
    raise EdgekitError(
        f"No runtime here runs bundles of target {target!r}.",
        why="\n".join(broken),
        fix=f"There are: {', '.join(RUNTIMES.names())}.",
    )
