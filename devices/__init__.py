"""Devices, one file each. What `--device` names is an address: a device, perhaps a place, perhaps options.

A device's file holds a `DEVICE`. Other packages add one by an entry point in the group `edgekit.devices`;
docs/devices.md shows one whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import parse_qsl

from edgekit.errors import EdgekitError, did_you_mean
from edgekit.registry import Registry
from edgekit.report.prediction import Prediction

ROW, SAMPLES = "row.json", "samples.jsonl"
"""What a `Timer` leaves: fields of its report row, and the raw samples behind them."""

_ADDRESS = re.compile(r"(?P<device>[A-Za-z0-9_-]+)(?:://(?P<place>[^?]*))?(?:\?(?P<options>.*))?")


@dataclass(frozen=True)
class Address:
    """Which device, where, and with which options.

    Attributes:
        device: Name in edgekit.devices.
        place: What the device needs to find it: a host, a serial number, a model; "" where nothing was said.
        options: By name, as text.
    """

    device: str
    place: str = ""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        """Device and place, without the options."""
        return f"{self.device}://{self.place}" if self.place else self.device


class WorkerGone(EdgekitError):
    """A worker on a board has ended, or the way to it."""


class Worker(Protocol):
    """A process of `edgekit.runtimes.worker` on a board."""

    def call(self, do: str, **arguments: Any) -> Any:
        """Have something done, and wait for it; see `edgekit.runtimes.worker.Worker`.

        Arguments that name files name them here; the board copies them there, and results back.

        Raises:
            WorkerGone: the process ended meanwhile, or cannot be reached any more.
            EdgekitError: it could not be done.
        """

    def close(self) -> None:
        """End the process."""


class Board(Protocol):
    """A device that is ready and runs edgekit's worker."""

    def describe(self) -> dict[str, Any]:
        """Processor, memory, system and state, for the report."""

    def open_worker(self, job: Mapping[str, Any], place: Path) -> Worker:
        """Start a worker; several may be open at once.

        Args:
            job: Fields of `edgekit.runtimes.worker.Job`.
            place: A folder here for what it needs.

        Raises:
            EdgekitError: it does not start.
        """


class Timer(Protocol):
    """A device that is ready and times bundles."""

    def describe(self) -> dict[str, Any]:
        """Processor, memory, system and state, for the report."""

    def run(self, folder: Path) -> str | None:
        """Time the bundle of `folder`/job.json, and leave ROW and SAMPLES in `folder`.

        Args:
            folder: Holds job.json, whose keys are `folder`, the bundle's, `runtime` and `threads`.

        Returns:
            What went wrong, or None.
        """


@dataclass(frozen=True)
class Errand:
    """What guests are asked to do.

    Attributes:
        bundles: Folders.
        data: Spec of the questions.
        limit: The first so many; None for all.
        warmup: Questions that are answered untimed before.
        max_new_tokens: Of an answer.
        threads: CPU threads of the runtime, where the guest may have so many.
    """

    bundles: tuple[Path, ...]
    data: str
    limit: int | None
    warmup: int
    max_new_tokens: int
    threads: int


@dataclass(frozen=True)
class Visit:
    """What one guest made of one bundle.

    Attributes:
        bundle: Its place among the errand's.
        guest: Name, for the row; the same for all visits of one guest, and no other's.
        about: What the guest says of itself.
        problem: Why there are no figures; None where there are.
        runtime: What ran the bundle.
        self_test: What the bundle's golden vectors came to there.
        answers: Of the first questions, in order: text, token_ids, prompt_tokens, preprocess_ms, image_encode_ms,
            prefill_ms, first_token_ms, itl_ms.
        figures: Further fields of the row.
        notes: For the report.
    """

    bundle: int
    guest: str
    about: Mapping[str, Any]
    problem: str | None = None
    runtime: str = ""
    self_test: str = ""
    answers: Sequence[Mapping[str, Any]] = ()
    figures: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()


class Guests(Protocol):
    """Devices that come by themselves, several at once."""

    def describe(self) -> dict[str, Any]:
        """What they come to, for the report."""

    def gather(self, errand: Errand, visits: list[Visit]) -> None:
        """Have them run the bundles and answer, until all have; one visit for each guest and bundle, failed or not.

        Args:
            errand: What is asked.
            visits: Filled as they come, also where the call ends with an error.
        """


@dataclass(frozen=True)
class Device:
    """A kind of device. One of `board`, `timer` and `guests` connects to it, by what it can do; none is this machine.

    A context manager of these prepares the device and cleans up after itself, also when the block ends with an error.

    Attributes:
        reach: Whether it can be used now, and what it is or what is missing.
        board: Of a machine that runs edgekit's worker and so answers the questions.
        timer: Of one that only times bundles.
        guests: Of where devices come to by themselves.
        options: Of its addresses, and what they mean.
        predict: (bundle, address) -> what can honestly be said without the device.
        models: Of places that name a model to predict, not a device at hand; None where every place may be predicted.
    """

    reach: Callable[[Address], tuple[bool, str]]
    board: Callable[[Address], AbstractContextManager[Board]] | None = None
    timer: Callable[[Address], AbstractContextManager[Timer]] | None = None
    guests: Callable[[Address], AbstractContextManager[Guests]] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    predict: Callable[[Path, Address], Sequence[Prediction]] | None = None
    models: Callable[[], Collection[str]] | None = None

    def can_predict(self, address: Address) -> bool:
        """Whether something can be said of what is at an address, without it."""
        return self.predict is not None and (self.models is None or address.place in self.models())


DEVICES: Registry[Device] = Registry("edgekit.devices", "device", "Device", "DEVICE", frozenset({"predict"}))


def parse_address(spec: str) -> Address:
    """The address behind `--device`: `NAME`, `NAME://PLACE`, either with `?option=value&option=value`, or a YAML file.

    A device file is a mapping with `device`, perhaps `place`, and the options.

    Raises:
        EdgekitError: not an address, no such device, or an option that the device does not have.
    """
    address = _from_file(Path(spec)) if spec.lower().endswith((".yaml", ".yml")) else _from_text(spec)
    known = DEVICES.load(address.device).options
    for name in address.options:
        if name not in known:
            raise EdgekitError(
                f"The device {address.device!r} has no option {name!r}.",
                fix=f"{did_you_mean(name, known)} There are: {', '.join(known) or 'none'}.".lstrip(),
            )
    return address


def _from_text(spec: str) -> Address:
    found = _ADDRESS.fullmatch(spec)
    if found is None:
        raise EdgekitError(
            f"{spec!r} is no device.", fix="Write NAME, NAME://PLACE or NAME://PLACE?option=value; or name a YAML file."
        )
    options = dict(parse_qsl(found["options"] or "", keep_blank_values=True))
    return Address(found["device"], found["place"] or "", MappingProxyType(options))


def _from_file(path: Path) -> Address:
    from edgekit.yaml_text import read_yaml_file

    document = read_yaml_file(path, "the device file", EdgekitError)
    if document.problems:
        raise EdgekitError(f"{path} is no device file:", why="\n".join(document.problems))
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("device"), str):
        raise EdgekitError(f"{path} is no device file.", fix="It is a mapping that says 'device: ssh' or another name.")
    bad = [str(key) for key, item in value.items() if not isinstance(item, (str, int, float)) or isinstance(item, bool)]
    if bad:
        raise EdgekitError(f"{path}: {bad[0]!r} is neither a text nor a number.")
    texts = {str(key): str(item) for key, item in value.items()}
    device, place = texts.pop("device"), texts.pop("place", "")
    return Address(device, place, MappingProxyType(texts))
