"""The joint objective of MASTERS: policy gradient and distillation on the same responses, in one step (Eq. 8-11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgekit.distill.rewards import distill_rewards, group_advantages

# (student logits (K, V), teacher logits (K, V)) -> (K,) losses in nats.
PerToken = Callable[[Tensor, Tensor], Tensor]


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
    """

    owners: Tensor
    lengths: Tensor
    slots: Tensor
    r_acc: Tensor
    present: Tensor
    ref_logp: Tensor


@dataclass(frozen=True)
class Weights:
    """What the terms weigh and how the advantages are made."""

    objective: Mapping[str, float]
    grpo: float = 1.0
    kl_beta: float = 0.1
    accuracy: bool = True
    distill: bool = True
    advantage_std: Literal["sample", "population"] = "sample"


def row_means(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean over the tokens of each response.

    Args:
        values: (K,) per token, responses one after the other.
        lengths: (R,) tokens of each, at least 1.
    Returns:
        (R,).
    """
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    return torch.zeros(len(lengths), dtype=values.dtype, device=values.device).index_add(0, rows, values) / lengths


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Per-token estimate of KL(pi_theta || pi_ref): exp(d) - d - 1, d = ref_logp - logp; never below 0.

    Source: Schulman (2020), "Approximating KL divergence"; as GRPO uses it (arXiv:2402.03300, Eq. 4).
    """
    gap = ref_logp - logp
    return gap.exp() - gap - 1


def joint_loss(
    logp: Tensor, distances: Mapping[str, Tensor], group: Group, weights: Weights
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = L_GRPO + sum of weighted objectives, averaged over the G responses of each question, then over questions.

    Source: MASTERS Eq. (8)-(11): L_GRPO = -mean_j mean_t [rho A_j - beta KL], rho = exp(logp - stopgrad(logp)), whose
    value is 1 and whose gradient is that of logp.

    Args:
        logp: (K,) log-probability of each response token under the student, with gradient.
        distances: Objective name -> (K,) per-token loss, with gradient. The first one named is D of Eq. 7.
        group: Which token belongs to which response and question.
        weights: Of the terms.
    Returns:
        The scalar loss, and detached means of its parts for the log.
    """
    per_row = {name: row_means(values, group.lengths) for name, values in distances.items()}
    first = next(iter(per_row.values())).detach()
    present = group.present[group.slots]
    rewards = torch.zeros(group.slots.shape, device=logp.device)
    r_distill = distill_rewards(first[group.slots], present)
    if weights.accuracy:
        rewards = rewards + group.r_acc[group.slots]
    if weights.distill:
        rewards = rewards + r_distill
    advantages = group_advantages(rewards, weights.advantage_std)

    share = 1.0 / group.slots.numel()
    rho = row_means((logp - logp.detach()).exp(), group.lengths)
    kl = row_means(k3(logp, group.ref_logp), group.lengths)
    policy = -(rho[group.slots] * advantages - weights.kl_beta * kl[group.slots]).sum() * share
    loss = weights.grpo * policy
    logs = {"r_acc": group.r_acc[group.slots].mean(), "r_distill": r_distill.mean(), "kl": kl[group.slots].mean()}
    for name, rows in per_row.items():
        mean = torch.where(present, rows[group.slots], 0.0).sum() * share
        loss = loss + weights.objective[name] * mean
        logs[name] = mean
    return loss, {name: value.detach() for name, value in logs.items()}
