"""A connected iPad, driven from a Mac through coremltools; elsewhere what can be predicted of it."""

from __future__ import annotations

from functools import partial

from edgekit.devices import _apple
from edgekit.devices.predict import predict_kind

OPTIONS = _apple.OPTIONS
ANSWERS = False
reach = partial(_apple.reach, "ipad")
connect = partial(_apple.connect, "ipad")
predict = partial(predict_kind, "ipad")
