"""Align-KD: what the text looks at in the first decoder layer, and the projected image tokens (CVPR 2025).

L = soft cross-entropy + MSE(conv1x1(A_T), A_S) + MSE(proj(V_T), V_S) + the same on the 16 most attended image tokens.
A: attention of text positions on image positions in the first decoder layer; V: projected image tokens. Both adapters
are trained along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, mse_loss

from edgekit.distill.objectives import Objective, Side, Sizes, in_range
from edgekit.errors import CheckpointError


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """-sum_v p_T ln p_S of logits (K, V); (K,) nats. Its gradient is that of KL(p_T, p_S)."""
    teacher = teacher_logits.detach().float().softmax(-1)
    return -(teacher * log_softmax(student_logits.float(), -1)).sum(-1)


def cross_block(side: Side) -> Tensor:
    """Attention of text positions on image positions: (P, H), one row per pair of a text and an image token."""
    assert side.attention is not None
    where = side.text_at.unsqueeze(2) & side.image_at.unsqueeze(1)
    return side.attention.permute(0, 2, 3, 1)[where]


def most_attended(side: Side, count: int) -> Tensor:
    """Rows of `images` that the text of their question looks at most, `count` per question, by mean attention."""
    assert side.attention is not None
    seen = torch.einsum("rhtl,rt->rl", side.attention.float(), side.text_at.float())
    totals = side.images.new_zeros(len(side.image_counts), seen.shape[1], dtype=torch.float32)
    totals.index_add_(0, side.owners, seen)
    # All responses of a question hold its image tokens at the same places.
    first = torch.stack([(side.owners == q).nonzero()[0, 0] for q in range(len(side.image_counts))])
    chosen, start = [], 0
    for q, size in enumerate(side.image_counts.tolist()):
        shares = totals[q][side.image_at[first[q]]]
        chosen.append(start + shares.topk(min(count, size)).indices)
        start += size
    return torch.cat(chosen)


@dataclass
class Loss(Objective):
    """Settings: attention, vision and focus, the weights of the three parts; top, the image tokens of the last."""

    attention: float = 1.0
    vision: float = 1.0
    focus: float = 1.0
    top: int = 16
    looks_at: ClassVar[frozenset[str]] = frozenset({"attention"})

    def __post_init__(self) -> None:
        for name in ("attention", "vision", "focus"):
            in_range(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        in_range("top", self.top, isinstance(self.top, int) and self.top >= 1, "a whole number from 1 on")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """See `soft_cross_entropy`."""
        return soft_cross_entropy(student, teacher)

    def adapters(self, sizes: Sizes) -> nn.Module | None:
        """The 1x1 convolution over heads, and the map of image tokens."""
        heads = nn.Linear(sizes.teacher_heads, sizes.student_heads, bias=False)
        return nn.ModuleDict({"heads": heads, "vision": nn.Linear(sizes.teacher_width, sizes.student_width)})

    def batch_part(self, student: Side, teacher: Side, adapters: Any) -> Tensor | None:
        """The three squared distances; None for a batch without images.

        Raises:
            CheckpointError: teacher and student turn an image into different numbers of tokens.
        """
        if not len(student.images):
            return None
        if student.image_counts.tolist() != teacher.image_counts.tolist():
            raise CheckpointError(
                "align_kd needs a teacher and a student that turn an image into the same number of tokens.",
                why=f"Here {int(teacher.image_counts[0])} and {int(student.image_counts[0])}.",
                fix="Choose another objective.",
            )
        seen = mse_loss(adapters["heads"](cross_block(teacher).float()), cross_block(student).float())
        mapped, ours = adapters["vision"](teacher.images.float()), student.images.float()
        focus = most_attended(teacher, self.top)
        return (
            self.attention * seen
            + self.vision * mse_loss(mapped, ours)
            + self.focus * mse_loss(mapped[focus], ours[focus])
        )
