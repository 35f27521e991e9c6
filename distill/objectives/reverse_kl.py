"""KL(p_S, p_T): it makes the student keep to what the teacher says, and drop what it cannot follow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import log_softmax

from edgekit.distill.objectives import Objective, in_range
from edgekit.distill.objectives.forward_kl import kl


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p_S, p_T) of logits (K, V) at temperature T; (K,) nats."""
    student = log_softmax(student_logits.float() / temperature, -1)
    teacher = log_softmax(teacher_logits.detach().float() / temperature, -1)
    return temperature**2 * kl(student, teacher)


@dataclass
class Loss(Objective):
    """Settings: temperature, above 0."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        in_range("temperature", self.temperature, self.temperature > 0, "above 0")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `reverse_kl`."""
        return reverse_kl(student, teacher, self.temperature)
