"""Skewed KL(p_T, a p_T + (1 - a) p_S): DistiLLM, arXiv:2402.03898. The mixture bounds the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from edgekit.distill.objectives import Objective, in_range
from edgekit.distill.objectives.forward_kl import kl


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, alpha: float = 0.1) -> Tensor:
    """KL(p_T, a p_T + (1 - a) p_S) of logits (K, V); (K,) nats, at most -ln a."""
    student = log_softmax(student_logits.float(), -1)
    teacher = log_softmax(teacher_logits.detach().float(), -1)
    return kl(teacher, torch.logaddexp(teacher + math.log(alpha), student + math.log1p(-alpha)))


@dataclass
class Loss(Objective):
    """Settings: alpha, the teacher's share a of the mixture, in (0, 1)."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        in_range("alpha", self.alpha, 0 < self.alpha < 1, "in (0, 1)")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `skew_kl`."""
        return skew_kl(student, teacher, self.alpha)
