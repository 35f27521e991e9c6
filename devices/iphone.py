"""A connected iPhone, driven from a Mac through coremltools; elsewhere what can be predicted of it."""

from __future__ import annotations

from functools import partial

from edgekit.devices import _apple
from edgekit.devices.predict import predict_kind

OPTIONS = _apple.OPTIONS
ANSWERS = False
reach = partial(_apple.reach, "iphone")
connect = partial(_apple.connect, "iphone")
predict = partial(predict_kind, "iphone")
