"""A Mac, this one: Core ML packages timed by coremltools where it runs."""

from __future__ import annotations

from functools import partial

from edgekit.devices import _apple
from edgekit.devices.predict import predict_kind

OPTIONS = _apple.OPTIONS
ANSWERS = False
reach = partial(_apple.reach, "mac")
connect = partial(_apple.connect, "mac")
predict = partial(predict_kind, "mac")
