"""A connected iPhone, driven from a Mac through coremltools; elsewhere what can be predicted of it."""

from __future__ import annotations

from functools import partial

from edgekit.devices import Device, _apple
from edgekit.devices.predict import predict_kind

DEVICE = Device(
    reach=partial(_apple.reach, "iphone"),
    timer=partial(_apple.connect, "iphone"),
    options=_apple.OPTIONS,
    predict=partial(predict_kind, "iphone"),
)
