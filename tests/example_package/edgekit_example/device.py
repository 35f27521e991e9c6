"""A board that times bundles; what it says is made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.devices import ROW, SAMPLES, Address, Device


def reach(address: Address) -> tuple[bool, str]:
    """Whether a place was named."""
    return bool(address.place), f"a board at {address.place}" if address.place else "name it: example://PLACE"


class Board:
    """One that answers at once."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {"cpu": "example", "place": self._address.place}

    def run(self, folder: Path) -> str | None:
        """Time the bundle of folder/job.json."""
        speed = float(self._address.options.get("speed", "1"))
        (folder / ROW).write_text(json.dumps({"decode_tokens_per_s": speed}))
        (folder / SAMPLES).write_text(json.dumps({"test": "tg1", "ms": 1000 / speed}) + "\n")
        return None


@contextmanager
def connect(address: Address) -> Iterator[Board]:
    """Nothing to prepare."""
    yield Board(address)


DEVICE = Device(reach, timer=connect, options={"speed": "tokens per second that it says"})
