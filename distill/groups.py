"""The responses of a batch of questions, and what the terms of the loss weigh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from edgekit.distill.objectives import Objective, Rows

if TYPE_CHECKING:
    from edgekit.recipe.model import Recipe


@dataclass(frozen=True)
class Group:
    """The responses of Q questions, identical ones kept once.

    Attributes:
        owners: (R,) question of each distinct response.
        lengths: (R,) tokens of each.
        slots: (Q, G) which distinct response each of the G drawn ones is.
        r_acc: (R,) accuracy reward.
        present: bool (R,), False for an empty response.
        ref_logp: (K,) log-probability of each token under pi_ref, nats; K = sum of lengths.
        writer_logp: (K,) the same under the student that drew it; NaN where no student did, or it is not known.
        from_teacher: bool (Q, G), which draws the teacher wrote.
        reference: (Q,) which distinct response is the data's answer, for objectives that learn from it; -1 where none.
    """

    owners: Tensor
    lengths: Tensor
    slots: Tensor
    r_acc: Tensor
    present: Tensor
    ref_logp: Tensor
    writer_logp: Tensor
    from_teacher: Tensor
    reference: Tensor


@dataclass(frozen=True)
class Weights:
    """What the terms weigh, how the advantages are made, and which responses an objective is taken over.

    Attributes:
        objective: Weight of each objective.
        grpo: Of L_GRPO.
        kl_beta: beta of Eq. 9.
        kl: Its estimator.
        clip: PPO's, of pi_theta / pi_ref; None for none.
        topr: Weigh responses with a negative advantage by min(1, pi_theta / mu).
        accuracy, distill: Which rewards are used.
        min_spread: Relative spread of the distances below which R_distill is 0.
        advantage_std: Divide the squares by G - 1 or by G.
        rows: Which responses an objective is taken over.
    """

    objective: Mapping[str, float]
    grpo: float = 1.0
    kl_beta: float = 0.1
    kl: Literal["k3", "full", "weighted"] = "k3"
    clip: float | None = None
    topr: bool = False
    accuracy: bool = True
    distill: bool = True
    min_spread: float = 0.0
    advantage_std: Literal["sample", "population"] = "sample"
    rows: Mapping[str, Rows] = field(default_factory=dict)

    @classmethod
    def by(cls, recipe: Recipe, objectives: Mapping[str, Objective]) -> Weights:
        """What a recipe says."""
        masters = recipe.masters
        return cls(
            objective=recipe.objective,
            grpo=masters.grpo_weight,
            kl_beta=masters.kl_beta,
            kl=masters.kl_estimator,
            clip=masters.clip,
            topr=masters.off_policy == "topr",
            accuracy=masters.rewards.accuracy,
            distill=masters.rewards.distill,
            min_spread=masters.rewards.min_spread,
            advantage_std=masters.advantage_std,
            rows={name: objective.over for name, objective in objectives.items()},
        )

    @property
    def needs_mu(self) -> bool:
        """Whether the loss looks at the probabilities under the models that wrote the responses."""
        return self.grpo > 0 and (self.topr or (self.kl == "weighted" and self.kl_beta > 0))

    @property
    def needs_reference(self) -> bool:
        """Whether pi_ref itself is run on each batch."""
        return self.grpo > 0 and self.kl == "full" and self.kl_beta > 0


def row_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum over the tokens of each response.

    Args:
        values: (K,) per token, responses one after the other.
        lengths: (R,) tokens of each.

    Returns:
        (R,).
    """
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    return torch.zeros(len(lengths), dtype=values.dtype, device=values.device).index_add(0, rows, values)


def row_means(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean over the tokens of each response, as `row_sums`; each must have a token."""
    return row_sums(values, lengths) / lengths
