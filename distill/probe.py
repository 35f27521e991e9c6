"""How much masking a teacher stands: its accuracy and its distance from itself at rising mask ratios.

r_max is sharply sensitive (0.2 best for some teachers, 0.4 for others, and 0.3 already destroys some: MASTERS, r_max
sweep), so it is measured: the proposal is the largest ratio before accuracy falls off.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekit.checkpoint.folder import check_checkpoint, load_model
from edgekit.console import note, progress
from edgekit.data import Sample, samples
from edgekit.data.scoring import check_metrics, score_answer
from edgekit.distill.batch import embed, encode_prompts, response_hidden
from edgekit.distill.generators.transformers import greedy
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.objectives.jsd import Loss
from edgekit.distill.settings import Sweep
from edgekit.distill.vocabulary import answer_terms
from edgekit.errors import DataError, RecipeError
from edgekit.families import family_of
from edgekit.inputs.processor import Processor
from edgekit.recipe.per_dataset import Choice
from edgekit.stats import paired, score_interval

LAST = 0.95  # nothing is left to learn from beyond
# Of a group of questions: which of them the dense teacher answered, with what tokens, and the states behind these.
Answers = tuple[list[int], list[list[int]], Tensor]


@dataclass(frozen=True)
class Row:
    """A masked teacher's quality at one ratio.

    Attributes:
        ratio: Share of each linear layer's weights that is zero.
        accuracy: Mean score of its greedy answers, in [0, 1], with the 95 % interval.
        drop: Accuracy of the dense teacher less this, with the 95 % interval of the paired difference.
        jsd: Mean over the dense teacher's answers of JSD(dense || masked) per token, nats.
    """

    ratio: float
    accuracy: float
    ci95: tuple[float, float]
    drop: float
    drop_ci95: tuple[float, float]
    jsd: float


@dataclass(frozen=True)
class Probe:
    """A whole sweep.

    Attributes:
        rows: By rising ratio, from 0.
        questions: How many were asked.
        max_drop: Accuracy that may be lost before the cliff, in [0, 1].
        r_max: The proposal.
    """

    rows: tuple[Row, ...]
    questions: int
    max_drop: float
    r_max: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def held_out(spec: str, count: int, seed: int, taken: Collection[str] = ()) -> list[Sample]:
    """`count` questions drawn uniformly from those not taken; from all, with a note, where too few are left.

    Args:
        spec: Data spec, streamed once.
        count: How many.
        seed: Of the draw.
        taken: Ids to leave out: the questions a run learns from.
    """
    rng = np.random.default_rng(seed)
    free: list[Sample] = []
    used: list[Sample] = []
    seen = [0, 0]
    for sample in samples(spec):
        which = int(sample.id in taken)
        pool = (free, used)[which]
        seen[which] += 1
        # Reservoir sampling: each question of the stream ends in the pool with the same chance.
        if len(pool) < count:
            pool.append(sample)
        elif (place := int(rng.integers(seen[which]))) < count:
            pool[place] = sample
    if len(free) < count and used:
        note(f"Only {len(free)} questions of {spec} are not learnt from; the probe takes others beside them.")
        free += used[: count - len(free)]
    if not free:
        raise DataError(f"{spec} holds no samples.")
    return free


def probe(
    teacher: MaskedTeacher,
    processor: Processor,
    questions: Sequence[Sample],
    *,
    scoring: Choice,
    step: float = 0.1,
    max_drop: float = 0.02,
    max_new_tokens: int = 16,
    batch: int = 64,
    title: str = "probing",
) -> Probe:
    """Measure a teacher at ratios 0, step, 2 step, ... until half of its accuracy is gone; it is left dense.

    Args:
        teacher: Loaded.
        processor: Its own.
        questions: Held out.
        scoring: Metric, or data set -> metric.
        step: Between ratios, in (0, 1).
        max_drop: Accuracy that may be lost, in [0, 1].
        max_new_tokens: Longest answer.
        batch: Questions run together.
        title: Of the progress bar.
    """
    groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
    ratios = [round(number * step, 10) for number in range(math.ceil(LAST / step)) if number * step < LAST]
    rows: list[Row] = []
    kept: list[Answers] = []
    dense: np.ndarray[Any, Any] = np.empty(0)
    with progress() as bar:
        task = bar.add_task(title, total=len(ratios))
        for done, ratio in enumerate(ratios, 1):
            teacher.set_ratio(ratio)
            scores, distances = [], []
            for number, group in enumerate(groups):
                said = greedy(teacher.model, processor, encode_prompts(processor, group), max_new_tokens)
                scores += [
                    score_answer(scoring, processor.decode(ids), sample)
                    for ids, sample in zip(said, group, strict=True)
                ]
                if ratio == 0:
                    owners = [owner for owner, ids in enumerate(said) if ids]
                    kept.append((owners, [said[owner] for owner in owners], torch.empty(0)))
                    kept[-1] = (*kept[-1][:2], _states(teacher, processor, group, kept[-1]))
                distances += _distances(teacher, processor, group, kept[number])
            values = np.array(scores)
            dense = values if ratio == 0 else dense
            lost = paired(dense, values)
            rows.append(
                Row(
                    ratio,
                    float(values.mean()),
                    score_interval(values),
                    lost.delta,
                    lost.ci95,
                    float(np.mean(distances)) if distances else 0.0,
                )
            )
            bar.update(task, completed=done, description=f"{title}  mask {ratio:.2f}  accuracy {values.mean():.4g}")
            if values.mean() <= dense.mean() / 2:
                break
    teacher.set_ratio(0.0)
    return Probe(tuple(rows), len(questions), max_drop, propose(rows, max_drop))


def propose(rows: Sequence[Row], max_drop: float) -> float:
    """The largest ratio up to which no ratio loses more than `max_drop` of accuracy."""
    good = 0.0
    for row in rows:
        if row.drop > max_drop + 1e-12:
            break
        good = row.ratio
    return good


def _states(
    teacher: MaskedTeacher,
    processor: Processor,
    group: Sequence[Sample],
    answers: Answers,
) -> Tensor:
    """States (K, D) that predict the answers' tokens; far smaller than their logits, and the head is never masked."""
    owners, responses, _ = answers
    with torch.no_grad():
        embedded = embed(teacher.model, processor, encode_prompts(processor, group), 0)
        return response_hidden(teacher.model, embedded, owners, responses, 0)


def _distances(
    teacher: MaskedTeacher,
    processor: Processor,
    group: Sequence[Sample],
    answers: Answers,
) -> list[float]:
    """Mean JSD per token of each dense answer."""
    _, responses, dense = answers
    if not responses:
        return []
    head = teacher.model.get_output_embeddings()  # type: ignore[operator]
    ids = torch.tensor([token for response in responses for token in response], device=dense.device)
    vocab = int(head.weight.shape[0])
    with torch.no_grad():
        now = _states(teacher, processor, group, answers)
        losses = answer_terms((now, head), (dense, head), ids, {"jsd": Loss()}, vocab).losses["jsd"]
    return [float(part.mean()) for part in torch.split(losses, [len(response) for response in responses])]


def probe_checkpoint(folder: Path, data: str, out: Path, scoring: Choice, asked: Sweep) -> tuple[Probe, list[Path]]:
    """`probe` on a checkpoint folder, written to `out`.

    Args:
        folder: Of the teacher.
        data: Data spec.
        out: Folder for the table and the plot.
        scoring: Metric, or data set -> metric.
        asked: The rest; its `exclude` is a tuple.

    Returns:
        The sweep, and the files written.

    Raises:
        RecipeError: a setting out of its range.
    """
    if not 0 < asked.step < 1 or not 0 <= asked.max_drop <= 100:
        raise RecipeError("A probe needs --step in (0, 1) and --max-drop in [0, 100].")
    if asked.scope not in ("all", "language", "vision"):
        raise RecipeError(f"--scope {asked.scope!r} is not one of all, language, vision.")
    check_metrics(scoring)
    config = check_checkpoint(folder)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    rows = held_out(data, asked.questions, asked.seed)
    model = load_model(folder)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    left = tuple(asked.exclude or ())
    teacher = MaskedTeacher(model, folder, family_of(config["model_type"]), asked.scope, left)  # type: ignore[arg-type]
    result = probe(
        teacher,
        Processor.load(folder),
        rows,
        scoring=scoring,
        step=asked.step,
        max_drop=asked.max_drop / 100,
        max_new_tokens=asked.max_new_tokens,
        title=f"probing {folder.name}",
    )
    return result, save(result, out, folder.name)


def save(result: Probe, folder: Path, name: str) -> list[Path]:
    """Write the sweep as JSON, and as a plot where matplotlib is there.

    Returns:
        The files.
    """
    from edgekit.report import plots
    from edgekit.seal import write_sealed_json

    paths = [folder / f"{name}.json"]
    write_sealed_json(paths[0], result.as_dict())
    if plots.available():
        rows = result.rows
        x = [row.ratio for row in rows]
        accuracy = plots.Series(
            x,
            [100 * row.accuracy for row in rows],
            [100 * row.ci95[0] for row in rows],
            [100 * row.ci95[1] for row in rows],
        )
        panels = {
            "accuracy, %": {"masked teacher": accuracy},
            "JSD to itself, nats": {"masked teacher": plots.Series(x, [row.jsd for row in rows])},
        }
        paths.append(folder / f"{name}.svg")
        plots.lines(
            paths[1],
            panels,
            title=f"{result.questions:,} questions",
            xlabel="mask ratio r",
            marks={f"proposed r_max {result.r_max:g}": result.r_max},
        )
    return paths
