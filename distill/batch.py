"""Prompts and responses through a whole VLM: each picture encoded once, only answer positions projected.

Teacher and student may turn one image into different numbers of tokens, so each model has its own prompts, and the two
are aligned on answer tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.data import ImageRef, Sample
from edgekit.processor import Processor


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts of one model.

    Attributes:
        ids: Token ids of each prompt, placeholders expanded.
        pixels: (M, 3, H, W) tiles of the batch's distinct image sets; None without images.
        tiles: For each prompt the rows of `pixels` that are its own, in order.
    """

    ids: list[list[int]]
    pixels: Tensor | None
    tiles: list[list[int]]


@dataclass(frozen=True)
class Embedded:
    """Left-padded prompt embeddings.

    Attributes:
        embeds: (Q, P, D).
        mask: (Q, P), 1 for a prompt token.
        ids: (Q, P), pad on the left.
    """

    embeds: Tensor
    mask: Tensor
    ids: Tensor


def encode_prompts(processor: Processor, samples: Sequence[Sample]) -> Prompts:
    """Tokenise prompts and preprocess their pictures; samples that share their pictures share the tiles."""
    seen: dict[tuple[ImageRef, ...], tuple[list[int], list[tuple[int, int]]]] = {}
    parts: list[Tensor] = []
    ids, tiles = [], []
    count = 0
    for sample in samples:
        if sample.images not in seen:
            grids: list[tuple[int, int]] = []
            rows: list[int] = []
            if sample.images:
                pixels = processor.family.preprocess([image.open() for image in sample.images], processor.params)
                parts.append(torch.from_numpy(pixels.values))
                rows, grids = list(range(count, count + len(pixels.values))), pixels.grids
                count += len(pixels.values)
            seen[sample.images] = (rows, grids)
        rows, grids = seen[sample.images]
        text = processor.prompt(sample.messages, grids)
        ids.append(processor.tokenizer.encode(text, add_special_tokens=False).ids)
        tiles.append(rows)
    return Prompts(ids, torch.cat(parts) if parts else None, tiles)


def embed(model: Any, processor: Processor, prompts: Prompts, pad_id: int) -> Embedded:
    """Token embeddings with the pictures' merged in, left-padded; keeps gradients."""
    device = next(model.parameters()).device
    width = max(len(row) for row in prompts.ids)
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in prompts.ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts.ids], device=device)
    embeds = model.get_input_embeddings()(ids)
    if prompts.pixels is not None:
        features = processor.family.encode_images(model, prompts.pixels.to(device, embeds.dtype))
        chosen = torch.tensor([tile for rows in prompts.tiles for tile in rows], device=device)
        where = ((ids == model.config.image_token_id) & mask.bool()).unsqueeze(-1)
        embeds = embeds.masked_scatter(where, features[chosen].to(embeds.dtype))
    return Embedded(embeds, mask, ids)


def response_hidden(
    model: Any, prompts: Embedded, owners: Sequence[int], responses: Sequence[Sequence[int]], pad_id: int
) -> Tensor:
    """Hidden states that predict each response token.

    Args:
        model: A Hugging Face VLM.
        prompts: Of Q questions.
        owners: (R,) which question each response belongs to.
        responses: R token lists, none empty.
        pad_id: Fills up shorter responses.
    Returns:
        (K, D), K the tokens of all responses in order.
    """
    device = prompts.embeds.device
    width = max(len(response) for response in responses)
    ids = torch.tensor([[*response, *[pad_id] * (width - len(response))] for response in responses], device=device)
    real = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in responses], device=device)
    index = torch.tensor(owners, device=device)
    embeds = torch.cat([prompts.embeds[index], model.get_input_embeddings()(ids)], 1)
    mask = torch.cat([prompts.mask[index], real], 1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    hidden = model.base_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
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
