"""KL(p_T, p_S): the divergence of Hinton's distillation; it makes the student cover all that the teacher says."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import log_softmax

from edgekit.distill.objectives import Objective, in_range


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p, q) along the last dimension from log-probabilities, nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p_T, p_S) of logits (K, V) at temperature T; (K,) nats. T^2 keeps the gradient's size (Hinton 2015)."""
    student = log_softmax(student_logits.float() / temperature, -1)
    teacher = log_softmax(teacher_logits.detach().float() / temperature, -1)
    return temperature**2 * kl(teacher, student)


@dataclass
class Loss(Objective):
    """Settings: temperature, above 0."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        in_range("temperature", self.temperature, self.temperature > 0, "above 0")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `forward_kl`."""
        return forward_kl(student, teacher, self.temperature)
