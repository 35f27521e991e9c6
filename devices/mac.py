"""A Mac, this one: Core ML packages timed by coremltools where it runs."""

from __future__ import annotations

from functools import partial

from edgekit.devices import Device, _apple
from edgekit.devices.predict import predict_kind

DEVICE = Device(
    reach=partial(_apple.reach, "mac"),
    timer=partial(_apple.connect, "mac"),
    options=_apple.OPTIONS,
    predict=partial(predict_kind, "mac"),
)
