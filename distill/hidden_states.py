"""What objectives that look inside a model see of it: states after each decoder layer, attention of the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from edgekit.distill.embedded import Embedded
from edgekit.distill.objectives import Side, Sizes
from edgekit.errors import CheckpointError


def sizes(student: Any, teacher: Any) -> Sizes:
    """Widths, depths and heads of both models' decoders."""
    ours, theirs = student.config.get_text_config(), teacher.config.get_text_config()
    return Sizes(
        student_width=ours.hidden_size,
        teacher_width=theirs.hidden_size,
        student_layers=ours.num_hidden_layers,
        teacher_layers=theirs.num_hidden_layers,
        student_heads=ours.num_attention_heads,
        teacher_heads=theirs.num_attention_heads,
    )


class Recorder:
    """Hooks on a model's decoder that keep what the objectives ask for, during one forward pass.

    Args:
        model: A Hugging Face VLM.
        looks_at: "hidden", "attention"; nothing is recorded for an empty set.

    Raises:
        CheckpointError: attention is wanted of a model that was not loaded with eager attention.
    """

    def __init__(self, model: Any, looks_at: frozenset[str]) -> None:
        self.model, self.looks_at = model, looks_at
        self.hidden: dict[int, Tensor] = {}
        self.attention: Tensor | None = None
        if "attention" in looks_at and model.config.get_text_config()._attn_implementation != "eager":
            raise CheckpointError(
                "An objective wants attention weights, which only eager attention gives.",
                fix="Set  trainer.attention: eager",
            )

    @contextmanager
    def on(self) -> Iterator[None]:
        """Record what runs inside the block."""
        layers = self.model.get_decoder().layers
        handles = []
        if "hidden" in self.looks_at:
            for number, layer in enumerate(layers, 1):
                handles.append(layer.register_forward_hook(self._keeper(number)))
        if "attention" in self.looks_at:
            first = next(layer for layer in layers if hasattr(layer, "self_attn"))  # others are convolutions
            handles.append(first.self_attn.register_forward_hook(self._keep_attention))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keeper(self, number: int) -> Any:
        def keep(module: Any, args: Any, out: Any) -> None:
            self.hidden[number] = out[0] if isinstance(out, tuple) else out

        return keep

    def _keep_attention(self, module: Any, args: Any, out: Any) -> None:
        self.attention = out[1]

    def side(self, prompts: Embedded, owners: Tensor, responses: Sequence[Sequence[int]]) -> Side:
        """What was recorded, with the places of images, text and answers.

        Args:
            prompts: Of Q questions.
            owners: (R,) question of each response.
            responses: R token lists.
        """
        device = prompts.embeds.device
        start, width = prompts.embeds.shape[1] - 1, max(len(response) for response in responses)
        real = torch.tensor([[True] * len(r) + [False] * (width - len(r)) for r in responses], device=device)
        image = (prompts.ids == self.model.config.image_token_id) & prompts.mask.bool()
        text = prompts.mask.bool() & ~image
        index = owners.to(device)
        return Side(
            hidden={n: states[:, start : start + width][real] for n, states in self.hidden.items()},
            attention=self.attention,
            images=prompts.embeds[image],
            image_at=torch.cat([image[index], torch.zeros_like(real)], 1),
            text_at=torch.cat([text[index], real], 1),
            owners=index,
            image_counts=image.sum(1),
        )
