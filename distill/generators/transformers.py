"""Sampling with a loaded transformers model: images and prompt are run once for all responses of a question."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from edgekit.checkpoint.configuration import end_list
from edgekit.data import Sample
from edgekit.distill.batch import Prompts, decoder_inputs, embed, encode_prompts, project, response_hidden, token_logp
from edgekit.distill.embedded import Embedded
from edgekit.distill.generators import PROBE_TOKENS, Generator, Said, Source
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData


def check(settings: GenData) -> None:
    """Nothing is needed beyond edgekit's own packages."""


def open_generator(source: Source) -> Local:
    """A generator over the loaded model of a source."""
    return Local(source.load(), source.processor, source.settings)


class Local:
    """A loaded model that answers.

    Args:
        model: In eval mode.
        processor: Of this model.
        settings: Sampling.
    """

    def __init__(self, model: Any, processor: Processor, settings: GenData) -> None:
        self.model, self.processor, self.settings = model, processor, settings

    def sample(self, samples: Sequence[Sample], count: int, seed: int) -> list[list[list[int]]]:
        """See `Generator`; the same seed gives the same tokens."""
        prompts = encode_prompts(self.processor, samples)
        return sample(self.model, self.processor, prompts, count, self.settings, seed)

    @torch.no_grad()
    def answers(self, samples: Sequence[Sample]) -> list[Said]:
        """See `Generator`; scored is the reference answer, where there is one."""
        prompts = encode_prompts(self.processor, samples)
        said = greedy(self.model, self.processor, prompts, PROBE_TOKENS)
        scored = [self._reference(sample) or row for sample, row in zip(samples, said, strict=True)]
        embedded = embed(self.model, self.processor, prompts, _pad_id(self.model))
        hidden = response_hidden(self.model, embedded, range(len(scored)), scored, _pad_id(self.model))
        logits = project(self.model, hidden, self.model.config.get_text_config().vocab_size)
        logp = iter(token_logp(logits, scored).tolist())
        sums = [math.fsum(itertools.islice(logp, len(row))) for row in scored]
        return [Said(self.processor.decode(row), value) for row, value in zip(said, sums, strict=True)]

    def _reference(self, sample: Sample) -> list[int]:
        text = f" {sample.answer}" if sample.answer else ""
        return list(self.processor.tokenizer.encode(text, add_special_tokens=False).ids)

    def close(self) -> None:
        """Forget the model; whoever loaded it may still hold it."""
        self.model = None


@torch.no_grad()
def sample(
    model: Any, processor: Processor, prompts: Prompts, count: int, settings: GenData, seed: int
) -> list[list[list[int]]]:
    """`count` sampled responses for each prompt.

    Args:
        model: In eval mode.
        processor: Of this model.
        prompts: Q prompts.
        count: G, responses for each.
        settings: Temperature, top-p, top-k, repetition penalty, new tokens at most.
        seed: Decides every draw.

    Returns:
        Q lists of G token lists; each ends with its end token unless it was cut off.
    """
    warp = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        warp.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.temperature != 1.0:
        warp.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        warp.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        warp.append(TopPLogitsWarper(settings.top_p))
    rng = torch.Generator(device="cpu").manual_seed(seed)

    vocab = processor.vocab_size  # rows of a padded output head beyond it mean nothing, and are no token elsewhere

    def draw(ids: Tensor, logits: Tensor) -> Tensor:
        shares = warp(ids, logits[:, :vocab].float()).softmax(-1)
        return torch.multinomial(shares.cpu(), 1, generator=rng).squeeze(1).to(logits.device)

    return _decode(model, embed(model, processor, prompts, _pad_id(model)), count, settings.max_new_tokens, draw)


@torch.no_grad()
def greedy(model: Any, processor: Processor, prompts: Prompts, max_new_tokens: int) -> list[list[int]]:
    """The greedy response to each prompt, its end token included."""
    embedded = embed(model, processor, prompts, _pad_id(model))
    rows = _decode(model, embedded, 1, max_new_tokens, lambda _, logits: logits.argmax(-1))
    return [row[0] for row in rows]


def _decode(model: Any, prompts: Embedded, count: int, new_tokens: int, choose: Any) -> list[list[list[int]]]:
    ends = _end_ids(model)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    out = decoder(
        **decoder_inputs(model, prompts.embeds, prompts.mask, prompts.positions),
        use_cache=True,
        **prompts.extra(range(len(prompts.ids)), 0),
    )
    cache, logits = out.past_key_values, head(out.last_hidden_state[:, -1]).repeat_interleave(count, 0)
    mask = prompts.mask.repeat_interleave(count, 0)
    ids = prompts.ids.repeat_interleave(count, 0)
    owners = torch.arange(len(prompts.ids), device=ids.device).repeat_interleave(count)
    if count > 1:
        cache.reorder_cache(owners)  # not batch_repeat_interleave, which layers with states do not have
    positions = prompts.following(owners, new_tokens)
    rows: list[list[int]] = [[] for _ in range(len(ids))]
    open_rows = torch.ones(len(ids), dtype=torch.bool)
    for number in range(new_tokens):
        chosen = choose(ids, logits)
        for row in open_rows.nonzero().flatten().tolist():
            rows[row].append(int(chosen[row]))
        open_rows &= torch.tensor([int(token) not in ends for token in chosen.tolist()])
        if not open_rows.any() or number == new_tokens - 1:
            break
        ids = torch.cat([ids, chosen.unsqueeze(1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        embeds = model.get_input_embeddings()(chosen.unsqueeze(1))
        out = decoder(
            **decoder_inputs(model, embeds, mask, positions[..., number : number + 1]),
            past_key_values=cache,
            use_cache=True,
        )
        cache, logits = out.past_key_values, head(out.last_hidden_state[:, -1])
    return [rows[start : start + count] for start in range(0, len(rows), count)]


def _end_ids(model: Any) -> set[int]:
    return set(end_list(model.generation_config.eos_token_id))


def _pad_id(model: Any) -> int:
    pad = model.generation_config.pad_token_id
    return int(pad) if pad is not None else min(_end_ids(model), default=0)


GENERATOR = Generator(check, open_generator)
