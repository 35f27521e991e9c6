"""Temporally adaptive interpolated distillation: the target moves from the student to the teacher as training goes on.

Source: TAID, ICLR 2025, arXiv:2501.16937. The other curriculum for a capacity gap, beside MASTERS' masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import log_softmax

from edgekit.distill.objectives import Objective, in_range
from edgekit.distill.objectives.forward_kl import kl


def taid(student_logits: Tensor, teacher_logits: Tensor, t: float) -> Tensor:
    """KL(p_t, p_S), p_t = softmax((1 - t) stopgrad(z_S) + t z_T), of logits (K, V); (K,) nats."""
    mixed = (1 - t) * student_logits.detach().float() + t * teacher_logits.detach().float()
    return kl(log_softmax(mixed, -1), log_softmax(student_logits.float(), -1))


@dataclass
class Loss(Objective):
    """Settings: t0, the first t; momentum and rate of its adaptive update.

    d = (L_prev - L) / (L_prev + 1e-15); m = momentum m + (1 - momentum) d;
    t = min(1, max(t0 + (1 - t0) step / steps, t + rate sigmoid(m) (1 - t))).
    """

    t0: float = 0.3
    momentum: float = 0.99
    rate: float = 5e-4
    t: float = field(init=False)
    _m: float = field(init=False, default=0.0)
    _previous: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        in_range("t0", self.t0, 0 <= self.t0 <= 1, "in [0, 1]")
        in_range("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        in_range("rate", self.rate, self.rate >= 0, "at least 0")
        self.t = self.t0

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `taid`."""
        return taid(student, teacher, self.t)

    def after_step(self, loss: float, step: int, steps: int) -> None:
        """Move t."""
        if self._previous is not None:
            fall = (self._previous - loss) / (self._previous + 1e-15)
            self._m = self.momentum * self._m + (1 - self.momentum) * fall
        self._previous = loss
        # A loss of nearly 0 makes the relative fall huge; beyond 60 the sigmoid is 0 or 1 anyway.
        adaptive = self.t + self.rate * (1 - self.t) / (1 + math.exp(-max(-60.0, min(60.0, self._m))))
        self.t = min(1.0, max(self.t0 + (1 - self.t0) * step / steps, adaptive))

    def state(self) -> dict[str, float]:
        """t, the momentum, and the last loss."""
        kept = {"t": self.t, "m": self._m}
        return kept if self._previous is None else {**kept, "previous": self._previous}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take them back."""
        self.t, self._m, self._previous = state["t"], state["m"], state.get("previous")
