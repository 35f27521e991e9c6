"""A divergence whose tokens weigh by how much the image tells the teacher about them.

Source: after VA-OPD, arXiv:2605.21924: tokens weighed by the teacher's log-probability with the image minus without.
The form of the weight and what stands for "without" are this project's choice: a softplus, so that tokens the image
says nothing of are still learnt; a mean of 1, so that neither long nor very visual responses count for more; and a
plain grey image of the same size, so that the prompt stays the same token for token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from edgekit.distill.groups import row_means
from edgekit.distill.objectives import Objective, in_range
from edgekit.distill.objectives.forward_kl import forward_kl
from edgekit.distill.objectives.jsd import jsd
from edgekit.distill.objectives.reverse_kl import reverse_kl

DIVERGENCES = {"jsd": jsd, "forward_kl": forward_kl, "reverse_kl": reverse_kl}


def image_weights(seen: Tensor, unseen: Tensor, lengths: Tensor, softness: float = 1.0) -> Tensor:
    """softplus(d / s) over its mean in the response, d the log-probability with the image minus that without.

    Args:
        seen, unseen: (K,) the teacher's log-probabilities, nats, responses one after the other.
        lengths: (R,) tokens of each response.
        softness: s, nats.

    Returns:
        (K,) of mean 1 over each response; without gradient.
    """
    raw = softplus((seen - unseen).detach() / softness).clamp_min(1e-6)
    return raw / torch.repeat_interleave(row_means(raw, lengths), lengths)


@dataclass
class Loss(Objective):
    """Settings: divergence (jsd, forward_kl or reverse_kl), softness of the weights in nats, above 0."""

    compares_images: ClassVar[bool] = True
    divergence: str = "jsd"
    softness: float = 1.0

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"divergence {self.divergence!r} is not one of {', '.join(DIVERGENCES)}")
        in_range("softness", self.softness, self.softness > 0, "above 0")

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """The divergence, not yet weighed."""
        return DIVERGENCES[self.divergence](student, teacher)

    def token_weights(self, seen: Tensor, unseen: Tensor, lengths: Tensor) -> Tensor:
        """See `image_weights`."""
        return image_weights(seen, unseen, lengths, self.softness)
