"""One leg of MASTERS: a student trained on one teacher's mask schedule, by transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgekit.data import Sample
from edgekit.distill.batch import Prompts, embed, encode_prompts, project, response_hidden, token_logp
from edgekit.distill.gen_data import question
from edgekit.distill.loss import Group, PerToken, Weights, joint_loss
from edgekit.distill.masking import MaskedTeacher
from edgekit.errors import DataError, EdgekitError
from edgekit.processor import Processor


@dataclass(frozen=True)
class Item:
    """One question with its G responses as Gen-Data wrote them."""

    sample: Sample
    responses: list[dict[str, Any]]


@dataclass(frozen=True)
class JointBatch:
    """What one step sees: both models' prompts, and the distinct responses."""

    question_ids: list[str]
    student: Prompts
    teacher: Prompts
    responses: list[list[int]]
    group: Group


class ScheduledQuestions(Dataset[Item]):
    """Item i of a leg: the question whose turn it is, with the responses of the mask stage that step is in.

    Args:
        questions: Rows of `gen_data.QUESTIONS`.
        passes: Mask ratio -> response sets (rows, responses per question) used at that stage.
        ratio_of: Step -> mask ratio.
        steps: Optimiser steps of the leg.
        per_step: Questions an optimiser step takes.
        seed: Of the order; each pass over the questions is a new permutation.
    """

    def __init__(
        self,
        questions: Any,
        passes: Mapping[float, Sequence[tuple[Any, int]]],
        ratio_of: Callable[[int], float],
        steps: int,
        per_step: int,
        seed: int,
    ) -> None:
        self.questions, self.passes, self.ratio_of = questions, passes, ratio_of
        self.steps, self.per_step, self.seed = steps, per_step, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.steps * self.per_step

    def __getitem__(self, index: int) -> Item:
        epoch, place = divmod(index, len(self.questions))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.questions))
        row = int(self._order[place])
        sample = question(self.questions[row])
        responses: list[dict[str, Any]] = []
        for rows, count in self.passes[self.ratio_of(index // self.per_step)]:
            found = rows[row * count : (row + 1) * count]
            if set(found["question_id"]) - {sample.id}:
                raise DataError(
                    f"The responses do not belong to the questions: {sample.id!r} met {found['question_id'][0]!r}.",
                    fix="Remove the run's responses/ folder and run the command again.",
                )
            responses += [{key: values[k] for key, values in found.items()} for k in range(len(found["question_id"]))]
        return Item(sample, responses)


@dataclass(frozen=True)
class Collator:
    """Items to a batch; the responses of a question that are token for token the same are kept once."""

    student: Processor
    teacher: Processor

    def __call__(self, items: list[Item]) -> dict[str, JointBatch]:
        """One batch."""
        distinct: dict[tuple[int, tuple[int, ...]], int] = {}
        rows: list[dict[str, Any]] = []
        slots = []
        for number, item in enumerate(items):
            own = []
            for response in item.responses:
                key = (number, tuple(response["token_ids"]))
                if key not in distinct:
                    distinct[key] = len(rows)
                    rows.append(response)
                own.append(distinct[key])
            slots.append(own)
        samples = [item.sample for item in items]
        group = Group(
            owners=torch.tensor([number for number, _ in distinct]),
            lengths=torch.tensor([len(ids) for _, ids in distinct]),
            slots=torch.tensor(slots),
            r_acc=torch.tensor([float(row["r_acc"]) for row in rows]),
            present=torch.tensor([bool(row["text"].strip()) for row in rows]),
            ref_logp=torch.tensor([value for row in rows for value in row["ref_logp"]]),
        )
        student = encode_prompts(self.student, samples)
        # Models that see a prompt alike share its encoding; those with other image sizes or templates do not.
        alike = (self.teacher.params, self.teacher.template) == (self.student.params, self.student.template)
        teacher = student if alike else encode_prompts(self.teacher, samples)
        responses = [list(ids) for _, ids in distinct]
        return {"batch": JointBatch([s.id for s in samples], student, teacher, responses, group)}


class JointTrainer(Trainer):
    """Trainer whose loss is the joint objective.

    Args:
        teacher: Loaded, frozen, masked by the stage.
        processors: (student's, teacher's).
        objectives: Name -> per-token loss.
        weights: Of the terms.
        vocab: Shared vocabulary size V.
        **settings: Trainer's own.
    """

    def __init__(
        self,
        *,
        teacher: MaskedTeacher,
        processors: tuple[Processor, Processor],
        objectives: Mapping[str, PerToken],
        weights: Weights,
        vocab: int,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.teacher, self.processors = teacher, processors
        self.objectives, self.weights, self.vocab = objectives, weights, vocab
        self.model_accepts_loss_kwargs = False  # the loss is a mean over questions already
        self._sums: dict[str, float] = {}
        self._batches = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, JointBatch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The joint loss of one batch."""
        batch = inputs["batch"]
        # The parts of the models are called one by one, past the autocast that accelerate puts around forward().
        with self.accelerator.autocast():
            student_logits = self._logits(model, self.processors[0], batch.student, batch)
            with torch.no_grad():
                teacher_logits = self._logits(self.teacher.model, self.processors[1], batch.teacher, batch)
        logp = token_logp(student_logits, batch.responses)
        distances = {name: loss(student_logits, teacher_logits) for name, loss in self.objectives.items()}
        loss, logs = joint_loss(logp, distances, _to(batch.group, logp.device), self.weights)
        if not torch.isfinite(loss):
            raise EdgekitError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}.",
                why=f"Questions of that step: {', '.join(batch.question_ids)}",
                fix="The last checkpoint is kept. Lower trainer.learning_rate, or look at these questions.",
            )
        for name, value in logs.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._batches += 1
        return (loss, {}) if return_outputs else loss

    def _logits(self, model: Any, processor: Processor, prompts: Prompts, batch: JointBatch) -> Tensor:
        embedded = embed(model, processor, prompts, 0)
        hidden = response_hidden(model, embedded, batch.group.owners.tolist(), batch.responses, 0)
        return project(model, hidden, self.vocab)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means of the loss's parts since the last log, and the mask ratio."""
        if self._batches and "loss" in logs:
            logs = {**logs, **{name: round(total / self._batches, 6) for name, total in self._sums.items()}}
            logs["mask"] = self.teacher.ratio
            self._sums, self._batches = {}, 0
        super().log(logs, *args, **kwargs)


class MaskSchedule(TrainerCallback):
    """Sets the teacher's mask at the start of each stage, also after a resume.

    Args:
        teacher: To mask.
        ratio_of: Step -> ratio.
        record: Told each ratio and the threshold of each tensor at it.
    """

    def __init__(
        self,
        teacher: MaskedTeacher,
        ratio_of: Callable[[int], float],
        record: Callable[[float, dict[str, float]], None],
    ) -> None:
        self.teacher, self.ratio_of, self.record = teacher, ratio_of, record
        self._set: float | None = None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by Trainer before each optimiser step."""
        ratio = self.ratio_of(state.global_step)
        if ratio != self._set:
            self.record(ratio, self.teacher.set_ratio(ratio))
            self._set = ratio


def _to(group: Group, device: torch.device) -> Group:
    return Group(**{name: value.to(device) for name, value in vars(group).items()})


def checkpoint_folder(checkpoints: Path, leg: int) -> Path:
    """Trainer's folder for one teacher of the ladder."""
    return checkpoints / f"teacher-{leg + 1}"
