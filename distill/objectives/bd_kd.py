"""Bi-directional KL, mixed token by token by the entropy gap of student and teacher: BD-KD, arXiv:2212.12965.

Where the student is surer than the teacher, the forward KL (it spreads) is emphasised; where it is less sure, the
reverse KL (it sharpens). The source does not publish its constants: they are settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from edgekit.distill.objectives import Objective, in_range
from edgekit.distill.objectives.forward_kl import kl


def bd_kd(student_logits: Tensor, teacher_logits: Tensor, strong: float = 2.0, weak: float = 1.0) -> Tensor:
    """f KL(p_T, p_S) + r KL(p_S, p_T); (f, r) = (weak, strong) where H(p_S) > H(p_T), else (strong, weak).

    Args:
        student_logits: (K, V).
        teacher_logits: (K, V); no gradient flows here, nor through the choice.
        strong, weak: Weights of the emphasised and of the other direction.

    Returns:
        (K,) nats.
    """
    student = log_softmax(student_logits.float(), -1)
    teacher = log_softmax(teacher_logits.detach().float(), -1)
    with torch.no_grad():
        unsure = -(student.exp() * student).sum(-1) > -(teacher.exp() * teacher).sum(-1)
        forward = torch.where(unsure, weak, strong)
        reverse = torch.where(unsure, strong, weak)
    return forward * kl(teacher, student) + reverse * kl(student, teacher)


@dataclass
class Loss(Objective):
    """Settings: strong and weak, the weights of the two directions, at least 0."""

    strong: float = 2.0
    weak: float = 1.0

    def __post_init__(self) -> None:
        in_range("strong", self.strong, self.strong >= 0, "at least 0")
        in_range("weak", self.weak, self.weak >= 0, "at least 0")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `bd_kd`."""
        return bd_kd(student, teacher, self.strong, self.weak)
