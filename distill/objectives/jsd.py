"""Generalised Jensen-Shannon divergence: MASTERS Eq. (4), GKD."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from edgekit.distill.objectives import Objective, in_range


def jsd(student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5) -> Tensor:
    """b KL(p_T, m) + (1 - b) KL(p_S, m) with m = b p_T + (1 - b) p_S, for each token.

    Args:
        student_logits: (K, V).
        teacher_logits: (K, V); no gradient flows here.
        beta: b, in (0, 1).

    Returns:
        (K,) nats, in [0, ln 2] at b = 0.5.
    """
    student = log_softmax(student_logits.float(), -1)
    teacher = log_softmax(teacher_logits.detach().float(), -1)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    from_teacher = (teacher.exp() * (teacher - mixture)).sum(-1)
    from_student = (student.exp() * (student - mixture)).sum(-1)
    return beta * from_teacher + (1 - beta) * from_student


@dataclass
class Loss(Objective):
    """Settings: beta, the teacher's share b of the mixture, in (0, 1)."""

    beta: float = 0.5

    def __post_init__(self) -> None:
        in_range("beta", self.beta, 0 < self.beta < 1, "in (0, 1)")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `jsd`."""
        return jsd(student, teacher, self.beta)
