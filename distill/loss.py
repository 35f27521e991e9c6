"""The joint objective of MASTERS: policy gradient and distillation on the same responses, in one step (Eq. 8-11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from edgekit.distill.groups import Group, Weights, row_means
from edgekit.distill.objectives import RIGHT, Rows
from edgekit.distill.policy import Measured, policy_loss


class Joint(NamedTuple):
    """The loss, detached means of its parts for the log, and the three weighted terms that it is the sum of."""

    loss: Tensor
    logs: dict[str, Tensor]
    terms: dict[str, Tensor]


def joint_loss(
    seen: Measured,
    distances: Mapping[str, Tensor],
    group: Group,
    weights: Weights,
    batch_parts: Mapping[str, Tensor] | None = None,
) -> Joint:
    """L = L_GRPO + sum of weighted objectives, averaged over the G responses of each question, then over questions.

    Source: MASTERS Eq. (8)-(11): L_GRPO = -mean_j mean_t [rho A_j - beta KL], rho = exp(logp - stopgrad(logp)), whose
    value is 1 and whose gradient is that of logp. With `clip` e, rho = exp(logp - ref_logp) and PPO's pessimistic bound
    holds: no gradient where a good response is 1 + e times as likely as under pi_ref, or a bad one 1 - e times.

    Args:
        seen: What the models say of each response token.
        distances: Objective name -> (K,) per-token loss, with gradient. D of Eq. 7 is `jsd` where it is among them,
            else the first one named.
        group: Which token belongs to which response and question.
        weights: Of the terms.
        batch_parts: Objective name -> scalar added to its mean.
    """
    per_row = {name: row_means(values, group.lengths) for name, values in distances.items()}
    present = group.present[group.slots]
    loss, logs, terms = seen.logp.new_zeros(()), dict[str, Tensor](), dict[str, Tensor]()
    if group.slots.numel():  # none was drawn where nothing but the reference answers is learnt from
        first = per_row["jsd" if "jsd" in per_row else next(iter(per_row))].detach()
        policy = policy_loss(seen, first, present, group, weights)
        logs = policy.logs
        if weights.grpo:
            loss = weights.grpo * policy.loss
            terms = {"policy": weights.grpo * policy.push, "kl": weights.grpo * policy.pull}
        else:
            logs = {name: value for name, value in logs.items() if name not in ("no_advantage", "cancelled")}
    terms["objective"] = seen.logp.new_zeros(())
    for name, rows in per_row.items():
        mean = _mean_over(rows, group, present, weights.rows.get(name, "drawn"))
        if batch_parts and name in batch_parts:
            mean = mean + batch_parts[name]
        loss = loss + weights.objective[name] * mean
        terms["objective"] = terms["objective"] + weights.objective[name] * mean
        logs[name] = mean
    return Joint(loss, {name: value.detach() for name, value in logs.items()}, terms)


def _mean_over(rows: Tensor, group: Group, present: Tensor, which: Rows) -> Tensor:
    """Mean of a per-response value (R,) over the responses an objective is for; an empty response counts as 0.

    Over `right` ones it is the mean of those that the batch has, and 0 without gradient where it has none.
    """
    if which == "reference":
        there = group.reference >= 0
        return torch.where(there, rows[group.reference.clamp_min(0)], 0.0).sum() / there.sum().clamp_min(1)
    if which == "drawn":
        meant = torch.ones_like(present)
    else:
        meant = group.from_teacher if which == "teacher" else present & (group.r_acc >= RIGHT)[group.slots]
    return torch.where(present & meant, rows[group.slots], 0.0).sum() / meant.sum().clamp_min(1)
