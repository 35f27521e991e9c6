"""Plackett-Luce distillation: the student learns the teacher's ranking, the label first (PLD, arXiv:2506.12542)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.distill.objectives import Objective, in_range


def pld(student_logits: Tensor, teacher_logits: Tensor, ids: Tensor, top: int = 64) -> Tensor:
    """sum_k q_k [logsumexp_{l >= k} s_pi(l) - s_pi(k)], pi = (label, then the teacher's order), q the teacher's share.

    The sum runs over the first `top` places; the tokens after them stay in every logsumexp, so each place is the exact
    Plackett-Luce choice among all that are left, not among the `top` only.

    Args:
        student_logits: (K, V).
        teacher_logits: (K, V); no gradient flows here.
        ids: (K,) labels.
        top: Places summed; V at most.

    Returns:
        (K,) nats; not 0 at equality.
    """
    s, z = student_logits.float(), teacher_logits.detach().float()
    top = min(top, s.shape[-1])
    label = ids.unsqueeze(-1)
    ranked = z.scatter(-1, label, torch.inf).topk(top, -1).indices
    q = z.softmax(-1).gather(-1, ranked)
    chosen = s.gather(-1, ranked)
    rest = s.scatter(-1, ranked, -torch.inf).logsumexp(-1, keepdim=True)
    # From the last place backwards: what is left at place k is place k, what is left after it, and the rest.
    left = torch.cat([rest, chosen.flip(-1)], -1).logcumsumexp(-1)[..., 1:].flip(-1)
    return (q * (left - chosen)).sum(-1)


@dataclass
class Loss(Objective):
    """Settings: top, the ranked places, at least 1."""

    top: int = 64

    def __post_init__(self) -> None:
        in_range("top", self.top, isinstance(self.top, int) and self.top >= 1, "a whole number from 1 on")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `pld`."""
        return pld(student, teacher, ids, self.top)
