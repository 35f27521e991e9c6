"""Accuracy of a checkpoint on a data spec: greedy answers, scored, with their interval."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.console import progress
from edgekit.data import Sample, samples
from edgekit.data.scoring import KEY, score_answer
from edgekit.distill import processes
from edgekit.distill.batch import encode_prompts
from edgekit.distill.generators.transformers import greedy
from edgekit.inputs.processor import Processor
from edgekit.recipe.per_dataset import Choice, pick
from edgekit.stats import paired, score_interval


@dataclass(frozen=True)
class Evaluation:
    """Scores of one checkpoint.

    Attributes:
        ids: Question ids.
        scores: (n,) in [0, 1].
        answers: What the model said.
    """

    ids: list[str]
    scores: NDArray[np.float64]
    answers: list[str]

    @property
    def n(self) -> int:
        """Questions scored."""
        return len(self.ids)

    @property
    def accuracy(self) -> float:
        """Mean score in [0, 1]."""
        return float(self.scores.mean())

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % interval of the mean score."""
        return score_interval(self.scores)


def evaluate_checkpoint(
    folder: Path,
    spec: str,
    *,
    scoring: Choice,
    limit: int | None = None,
    max_new_tokens: int = 16,
    title: str = "measuring",
) -> Evaluation:
    """Load a checkpoint and score its greedy answers.

    Args:
        folder: Hugging Face folder.
        spec: Data spec.
        scoring: Metric, or data set -> metric.
        limit: The first so many questions; all when None.
        max_new_tokens: Longest answer.
        title: Of the progress bar.
    """
    from edgekit.checkpoint.folder import load_model

    model = load_model(folder)
    return evaluate_model(
        model, Processor.load(folder), spec, scoring=scoring, limit=limit, max_new_tokens=max_new_tokens, title=title
    )


@torch.no_grad()
def evaluate_model(
    model: Any,
    processor: Processor,
    spec: str,
    *,
    scoring: Choice,
    limit: int | None = None,
    max_new_tokens: int = 16,
    batch: int = 128,
    title: str = "measuring",
) -> Evaluation:
    """Score the greedy answers of a loaded model; it is left in the mode it came in.

    Several processes share the batches and all return the whole.
    """
    rows: list[tuple[int, str, float, str]] = []
    training = model.training
    model.eval()
    # A question whose data set has no metric is an error here, before anything is answered.
    total = sum(1 for sample in samples(spec, limit=limit) if pick(scoring, sample.dataset, KEY))
    with progress() as bar:
        task = bar.add_task(title, total=total)
        for number, group in enumerate(batched(samples(spec, limit=limit), batch)):
            if number % processes.count() != processes.index():
                continue
            said = [
                processor.decode(row)
                for row in greedy(model, processor, encode_prompts(processor, group), max_new_tokens)
            ]
            for place, (text, one) in enumerate(zip(said, group, strict=True), number * batch):
                rows.append((place, one.id, score_answer(scoring, text, one), text))
            bar.update(task, completed=min(total, (number + 1) * batch))
    model.train(training)
    _, ids, scores, answers = zip(*sorted(processes.gathered(rows)), strict=True)
    return Evaluation(list(ids), np.array(scores), list(answers))


def compared(before: Evaluation, after: Evaluation, spec: str) -> dict[str, Any]:
    """Both scores, and the paired difference, for a run's manifest.

    Args:
        before, after: On the same questions.
        spec: Which.
    """
    gain = paired(after.scores, before.scores)
    return {"test": spec, **before_and_after(before, after), "gained": gain.gained, "lost": gain.lost}


def before_and_after(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Two scores on the same questions with their intervals, and the paired difference."""
    gain = paired(after.scores, before.scores)
    return {
        "n": after.n,
        "before": before.accuracy,
        "before_ci95": list(before.ci95),
        "after": after.accuracy,
        "after_ci95": list(after.ci95),
        "delta": gain.delta,
        "delta_ci95": list(gain.ci95),
        "p_value_mcnemar": gain.p_value,
    }


def batched(rows: Iterator[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Lists of at most `size` samples."""
    while group := list(itertools.islice(rows, size)):
        yield group
