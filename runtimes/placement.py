"""Where a bench runs: here, or on a device that can be reached."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgekit import schema
from edgekit.devices import DEVICES, ROW, SAMPLES, Address, Board, Guests, Timer
from edgekit.errors import EdgekitError
from edgekit.files import write_json
from edgekit.report.model import Row
from edgekit.report.prediction import Prediction

HOST = "host"


@dataclass(frozen=True)
class Place:
    """Where a bench runs.

    Attributes:
        address: Of the device.
        board: Runs the bundles' workers; None where they run here.
        timer: Times the bundles beside.
        guests: Run the bundles beside, and answer.
        missing: Why the device is not at hand; "" where it is.
    """

    address: Address
    board: Board | None = None
    timer: Timer | None = None
    guests: Guests | None = None
    missing: str = ""

    @property
    def name(self) -> str:
        """For the rows of the device."""
        return str(self.address)

    def described(self) -> dict[str, dict[str, Any]]:
        """What the device says of itself, by its name."""
        device = self.board or self.timer or self.guests
        return {} if device is None else {self.name: device.describe()}

    def predictions(self, bundles: Sequence[Path]) -> tuple[Prediction, ...]:
        """What can be said of bundles on a device that is not at hand."""
        if not self.missing:
            return ()
        predict = DEVICES.load(self.address.device).predict
        return () if predict is None else tuple(one for bundle in bundles for one in predict(bundle, self.address))

    def notes(self) -> tuple[str, ...]:
        """For the report."""
        if not self.missing:
            return ()
        return (f"{self.name} is not at hand: {self.missing}. What is said of it is predicted, no row is its.",)


@contextmanager
def place_at(address: Address) -> Iterator[Place]:
    """The device at an address, ready; one that is not at hand, where something can be predicted of it.

    Raises:
        EdgekitError: it cannot be reached, and nothing can be said without it.
    """
    if address.device == HOST:
        yield Place(address)
        return
    device = DEVICES.load(address.device)
    if device.can_predict(address):
        ready, missing = device.reach(address)
        if not ready:
            yield Place(address, missing=missing)
            return
    with ExitStack() as stack:
        try:
            place = Place(
                address,
                None if device.board is None else stack.enter_context(device.board(address)),
                None if device.timer is None else stack.enter_context(device.timer(address)),
                None if device.guests is None else stack.enter_context(device.guests(address)),
            )
        except EdgekitError as error:
            if device.models is None or address.place in device.models():
                raise
            known = ", ".join(f"{address.device}://{name}" for name in device.models())
            fix = f"{error.fix}\nOr name a model, to have it predicted:  {known}"
            raise EdgekitError(error.what, why=error.why, fix=fix) from error
        yield place


def time_on(timer: Timer, bundle: Path, runtime: str, threads: int, row: Row, place: Path) -> tuple[Row, list[Any]]:
    """A bundle's row from a device that times it, and the raw samples.

    Args:
        timer: The device.
        bundle: Folder.
        runtime, threads: Of the job.
        row: Names and size.
        place: A new folder, for what the device leaves.
    """
    place.mkdir(parents=True)
    write_json(place / "job.json", {"folder": str(bundle.resolve()), "runtime": runtime, "threads": threads})
    try:
        problem = timer.run(place)
        if problem is None:
            return own_row(place, row)
    except EdgekitError as error:
        problem = " ".join(str(error).split())
    except Exception as error:  # another package's device may raise anything, and the other rows are measured by now
        problem = " ".join(f"{type(error).__name__}: {error}".split())
    return replace(row, status="failed", reason=str(problem)), []


def own_row(folder: Path, row: Row) -> tuple[Row, list[dict[str, Any]]]:
    """A row with the fields that a device left, and its raw samples.

    Raises:
        EdgekitError: what it left cannot be read, or is no row's.
    """
    try:
        found = json.loads((folder / ROW).read_text(encoding="utf-8"))
        raw = folder / SAMPLES
        lines = raw.read_text(encoding="utf-8").splitlines() if raw.exists() else []
        samples = [dict(json.loads(line)) for line in lines]
        unknown = set(found) - {item.name for item in fields(Row)}
        mixed = {**schema.to_json(row), **found}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise EdgekitError("What the device left cannot be read.", why=str(error)) from error
    if unknown:
        raise EdgekitError(f"The device names {sorted(unknown)[0]!r}, which is no field of a report's row.")
    problems: list[str] = []
    whole = schema.read(Row, mixed, problems)
    if whole is None or problems:
        raise EdgekitError("What the device left is no row of a report.", why="\n".join(problems))
    return whole, samples
