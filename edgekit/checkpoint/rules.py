"""What a model's own generation settings do to a greedy answer, as transformers does it.

`transformers.generate(do_sample=False)` is no plain greedy decoding: a repetition penalty, forbidden tokens, a least
length and the like change the logits before the best one is taken. The steps here are those, in that order, on NumPy
arrays; an answer made with them has the same tokens.

Source: transformers 5.23, generation/utils.py (`_get_logits_processor`) and generation/logits_process.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoint.generation import Generation

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]


class Rules:
    """A model's settings at work on one answer: from raw logits (V,) to those that the best is taken of.

    Args:
        generation: Settings.
        prompt: Its tokens, those of images included.
        limit: Longest answer.
        ends: Tokens that end an answer.
    """

    def __init__(self, generation: Generation, prompt: Sequence[int], limit: int, ends: Sequence[int]) -> None:
        self._steps = list(_steps(generation, np.asarray(prompt, dtype=np.int64), limit, tuple(ends)))

    def __bool__(self) -> bool:
        return bool(self._steps)

    def __call__(self, logits: Logits, ids: Sequence[int]) -> Logits:
        """Changed logits; the given ones stay as they are.

        Args:
            logits: (V,), finite.
            ids: All tokens before, prompt and answer.
        """
        tokens = np.asarray(ids, dtype=np.int64)
        for step in self._steps:
            logits = step(logits, tokens)
        return logits


def penalise(logits: Logits, ids: Sequence[int] | Ids, penalty: float) -> Logits:
    """Logits with those of the tokens in `ids` divided by the penalty, negative ones multiplied.

    Source: Keskar et al., arXiv:1909.05858, section 4.1, in the signed form of transformers'
    RepetitionPenaltyLogitsProcessor.
    """
    seen = _within(np.unique(np.asarray(ids, dtype=np.int64)), logits)
    changed = logits.copy()
    changed[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    return changed


_Step = Callable[[Logits, Ids], Logits]


def _steps(given: Generation, prompt: Ids, limit: int, ends: tuple[int, ...]) -> list[_Step]:
    """In the order of transformers' `_get_logits_processor`."""
    size, found = len(prompt), list[_Step]()
    if given.sequence_bias:
        found.append(partial(_bias, given.sequence_bias))
    if given.encoder_repetition_penalty != 1:
        found.append(lambda logits, ids: penalise(logits, prompt, 1 / given.encoder_repetition_penalty))
    if given.repetition_penalty != 1:
        found.append(lambda logits, ids: penalise(logits, ids, given.repetition_penalty))
    if given.no_repeat_ngram_size:
        found.append(lambda logits, ids: _no_repeat(given.no_repeat_ngram_size, ids, logits, ids))
    if given.encoder_no_repeat_ngram_size:
        found.append(lambda logits, ids: _no_repeat(given.encoder_no_repeat_ngram_size, prompt, logits, ids))
    if words := [word for word in given.bad_words_ids if len(word) > 1 or word[0] not in ends]:
        found.append(partial(_bias, [(word, -math.inf) for word in words]))
    if given.min_length:
        found.append(lambda logits, ids: _without(logits, ends) if len(ids) < given.min_length else logits)
    if given.min_new_tokens:
        found.append(lambda logits, ids: _without(logits, ends) if len(ids) - size < given.min_new_tokens else logits)
    if given.forced_bos_token_id is not None:
        first = (given.forced_bos_token_id,)
        found.append(lambda logits, ids: _only(logits, first) if len(ids) == 1 else logits)
    if given.forced_eos_token_id:
        last = size + limit - 1
        found.append(lambda logits, ids: _only(logits, given.forced_eos_token_id) if len(ids) == last else logits)
    if given.exponential_decay_length_penalty is not None:
        start, factor = given.exponential_decay_length_penalty
        found.append(partial(_decay, size + start, factor, ends))
    if given.suppress_tokens:
        found.append(lambda logits, ids: _without(logits, given.suppress_tokens))
    if given.begin_suppress_tokens:
        begin = size if size > 1 or given.forced_bos_token_id is None else size + 1
        found.append(lambda logits, ids: _without(logits, given.begin_suppress_tokens) if len(ids) == begin else logits)
    return found


def _bias(biases: Sequence[tuple[tuple[int, ...], float]], logits: Logits, ids: Ids) -> Logits:
    bias = np.zeros_like(logits)
    for word, value in biases:
        before = len(word) - 1
        if before <= len(ids) and word[-1] < len(logits) and tuple(ids[len(ids) - before :].tolist()) == word[:-1]:
            bias[word[-1]] += value
    return logits + bias


def _no_repeat(size: int, text: Ids, logits: Logits, ids: Ids) -> Logits:
    """Without the tokens that would end a run of `size` tokens that stands in `text` already."""
    if len(ids) < size or len(text) < size:
        return logits
    windows = np.lib.stride_tricks.sliding_window_view(text, size)
    last = ids[len(ids) + 1 - size :]
    return _without(logits, windows[(windows[:, :-1] == last).all(1), -1])


def _decay(start: int, factor: float, ends: tuple[int, ...], logits: Logits, ids: Ids) -> Logits:
    if len(ids) <= start:
        return logits
    places = _within(np.asarray(ends, dtype=np.int64), logits)
    more = np.abs(logits[places]) * np.float32(factor ** (len(ids) - start) - 1)
    changed = logits.copy()
    changed[places] += np.where(np.isfinite(logits[places]), more, 0)
    return changed


def _without(logits: Logits, tokens: Sequence[int] | Ids) -> Logits:
    changed = logits.copy()
    changed[_within(np.asarray(tokens, dtype=np.int64), logits)] = -np.inf
    return changed


def _only(logits: Logits, tokens: Sequence[int]) -> Logits:
    changed = np.full_like(logits, -np.inf)
    changed[_within(np.asarray(tokens, dtype=np.int64), logits)] = 0
    return changed


def _within(ids: Ids, logits: Logits) -> Ids:
    """Tokens that the output head has a row for; an embedding may know more."""
    return ids[ids < len(logits)]
