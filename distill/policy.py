"""L_GRPO: the policy gradient over a question's responses, its off-policy weights, and the KL to pi_ref (Eq. 8-10)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.distill.groups import Group, Weights, row_means, row_sums
from edgekit.distill.rewards import distill_rewards, group_advantages

KL_RATIO_MAX = 2.0
"""Most that a token's pi_theta / mu may weigh in the `weighted` KL: rare tokens would decide the mean otherwise."""


@dataclass(frozen=True)
class Measured:
    """What the models say of the K tokens of a batch's responses.

    Attributes:
        logp: (K,) log-probability under the student, with gradient.
        teacher_logp: (K,) under the masked teacher; None where nothing asks for it.
        full_kl: (K,) KL(pi_theta || pi_ref) over the vocabulary, with gradient; None where nothing asks for it.
    """

    logp: Tensor
    teacher_logp: Tensor | None = None
    full_kl: Tensor | None = None


@dataclass(frozen=True)
class Policy:
    """L_GRPO and its parts.

    Attributes:
        loss: -mean_j mean_t [w_j rho_jt A_j - beta KL_jt].
        push, pull: The two terms of it alone: loss = push + pull.
        logs: Means for the log.
    """

    loss: Tensor
    push: Tensor
    pull: Tensor
    logs: dict[str, Tensor]


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Per-token estimate of KL(pi_theta || pi_ref): exp(d) - d - 1, d = ref_logp - logp; never below 0.

    Source: Schulman (2020), "Approximating KL divergence"; as GRPO uses it (arXiv:2402.03300, Eq. 4).
    """
    gap = ref_logp - logp
    return gap.exp() - gap - 1


def policy_loss(seen: Measured, distance: Tensor, present: Tensor, group: Group, weights: Weights) -> Policy:
    """L_GRPO over all draws.

    Args:
        seen: What the models say of each token.
        distance: (R,) D of each response, without gradient.
        present: bool (Q, G), False for an empty draw.
        group: Which token belongs to which response and question.
        weights: Of the terms.
    """
    r_acc = group.r_acc[group.slots]
    r_distill = distill_rewards(distance[group.slots], present, weights.min_spread)
    rewards = torch.zeros(group.slots.shape, device=seen.logp.device)
    for used, reward in ((weights.accuracy, r_acc), (weights.distill, r_distill)):
        rewards = rewards + reward if used else rewards
    advantages = group_advantages(rewards, weights.advantage_std)
    rho = _ratios(seen.logp, group, advantages, weights.clip)
    if weights.topr and weights.needs_mu:
        rho = rho * topr_weights(seen, group, advantages)
    kl = _kl(seen, group, weights)
    # A beta of 0 also leaves out what has overflowed: k3 of a token 89 nats below pi_ref is infinite.
    parts = rho * advantages, weights.kl_beta * kl if weights.kl_beta else torch.zeros_like(kl)
    level, alone = _level(advantages), [_level(one) for one in (r_acc, r_distill)]
    logs = {
        "r_acc": r_acc.mean(),
        "r_distill": r_distill.mean(),
        "kl": kl.mean(),
        "no_advantage": level.float().mean(),
        "cancelled": (level & ~(alone[0] & alone[1])).float().mean(),
    }
    if not (weights.accuracy and weights.distill):
        del logs["cancelled"]
    return Policy(-(parts[0] - parts[1]).mean(), -parts[0].mean(), parts[1].mean(), logs)


def topr_weights(seen: Measured, group: Group, advantages: Tensor) -> Tensor:
    """min(1, pi_theta / mu) of each draw (Q, G) with a negative advantage, over its whole sequence; 1 for the others.

    mu is the probability under the model that drew it: the masked teacher, or the student of that time. A draw whose mu
    is not known weighs 1. No gradient flows here.

    Source: TOPR, arXiv:2503.14286: the ratio cut to [0, 1] for negative examples, a weight of 1 for positive ones.
    """
    gaps = [row_sums(logp, group.lengths)[group.slots] for logp in _gaps(seen, group)]
    gap = torch.where(group.from_teacher, gaps[1], gaps[0]).nan_to_num(nan=0.0, posinf=0.0, neginf=-torch.inf)
    return torch.where(advantages < 0, gap.clamp_max(0).exp(), 1.0)


def _gaps(seen: Measured, group: Group) -> tuple[Tensor, Tensor]:
    """ln(pi_theta / mu) of each token (K,), mu being the student that drew it, and the masked teacher."""
    logp = seen.logp.detach()
    if seen.teacher_logp is None:
        raise ValueError("the teacher's log-probabilities were not asked for")
    return logp - group.writer_logp, logp - seen.teacher_logp


def _kl(seen: Measured, group: Group, weights: Weights) -> Tensor:
    """KL(pi_theta || pi_ref) of each draw (Q, G), a mean over its tokens."""
    if seen.full_kl is not None:
        return row_means(seen.full_kl, group.lengths)[group.slots]
    values = k3(seen.logp, group.ref_logp)
    if weights.kl != "weighted" or not weights.needs_mu:
        return row_means(values, group.lengths)[group.slots]
    own, teachers = (
        row_means(values * gap.nan_to_num(nan=0.0).exp().clamp_max(KL_RATIO_MAX), group.lengths)[group.slots]
        for gap in _gaps(seen, group)
    )
    return torch.where(group.from_teacher, teachers, own)


def _level(values: Tensor) -> Tensor:
    """bool (Q,): all of a question's values (Q, G) are the same but for rounding."""
    return values.amax(1) - values.amin(1) <= 1e-6


def _ratios(logp: Tensor, group: Group, advantages: Tensor, clip: float | None) -> Tensor:
    """rho of each draw (Q, G), averaged over its tokens."""
    if clip is None:
        return row_means((logp - logp.detach()).exp(), group.lengths)[group.slots]
    gap = logp - group.ref_logp
    worse = torch.zeros_like(group.present)
    worse[group.slots[advantages < 0]] = True
    # Where a branch is not taken it may not overflow either: the gradient of an infinity that weighs 0 is no number.
    capped = gap.clamp(max=math.log1p(clip)).exp()
    floored = torch.where(worse.repeat_interleave(group.lengths), gap, 0.0).exp().clamp(min=1 - clip)
    good, bad = (row_means(one, group.lengths)[group.slots] for one in (capped, floored))
    return torch.where(worse[group.slots], bad, good)
