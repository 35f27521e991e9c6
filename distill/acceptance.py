"""Expected acceptance of a student as the draft model of its teacher in speculative decoding: 1 - TVD, per token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from edgekit.console import progress
from edgekit.data import Sample
from edgekit.distill.batch import embed, encode_prompts, response_hidden
from edgekit.distill.generators.transformers import greedy
from edgekit.distill.objectives.tvd import Loss
from edgekit.distill.vocabulary import answer_terms
from edgekit.inputs.processor import Processor
from edgekit.stats import score_interval


@torch.no_grad()
def acceptance(
    student: tuple[Any, Processor],
    teacher: tuple[Any, Processor],
    questions: Sequence[Sample],
    vocab: int,
    *,
    max_new_tokens: int = 16,
    batch: int = 64,
) -> dict[str, Any]:
    """Mean of 1 - TVD(student, teacher) over the tokens of the student's own greedy answers.

    An answer counts up to the first token that only the student's padded vocabulary has.

    Source: Leviathan et al., arXiv:2211.17192, Corollary 3.6: a drafted token is kept with probability 1 - TVD.

    Args:
        student, teacher: Loaded model and its processor.
        questions: Asked of both.
        vocab: Size of the vocabulary prefix both heads share.
        max_new_tokens: Longest answer.
        batch: Questions run together.

    Returns:
        expected in [0, 1], its 95 % interval over answers, answers and tokens.
    """
    means: list[float] = []
    tokens = 0
    groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
    with progress() as bar:
        task = bar.add_task("expected acceptance", total=len(groups))
        for done, group in enumerate(groups, 1):
            said = greedy(student[0], student[1], encode_prompts(student[1], group), max_new_tokens)
            said = [list(takewhile(vocab.__gt__, ids)) for ids in said]  # beyond it the teacher has no such token
            owners = [owner for owner, ids in enumerate(said) if ids]
            responses = [said[owner] for owner in owners]
            if responses:
                states = [
                    response_hidden(
                        model, embed(model, processor, encode_prompts(processor, group), 0), owners, responses, 0
                    )
                    for model, processor in (student, teacher)
                ]
                heads = student[0].get_output_embeddings(), teacher[0].get_output_embeddings()
                ids = torch.tensor([token for response in responses for token in response], device=states[0].device)
                pairs = [(state.to(states[0].device), head) for state, head in zip(states, heads, strict=True)]
                losses = answer_terms(pairs[0], pairs[1], ids, {"tvd": Loss()}, vocab).losses["tvd"]
                means += [1 - float(part.mean()) for part in torch.split(losses, [len(r) for r in responses])]
                tokens += len(ids)
            bar.update(task, completed=done)
    if not means:
        return {"expected": 0.0, "ci95": [0.0, 0.0], "answers": 0, "tokens": 0}
    low, high = score_interval(means)
    return {"expected": float(np.mean(means)), "ci95": [low, high], "answers": len(means), "tokens": tokens}
