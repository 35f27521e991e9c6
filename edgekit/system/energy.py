"""Energy of the processor packages by RAPL, where the kernel shows it to this user; never estimated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """One package's counter.

    Attributes:
        file: Microjoules since some time.
        wraps_at: Where it begins again, microjoules.
    """

    file: Path
    wraps_at: int


class Rapl:
    """Joules between two looks at all packages.

    Args:
        root: The kernel's powercap folder.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._counters = [Counter(path / "energy_uj", _wrap(path)) for path in sorted(root.glob("*-rapl:*"))]
        # Domains with two colons are parts of a package and would count twice; the kernel shows them to root only.
        self._counters = [one for one in self._counters if one.file.parent.name.count(":") == 1 and _readable(one.file)]

    def __bool__(self) -> bool:
        """Whether this machine tells."""
        return bool(self._counters)

    def look(self) -> list[int] | None:
        """The counters now, microjoules; None where the machine does not tell any more."""
        try:
            return [int(one.file.read_text()) for one in self._counters]
        except (OSError, ValueError):
            return None

    def joules(self, before: list[int] | None, after: list[int] | None) -> float | None:
        """Spent between two looks less than one wrap apart (minutes at full load)."""
        if before is None or after is None:
            return None
        pairs = zip(self._counters, before, after, strict=True)
        return sum((late - early) % one.wraps_at for one, early, late in pairs) / 1e6


def _wrap(folder: Path) -> int:
    try:
        return int((folder / "max_energy_range_uj").read_text()) + 1
    except (OSError, ValueError):
        return 1 << 63


def _readable(path: Path) -> bool:
    try:
        int(path.read_text())
    except (OSError, ValueError):
        return False
    return True
