"""What a web server for the local network serves, and how it says no."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: Of HTTP.
        why: For the count, and for whom it may be told.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(frozen=True)
class Said:
    """An action's answer.

    Attributes:
        value: Sent as JSON.
        key: A secret to be kept by the browser, which from then on is who it is; "" leaves it as it is.
    """

    value: Any
    key: str = ""


@dataclass(frozen=True)
class Site:
    """What is served.

    Attributes:
        open: Files for whoever has the token, by name; the name "" is the page.
        closed: Files for those who have a key, too.
        actions: By name: what answers a POST, given the browser's key ("" for none) and the body.
        known: Whether a key is one.
    """

    open: Mapping[str, Path | bytes]
    closed: Mapping[str, Path | bytes]
    actions: Mapping[str, Callable[[str, bytes], Said]]
    known: Callable[[str], bool]
