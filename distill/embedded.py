"""Prompts as a decoder takes them: embeddings, masks, positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embedded:
    """Left-padded prompts of Q questions, their images encoded.

    Attributes:
        embeds: (Q, P, D), image embeddings in their places.
        mask: (Q, P), 1 for a prompt token.
        ids: (Q, P), pad on the left.
        positions: (Q, P), or (3, Q, P) where an axis has its own.
        visual: (Q, P), true for an image token.
        features: The vision encoder's further outputs by name: Q tensors (..., image tokens of the prompt, D) each.
        takes: The family's `feature_inputs`.
    """

    embeds: Tensor
    mask: Tensor
    ids: Tensor
    positions: Tensor
    visual: Tensor
    features: Mapping[str, list[Tensor]] = field(default_factory=dict)
    takes: Callable[[Tensor, Mapping[str, Tensor]], dict[str, Any]] | None = None

    def following(self, owners: Tensor, count: int) -> Tensor:
        """Positions of the `count` tokens after the prompts `owners`: (R, count), or (3, R, count)."""
        last = self.positions.amax(-1)
        last = last.amax(0) if last.dim() == 2 else last  # an image may be taller than wide, or wider than tall
        after = last[owners].unsqueeze(1) + 1 + torch.arange(count, device=last.device)
        return after.expand(*self.positions.shape[:-2], *after.shape)

    def extra(self, owners: Sequence[int], count: int) -> dict[str, Any]:
        """What the decoder takes beside embeddings, mask and positions, for prompts and `count` tokens after each."""
        if self.takes is None or not self.features:
            return {}
        visual = self.visual[torch.tensor(owners, device=self.visual.device)]
        features = {name: torch.cat([rows[q] for q in owners], dim=-2) for name, rows in self.features.items()}
        return self.takes(torch.nn.functional.pad(visual, (0, count)), features)
