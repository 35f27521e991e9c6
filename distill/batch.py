"""Prompts and responses through a whole VLM: each image encoded once, only answer positions projected.

Teacher and student may turn one image into different numbers of tokens, so each model has its own prompts, and the two
are aligned on answer tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.data import ImageRef, Sample
from edgekit.distill.embedded import Embedded
from edgekit.distill.packing import can_pack, packed_hidden, worth_packing
from edgekit.errors import CheckpointError
from edgekit.families import Features, Grid, family_of
from edgekit.inputs.processor import Processor


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts of one model.

    Attributes:
        ids: Token ids of each prompt, placeholders expanded.
        positions: Rotary positions of each prompt, (T,) or (3, T).
        pixels: Parts of the batch's distinct images, as the family's `preprocess` gives them; None without images.
        grids: Of those images.
        images: For each prompt the numbers of its images among them, in order.
    """

    ids: list[list[int]]
    positions: list[NDArray[np.int64]]
    pixels: Tensor | None
    grids: list[Grid]
    images: list[list[int]]


def encode_prompts(processor: Processor, samples: Sequence[Sample]) -> Prompts:
    """Tokenise prompts and preprocess their images; samples that share their images share the pixels."""
    family, params = processor.family, processor.params
    seen: dict[tuple[ImageRef, ...], list[int]] = {(): []}
    parts: list[Tensor] = []
    grids: list[Grid] = []
    ids, positions, images = [], [], []
    for sample in samples:
        if sample.images not in seen:
            pixels = family.preprocess([image.open() for image in sample.images], params)
            seen[sample.images] = list(range(len(grids), len(grids) + len(pixels.grids)))
            parts.append(torch.from_numpy(pixels.values))
            grids += pixels.grids
        images.append(seen[sample.images])
        own = [grids[number] for number in images[-1]]
        ids.append(processor.tokenizer.encode(processor.prompt(sample.messages, own), add_special_tokens=False).ids)
        positions.append(family.positions(ids[-1], own, params))
    return Prompts(ids, positions, torch.cat(parts) if parts else None, grids, images)


def embed(model: Any, processor: Processor, prompts: Prompts, pad_id: int) -> Embedded:
    """Left-padded prompts with their images encoded, each image once; keeps gradients.

    Raises:
        CheckpointError: the encoder gives another number of embeddings than the prompts have image tokens.
    """
    device = next(model.parameters()).device
    width = max(len(row) for row in prompts.ids)
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in prompts.ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts.ids], device=device)
    padded = [np.pad(row, [(0, 0)] * (row.ndim - 1) + [(width - row.shape[-1], 0)]) for row in prompts.positions]
    positions = torch.from_numpy(np.stack(padded, axis=-2)).to(device)
    embeds = model.get_input_embeddings()(ids)
    visual = (ids == model.config.image_token_id) & mask.bool()
    extra: dict[str, list[Tensor]] = {}
    if prompts.pixels is not None:
        pixels = prompts.pixels.to(device, embeds.dtype)
        features: Features = processor.family.encode_images(model, pixels, prompts.grids)
        _check_counts(prompts, features.counts, model.config.image_token_id)
        embeds = embeds.masked_scatter(
            visual.unsqueeze(-1), torch.cat(_per_prompt(prompts, features.embeds, features.counts)).to(embeds.dtype)
        )
        extra = {name: _per_prompt(prompts, value, features.counts) for name, value in features.extra.items()}
    return Embedded(embeds, mask, ids, positions, visual, extra, processor.family.feature_inputs)


def _per_prompt(prompts: Prompts, features: Tensor, counts: list[int]) -> list[Tensor]:
    """Rows of `features` (..., K, D) for the image tokens of each prompt."""
    parts, none = torch.split(features, counts, dim=-2), features[..., :0, :]
    return [torch.cat([none, *(parts[number] for number in images)], dim=-2) for images in prompts.images]


def _check_counts(prompts: Prompts, counts: list[int], image_token_id: int) -> None:
    for ids, images in zip(prompts.ids, prompts.images, strict=True):
        if (places := ids.count(image_token_id)) != (given := sum(counts[number] for number in images)):
            raise CheckpointError(
                f"A prompt has {places} image tokens but the vision encoder gave {given} embeddings.",
                why="The processor files of the checkpoint do not belong to its weights.",
                fix="Copy the processor files of the model's original folder.",
            )


def decoder_inputs(model: Any, embeds: Tensor, mask: Tensor, positions: Tensor) -> dict[str, Any]:
    """Embeddings, mask and positions as the model's own decoder takes them.

    Args:
        model: A Hugging Face VLM.
        embeds: (B, T, D), whole rows, or one token behind a cache.
        mask: (B, P+T).
        positions: (B, T), or (A, B, T) where an axis has its own.
    """
    own = family_of(model.config.model_type).decoder_inputs
    if own is None:
        return {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
    return {"inputs_embeds": embeds, **own(model, embeds, mask, positions)}


def response_hidden(
    model: Any,
    prompts: Embedded,
    owners: Sequence[int],
    responses: Sequence[Sequence[int]],
    pad_id: int,
    pack: bool = True,
) -> Tensor:
    """Hidden states that predict each response token.

    Args:
        model: A Hugging Face VLM.
        prompts: Of Q questions.
        owners: (R,) which question each response belongs to.
        responses: R token lists, none empty.
        pad_id: Fills up shorter responses.
        pack: Run a prompt once for all of its responses, where the model allows it and it is less work.

    Returns:
        (K, D), K the tokens of all responses in order.
    """
    lengths = [len(response) for response in responses]
    if pack and can_pack(model) and worth_packing(model, prompts.mask.shape[1], owners, lengths):
        return packed_hidden(model, prompts, owners, responses)
    device = prompts.embeds.device
    width = max(len(response) for response in responses)
    ids = torch.tensor([[*response, *[pad_id] * (width - len(response))] for response in responses], device=device)
    real = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in responses], device=device)
    index = torch.tensor(owners, device=device)
    # The decoder itself is called, since a whole Qwen-VL keeps position offsets from one call to the next, and
    # takes the tower's further features only together with pixels.
    hidden = model.get_decoder()(
        **decoder_inputs(
            model,
            torch.cat([prompts.embeds[index], model.get_input_embeddings()(ids)], 1),
            torch.cat([prompts.mask[index], real], 1),
            torch.cat([prompts.positions[..., index, :], prompts.following(index, width)], -1),
        ),
        use_cache=False,
        **prompts.extra(owners, width),
    ).last_hidden_state
    start = prompts.embeds.shape[1] - 1
    answered: Tensor = hidden[:, start : start + width][real.bool()]
    return answered


def project(model: Any, hidden: Tensor, vocab: int) -> Tensor:
    """Logits (K, vocab) of hidden states (K, D), over the vocabulary both models share."""
    head: nn.Module = model.get_output_embeddings()
    logits: Tensor = head(hidden)
    return logits[:, :vocab]


def token_logp(logits: Tensor, responses: Sequence[Sequence[int]]) -> Tensor:
    """Log-probability (K,) of each response token, nats, from logits (K, V)."""
    ids = torch.tensor([token for response in responses for token in response], device=logits.device)
    return logits.float().log_softmax(-1).gather(1, ids.unsqueeze(1)).squeeze(1)
