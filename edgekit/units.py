"""Numbers for people: bytes and hours."""

from __future__ import annotations


def bytes_text(count: float, digits: int = 1) -> str:
    """Such as 1.5 GB; units of a thousand."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.{digits}f} {unit}"
    return f"{count:.0f} B"


def hours_text(hours: float) -> str:
    """Such as 1.5 h, 12.0 min or 7 s."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"
