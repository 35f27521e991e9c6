"""Rewards and advantages over the responses of one question: Eq. 6-8 of MASTERS."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def distill_rewards(distances: Tensor, present: Tensor, min_spread: float = 0.0) -> Tensor:
    """R_distill = (D_max - D) / (D_max - D_min), over the responses of each question.

    Source: MASTERS Eq. (7).

    Args:
        distances: (Q, G) mean divergence between teacher and student on each response, nats.
        present: bool (Q, G), False for an empty response: it has no distance and gets 0.
        min_spread: Relative spread (D_max - D_min) / D_max, in [0, 1], below which the distances count as the same.

    Returns:
        (Q, G) in [0, 1]; 0 for a question whose distances are all the same.
    """
    high = distances.masked_fill(~present, -torch.inf).amax(1, keepdim=True)
    low = distances.masked_fill(~present, torch.inf).amin(1, keepdim=True)
    spread = high - low
    usable = present & (spread > 0) & (spread >= min_spread * high) & torch.isfinite(spread)
    return torch.where(usable, (high - distances) / torch.where(spread > 0, spread, 1.0), 0.0)


def group_advantages(rewards: Tensor, std: Literal["sample", "population"] = "sample") -> Tensor:
    """A_j = (R_j - mean R) / std R over the G responses of a question.

    Source: MASTERS Eq. (8).

    Args:
        rewards: (Q, G).
        std: Divide the squares by G - 1 or by G.

    Returns:
        (Q, G); zeros for a question whose rewards are all the same, or that has one response only.
    """
    if rewards.shape[1] < 2:
        return torch.zeros_like(rewards)
    centred = rewards - rewards.mean(1, keepdim=True)
    scale = rewards.std(1, keepdim=True, correction=1 if std == "sample" else 0)
    # Rewards equal but for rounding have no preference among them either.
    return torch.where(scale > 1e-6, centred / scale.clamp_min(1e-6), 0.0)
