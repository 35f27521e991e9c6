"""Prompts as a decoder takes them: embeddings, masks, positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embedded:
    """Left-padded prompts of Q questions, their pictures encoded.

    Attributes:
        embeds: (Q, P, D), image embeddings in their places.
        mask: (Q, P), 1 for a prompt token.
        ids: (Q, P), pad on the left.
        positions: (Q, P), or (3, Q, P) where an axis has its own.
        visual: (Q, P), true for an image token.
        deepstack: For each of the first decoder layers, Q tensors (image tokens of the prompt, D); empty for most
            families.
    """

    embeds: Tensor
    mask: Tensor
    ids: Tensor
    positions: Tensor
    visual: Tensor
    deepstack: list[list[Tensor]]

    def following(self, owners: Tensor, count: int) -> Tensor:
        """Positions of the `count` tokens after the prompts `owners`: (R, count), or (3, R, count)."""
        last = self.positions.amax(-1)
        last = last.amax(0) if last.dim() == 2 else last  # a picture may be taller than wide, or wider than tall
        after = last[owners].unsqueeze(1) + 1 + torch.arange(count, device=last.device)
        return after.expand(*self.positions.shape[:-2], *after.shape)

    def extra(self, owners: Sequence[int], count: int) -> dict[str, Any]:
        """What the decoder takes beside embeddings, mask and positions, for prompts and `count` tokens after each."""
        if not self.deepstack:
            return {}
        visual = self.visual[torch.tensor(owners, device=self.visual.device)]
        return {
            "visual_pos_masks": torch.nn.functional.pad(visual, (0, count)),
            "deepstack_visual_embeds": [torch.cat([layer[q] for q in owners]) for layer in self.deepstack],
        }
