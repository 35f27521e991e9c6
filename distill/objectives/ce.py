"""Cross-entropy on the reference answer, or on text the teacher wrote (sequence level: Kim and Rush 2016)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import cross_entropy

from edgekit.distill.objectives import Objective, Rows


@dataclass
class Loss(Objective):
    """Settings: over, "reference" (the answer of the data) or "teacher" (the responses the masked teacher wrote)."""

    over: Rows = field(default="reference", kw_only=True)

    def __post_init__(self) -> None:
        if self.over not in ("reference", "teacher"):
            raise ValueError(f"over {self.over!r} is not 'reference' or 'teacher'")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """-ln p_S(token), (K,) nats."""
        return cross_entropy(student.float(), ids, reduction="none")
