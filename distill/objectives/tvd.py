"""Total variation distance; 1 - TVD is the expected acceptance of speculative decoding (DistillSpec)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edgekit.distill.objectives import Objective


def tvd(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """0.5 sum_v |p_T - p_S| of logits (K, V); (K,) in [0, 1].

    Source: DistillSpec, arXiv:2310.08461; acceptance: Leviathan et al., arXiv:2211.17192, Corollary 3.6.
    """
    gap = student_logits.float().softmax(-1) - teacher_logits.detach().float().softmax(-1)
    return 0.5 * gap.abs().sum(-1)


@dataclass
class Loss(Objective):
    """No settings."""

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `tvd`."""
        return tvd(student, teacher)
