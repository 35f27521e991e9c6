"""Hidden states and logits together: squared distance of matched decoder layers beside T^2 KL, 1:1 (MaTVLM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgekit.distill.objectives import Objective, Side, Sizes, in_range
from edgekit.distill.objectives.forward_kl import forward_kl


def matched_layers(student: int, teacher: int) -> list[tuple[int, int]]:
    """(student layer, teacher layer) from 1, evenly spread, the last with the last."""
    return [(layer, round(layer * teacher / student)) for layer in range(1, student + 1)]


@dataclass
class Loss(Objective):
    """Settings: temperature of the KL; hidden, the weight of the states' part beside it.

    The source shares the teacher's width; other widths are met by one linear map per matched layer, trained along.
    The states' part is the squared distance per answer token and per width of the student, averaged over the layers.
    """

    temperature: float = 1.0
    hidden: float = 1.0
    looks_at: ClassVar[frozenset[str]] = frozenset({"hidden"})

    def __post_init__(self) -> None:
        in_range("temperature", self.temperature, self.temperature > 0, "above 0")
        in_range("hidden", self.hidden, self.hidden >= 0, "at least 0")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `forward_kl`."""
        return forward_kl(student, teacher, self.temperature)

    def adapters(self, sizes: Sizes) -> nn.Module | None:
        """One map per student layer, teacher's width to student's; none where the widths are the same."""
        if sizes.student_width == sizes.teacher_width:
            return None
        pairs = matched_layers(sizes.student_layers, sizes.teacher_layers)
        return nn.ModuleList(nn.Linear(sizes.teacher_width, sizes.student_width) for _ in pairs)

    def batch_part(self, student: Side, teacher: Side, adapters: Any) -> Tensor | None:
        """Mean squared distance of matched states."""
        parts = []
        for number, (ours, theirs) in enumerate(matched_layers(len(student.hidden), len(teacher.hidden))):
            wanted = teacher.hidden[theirs].float()
            mapped = adapters[number](wanted) if adapters is not None else wanted
            parts.append((mapped - student.hidden[ours].float()).pow(2).mean())
        return self.hidden * torch.stack(parts).mean()
