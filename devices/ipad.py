"""A connected iPad, driven from a Mac through coremltools; elsewhere what can be predicted of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.devices import Address, _apple
from edgekit.devices import predict as prediction
from edgekit.devices._apple import AppleMachine
from edgekit.prediction import Prediction

KIND = "ipad"
OPTIONS = _apple.OPTIONS
ANSWERS = False


def reach(address: Address) -> tuple[bool, str]:
    """Whether one can be used now, and what it is or what is missing."""
    return _apple.reach(KIND, address)


@contextmanager
def connect(address: Address) -> Iterator[AppleMachine]:
    """A iPad that times Core ML programs."""
    with _apple.connect(KIND, address) as machine:
        yield machine


def predict(bundle: Path, address: Address) -> list[Prediction]:
    """What a bundle is expected to do on the catalogue's models, or on the one that is the address's place."""
    return prediction.predict_kind(bundle, KIND, address.place)
