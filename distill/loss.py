"""The joint objective of MASTERS: policy gradient and distillation on the same responses, in one step (Eq. 8-11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from edgekit.distill.objectives import Rows
from edgekit.distill.rewards import distill_rewards, group_advantages


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
        from_teacher: bool (Q, G), which draws the teacher wrote.
        reference: (Q,) which distinct response is the data's answer, for objectives that learn from it; -1 where none.
    """

    owners: Tensor
    lengths: Tensor
    slots: Tensor
    r_acc: Tensor
    present: Tensor
    ref_logp: Tensor
    from_teacher: Tensor
    reference: Tensor


@dataclass(frozen=True)
class Weights:
    """What the terms weigh, how the advantages are made, and which responses an objective is taken over."""

    objective: Mapping[str, float]
    grpo: float = 1.0
    kl_beta: float = 0.1
    clip: float | None = None
    accuracy: bool = True
    distill: bool = True
    advantage_std: Literal["sample", "population"] = "sample"
    rows: Mapping[str, Rows] = field(default_factory=dict)


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
    logp: Tensor,
    distances: Mapping[str, Tensor],
    group: Group,
    weights: Weights,
    batch_parts: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = L_GRPO + sum of weighted objectives, averaged over the G responses of each question, then over questions.

    Source: MASTERS Eq. (8)-(11): L_GRPO = -mean_j mean_t [rho A_j - beta KL], rho = exp(logp - stopgrad(logp)), whose
    value is 1 and whose gradient is that of logp. With `clip` e, rho = exp(logp - ref_logp) and PPO's pessimistic bound
    holds: no gradient where a good response is 1 + e times as likely as under pi_ref, or a bad one 1 - e times.

    Args:
        logp: (K,) log-probability of each response token under the student, with gradient.
        distances: Objective name -> (K,) per-token loss, with gradient. D of Eq. 7 is `jsd` where it is among them,
            else the first one named.
        group: Which token belongs to which response and question.
        weights: Of the terms.
        batch_parts: Objective name -> scalar added to its mean.
    Returns:
        The scalar loss, and detached means of its parts for the log.
    """
    per_row = {name: row_means(values, group.lengths) for name, values in distances.items()}
    present = group.present[group.slots]
    loss, logs = logp.new_zeros(()), dict[str, Tensor]()
    if group.slots.numel():  # none was drawn where nothing but the reference answers is learnt from
        first = per_row["jsd" if "jsd" in per_row else next(iter(per_row))].detach()
        policy, logs = _policy(logp, first, present, group, weights)
        loss = weights.grpo * policy
    for name, rows in per_row.items():
        mean = _mean_over(rows, group, present, weights.rows.get(name, "drawn"))
        if batch_parts and name in batch_parts:
            mean = mean + batch_parts[name]
        loss = loss + weights.objective[name] * mean
        logs[name] = mean
    return loss, {name: value.detach() for name, value in logs.items()}


def _policy(
    logp: Tensor, distance: Tensor, present: Tensor, group: Group, weights: Weights
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_GRPO over all draws, and what it is made of; `distance` is D of each response (R,)."""
    rewards = torch.zeros(group.slots.shape, device=logp.device)
    r_distill = distill_rewards(distance[group.slots], present)
    if weights.accuracy:
        rewards = rewards + group.r_acc[group.slots]
    if weights.distill:
        rewards = rewards + r_distill
    advantages = group_advantages(rewards, weights.advantage_std)
    rho = _ratios(logp, group, advantages, weights.clip)
    kl = row_means(k3(logp, group.ref_logp), group.lengths)[group.slots]
    policy = -(rho * advantages - weights.kl_beta * kl).mean()
    return policy, {"r_acc": group.r_acc[group.slots].mean(), "r_distill": r_distill.mean(), "kl": kl.mean()}


def _ratios(logp: Tensor, group: Group, advantages: Tensor, clip: float | None) -> Tensor:
    """rho of each draw (Q, G), averaged over its tokens."""
    if clip is None:
        return row_means((logp - logp.detach()).exp(), group.lengths)[group.slots]
    ratio = (logp - group.ref_logp).exp()
    good, bad = (row_means(one, group.lengths) for one in (ratio.clamp(max=1 + clip), ratio.clamp(min=1 - clip)))
    return torch.where(advantages >= 0, good[group.slots], bad[group.slots])


def _mean_over(rows: Tensor, group: Group, present: Tensor, which: Rows) -> Tensor:
    """Mean of a per-response value (R,) over the responses an objective is for; an empty response counts as 0."""
    if which == "reference":
        there = group.reference >= 0
        return torch.where(there, rows[group.reference.clamp_min(0)], 0.0).sum() / there.sum().clamp_min(1)
    chosen = present & group.from_teacher if which == "teacher" else present
    total = group.from_teacher.sum().clamp_min(1) if which == "teacher" else group.slots.numel()
    return torch.where(chosen, rows[group.slots], 0.0).sum() / total
