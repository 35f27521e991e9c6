"""How long a worker may take for each phase of its work before it is given up."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from edgekit.errors import EdgekitError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Timeouts:
    """Seconds after which a worker is given up, by phase; its row fails with the reason, and others go on."""

    start_s: float = 300.0
    """Until its process answers, imports included."""
    load_s: float = 3600.0
    """To load a model once; some runtimes compile it then."""
    encode_s: float = 1800.0
    """To encode the images of one prompt."""
    prefill_s: float = 1800.0
    """To take in one prompt."""
    decode_s: float = 300.0
    """For one token."""
    answer_s: float = 7200.0
    """For a whole answer, or whatever else is asked in one go."""

    def of(self, phase: str) -> float:
        """Seconds of a phase."""
        return float(getattr(self, f"{phase}_s"))

    @property
    def longest_s(self) -> float:
        """Of any phase of a worker that has started."""
        return max(self.of(phase) for phase in PHASES if phase != "start")


PHASES = tuple(field.name.removesuffix("_s") for field in fields(Timeouts))


def seconds_of(text: str) -> float | None:
    """Seconds of a time such as 30s, 5m, 1.5h or 90; None where it is none."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smh]?)", text.strip())
    return None if found is None else float(found[1]) * _UNITS[found[2]]


def changed(timeouts: Timeouts, given: Iterable[str]) -> Timeouts:
    """Timeouts with what a command line says of them.

    Args:
        timeouts: Those that hold where nothing is said.
        given: `PHASE=TIME` each, such as `load=10m`.

    Raises:
        EdgekitError: no phase, or no time above 0.
    """
    for item in given:
        phase, equals, text = item.partition("=")
        seconds = seconds_of(text) if equals else None
        if phase.strip() not in PHASES or not seconds:
            raise EdgekitError(
                f"--timeout {item}: not PHASE=TIME.",
                why=f"Phases are {', '.join(PHASES)}; a time is 30s, 10m or 2h, above 0.",
                fix="For example:  --timeout load=10m",
            )
        timeouts = replace(timeouts, **{f"{phase.strip()}_s": seconds})
    return timeouts


def described(seconds: float) -> str:
    """`90 s`, `10 min`, `2 h`."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"
