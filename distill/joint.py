"""One teacher stage of MASTERS: a student trained on one teacher's mask schedule, by transformers' Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from edgekit.console import note
from edgekit.data import Sample
from edgekit.distill.answered import Answered
from edgekit.distill.batch import Prompts, embed, encode_prompts, response_hidden
from edgekit.distill.blanks import blanked
from edgekit.distill.carrying import CarriedMoments, Span, shifted
from edgekit.distill.gradients import at_war, term_gradients
from edgekit.distill.groups import Group, Weights, row_means
from edgekit.distill.hidden_states import Recorder, sizes
from edgekit.distill.loss import joint_loss
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.objectives import Objective, Side
from edgekit.distill.objectives.reverse_kl import Loss as ReverseKl
from edgekit.distill.order import Order
from edgekit.distill.policy import Measured
from edgekit.distill.processes import as_forward
from edgekit.distill.questions import question
from edgekit.distill.schedules import ObjectiveSchedule
from edgekit.distill.trainer import PartsTrainer
from edgekit.distill.vocabulary import Terms, answer_terms, token_logps
from edgekit.errors import NotFiniteError
from edgekit.inputs.processor import Processor

S = TypeVar("S")
T = TypeVar("T")
ADAPTERS = "edgekit_adapters"


@dataclass(frozen=True)
class Item:
    """One question with its G responses as Gen-Data wrote them."""

    sample: Sample
    responses: list[dict[str, Any]]


@dataclass(frozen=True)
class JointBatch:
    """What one step sees: both models' prompts, the teacher's with blank images if wanted, the distinct responses."""

    question_ids: list[str]
    student: Prompts
    teacher: Prompts
    responses: list[list[int]]
    group: Group
    unseen: Prompts | None = None


class ScheduledQuestions(Dataset[Item]):
    """Item i of a teacher stage: the question whose turn it is, with the responses of the mask stage that step is in.

    Args:
        questions: Rows of `questions.QUESTIONS`.
        passes: Mask ratio -> response sets used at that stage.
        ratio_of: Step -> mask ratio.
        steps: Optimiser steps of the teacher stage.
        per_step: Questions an optimiser step takes, those of all processes together.
        order: Of the visits.
        first: Visits of the teacher stages before.
    """

    def __init__(
        self,
        questions: Any,
        passes: Mapping[float, Sequence[Answered]],
        ratio_of: Callable[[int], float],
        steps: int,
        per_step: int,
        order: Order,
        first: int = 0,
    ) -> None:
        self.questions, self.passes, self.ratio_of = questions, passes, ratio_of
        self.steps, self.per_step, self.order, self.first = steps, per_step, order, first
        self._epoch, self._rows = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.steps * self.per_step

    def __getitem__(self, index: int) -> Item:
        epoch, place = divmod(self.first + index, self.order.questions)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self.order.epoch(epoch)
        row = int(self._rows[place])
        sample = question(self.questions[row])
        sets = self.passes[self.ratio_of(index // self.per_step)]
        return Item(sample, [response for answered in sets for response in answered.to(row, sample.id)])


@dataclass(frozen=True)
class Collator:
    """Items to a batch; the responses of a question that are token for token the same are kept once.

    Attributes:
        student, teacher: Their processors.
        references: Add the data's own answers, for objectives that learn from them.
        blanks: Add the teacher's prompts with blank images, for objectives that compare.
    """

    student: Processor
    teacher: Processor
    references: bool = False
    blanks: bool = False

    def __call__(self, items: list[Item]) -> dict[str, JointBatch]:
        """One batch."""
        distinct: dict[tuple[int, tuple[int, ...]], int] = {}
        rows: list[dict[str, Any]] = []
        written: dict[int, list[float]] = {}
        slots = []
        for number, item in enumerate(items):
            own = []
            for response in item.responses:
                key = (number, tuple(response["token_ids"]))
                if key not in distinct:
                    distinct[key] = len(rows)
                    rows.append(response)
                own.append(distinct[key])
                if response["source"] == "student" and response.get("writer_logp"):
                    written[distinct[key]] = response["writer_logp"]
            slots.append(own)
        samples = [item.sample for item in items]
        answers = [self._answer(number, item.sample, distinct, rows) for number, item in enumerate(items)]
        group = Group(
            owners=torch.tensor([number for number, _ in distinct]),
            lengths=torch.tensor([len(ids) for _, ids in distinct]),
            slots=torch.tensor(slots, dtype=torch.long),
            r_acc=torch.tensor([float(row["r_acc"]) for row in rows]),
            present=torch.tensor([bool(row["text"].strip()) for row in rows]),
            ref_logp=torch.tensor([value for row in rows for value in row["ref_logp"]]),
            writer_logp=torch.tensor(
                [v for k, row in enumerate(rows) for v in written.get(k) or [math.nan] * len(row["ref_logp"])]
            ),
            from_teacher=torch.tensor(
                [[r["source"] == "teacher" for r in item.responses] for item in items], dtype=torch.bool
            ),
            reference=torch.tensor(answers),
        )
        student = encode_prompts(self.student, samples)
        # Models that see a prompt alike share its encoding; those with other image sizes or templates do not.
        alike = all(
            getattr(self.teacher, part) == getattr(self.student, part) for part in ("family", "params", "template")
        )
        teacher = student if alike else encode_prompts(self.teacher, samples)
        responses = [list(ids) for _, ids in distinct]
        unseen = encode_prompts(self.teacher, [blanked(sample) for sample in samples]) if self.blanks else None
        return {"batch": JointBatch([s.id for s in samples], student, teacher, responses, group, unseen)}

    def _answer(
        self, number: int, sample: Sample, distinct: dict[tuple[int, tuple[int, ...]], int], rows: list[dict[str, Any]]
    ) -> int:
        """The row of a question's reference answer, added where none was drawn that says the same; -1 without one."""
        if not self.references or not sample.answer:
            return -1
        ids = self.student.answer_ids(sample.messages, str(sample.answer))
        key = (number, tuple(ids))
        if key not in distinct:
            distinct[key] = len(rows)
            rows.append({"r_acc": 1.0, "text": str(sample.answer), "ref_logp": [0.0] * len(ids)})
        return distinct[key]


class JointTrainer(PartsTrainer):
    """Trainer whose loss is the joint objective.

    Args:
        teacher: Loaded, frozen, masked by the stage.
        reference: pi_ref, loaded and frozen, where the KL to it is taken over the vocabulary.
        processors: (student's, teacher's).
        objectives: By name.
        weights: Of the terms.
        vocab: Shared vocabulary size V.
        log_gradients: Steps between looks at the terms' gradients; 0 for none.
        span: Place of this teacher stage in a schedule over the whole ladder; None for a schedule of its own.
        **settings: Trainer's own.
    """

    def __init__(
        self,
        *,
        teacher: MaskedTeacher,
        reference: Any = None,
        processors: tuple[Processor, Processor],
        objectives: Mapping[str, Objective],
        weights: Weights,
        vocab: int,
        log_gradients: int = 0,
        span: Span | None = None,
        **settings: Any,
    ) -> None:
        with torch.random.fork_rng(devices=[]):  # the same layers in every run of a seed, and in every process
            torch.manual_seed(settings["args"].seed)
            self.adapters = attach_adapters(settings["model"], teacher.model, objectives)
        self.span = span
        super().__init__(**settings)
        self.teacher, self.reference, self.processors = teacher, reference, processors
        self.objectives, self.weights, self.vocab = objectives, weights, vocab
        self.looks_at = frozenset[str]().union(*(objective.looks_at for objective in objectives.values()))
        Recorder(teacher.model, self.looks_at)  # refuses now, not at the first step
        self.add_callback(ObjectiveSchedule(objectives, self._step_means))
        if span is not None and span.before is not None:
            self.add_callback(CarriedMoments(span.before))
        self._step_sums: dict[str, float] = {}
        self._step_batches, self._again = 0, False
        self.log_gradients, self._looked_at, self._warned = log_gradients, -1, False

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Trainer's, over the whole ladder where it spans it."""
        begun: Any = vars(self).get("lr_scheduler")
        if self.span is None or begun is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler: Any = shifted(super().create_scheduler(self.span.total, optimizer), self.span.first)
        return self.lr_scheduler

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, JointBatch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The joint loss of one batch."""
        batch = inputs["batch"]
        step = self.state.global_step
        looks = bool(self.log_gradients) and step % self.log_gradients == 0 and step != self._looked_at
        self._again = looks
        terms, parts, kl = as_forward(model, self.model, self._terms, batch)
        group = _to(batch.group, terms.logp.device)
        seen = Measured(terms.logp, terms.teacher_logp, kl)
        loss, logs, summands = joint_loss(seen, terms.losses, group, self.weights, parts)
        if not torch.isfinite(loss):
            raise self._not_finite(loss, terms, group, batch)
        if looks:
            self._look(summands)
        self.count_parts(logs)
        for name, value in logs.items():
            self._step_sums[name] = self._step_sums.get(name, 0.0) + float(value)
        self._step_batches += 1
        return (loss, {}) if return_outputs else loss

    def _look(self, terms: Mapping[str, Tensor]) -> None:
        """Log the gradients of the loss's terms on the first batch of a step."""
        self._looked_at = self.state.global_step
        found = term_gradients(terms, self.model.parameters())
        self.log(found)
        if at_war(found) and not self._warned:
            self._warned = True
            note(
                f"Step {self._looked_at}: the policy's gradient ({found['gradient_policy']:.3g}) is larger than the "
                f"objective's ({found['gradient_objective']:.3g}) and against it (cosine "
                f"{found['gradient_cosine']:.2f})."
            )

    def _terms(self, student: Any, batch: JointBatch) -> tuple[Terms, dict[str, Tensor], Tensor | None]:
        """What the loss is made of: per token, per batch, and the KL to pi_ref where it is taken in full."""
        if hasattr(student, "get_base_model"):  # peft's wrapper; its adapters lie inside the model it wraps
            student = student.get_base_model()
        masked: Any = self.teacher.model
        # The parts of the models are called one by one, past the autocast that accelerate puts around forward().
        with self.accelerator.autocast():
            hidden, ours = self._hidden(student, self.processors[0], batch.student, batch)
            with torch.no_grad():
                aim, theirs = self._hidden(masked, self.processors[1], batch.teacher, batch)
            ids = torch.tensor([token for response in batch.responses for token in response], device=hidden.device)
            heads = student.get_output_embeddings(), masked.get_output_embeddings()
            sides = (hidden, heads[0]), (aim, heads[1])
            wanted = self.weights.needs_mu or batch.unseen is not None
            terms = answer_terms(*sides, ids, self.objectives, self.vocab, teacher_logp=wanted, again=self._again)
            kl = self._full_kl(sides[0], batch, ids)
            if batch.unseen is not None and terms.teacher_logp is not None:
                unseen = token_logps(self._states(masked, 1, batch.unseen, batch), heads[1], ids, self.vocab)
                self._weigh(terms.losses, terms.teacher_logp, unseen, batch.group.lengths.to(ids.device))
        parts = {}
        if ours is not None and theirs is not None:
            for name, objective in self.objectives.items():
                part = objective.batch_part(ours, theirs, self.adapters.get(name))
                if part is not None:
                    parts[name] = part
        return terms, parts, kl

    def _full_kl(self, student: tuple[Tensor, nn.Module], batch: JointBatch, ids: Tensor) -> Tensor | None:
        """KL(pi_theta || pi_ref) of each token over the vocabulary; None without a loaded pi_ref."""
        if self.reference is None:
            return None
        side = self._states(self.reference, 0, batch.student, batch), self.reference.get_output_embeddings()
        return answer_terms(student, side, ids, {"kl": ReverseKl()}, self.vocab).losses["kl"]

    @torch.no_grad()
    def _states(self, model: Any, whose: int, prompts: Prompts, batch: JointBatch) -> Tensor:
        """States (K, D) of a frozen model that predict the answer tokens."""
        embedded = embed(model, self.processors[whose], prompts, 0)
        return response_hidden(model, embedded, batch.group.owners.tolist(), batch.responses, 0)

    def _weigh(self, losses: dict[str, Tensor], seen: Tensor, unseen: Tensor, lengths: Tensor) -> None:
        """Weigh the tokens of those objectives that compare images with blank ones, in place."""
        for name, objective in self.objectives.items():
            if objective.compares_images:
                losses[name] = losses[name] * objective.token_weights(seen, unseen, lengths)

    def _not_finite(self, loss: Tensor, terms: Terms, group: Group, batch: JointBatch) -> NotFiniteError:
        rows = [row_means(values.detach(), group.lengths) for values in (terms.logp, *terms.losses.values())]
        bad = ~torch.stack(rows).isfinite().all(0)
        owners = sorted(set(group.owners[bad].tolist())) or range(len(batch.question_ids))
        return NotFiniteError(
            f"The loss is {loss.item()} at step {self.state.global_step + 1}.",
            why=f"From these questions: {', '.join(batch.question_ids[number] for number in owners)}",
            fix="The last checkpoint is kept. Lower trainer.learning_rate, or look at these questions.",
        )

    def _hidden(
        self, model: Any, processor: Processor, prompts: Prompts, batch: JointBatch
    ) -> tuple[Tensor, Side | None]:
        """States (K, D) that predict the answer tokens, and what the objectives look at."""
        recorder = Recorder(model, self.looks_at)
        embedded = embed(model, processor, prompts, 0)
        with recorder.on():
            # What is recorded has a row for each response.
            owners, pack = batch.group.owners.tolist(), not self.looks_at
            hidden = response_hidden(model, embedded, owners, batch.responses, 0, pack)
        side = recorder.side(embedded, batch.group.owners, batch.responses) if self.looks_at else None
        return hidden, side

    def _step_means(self) -> dict[str, float]:
        """Means of the loss's parts since the last call."""
        means = {name: total / self._step_batches for name, total in self.over_processes(self._step_sums).items()}
        self._step_sums, self._step_batches = {}, 0
        return means

    def state_to_log(self) -> dict[str, float]:
        """The mask ratio."""
        return {"mask": self.teacher.ratio}

    def whole_weights(self) -> dict[str, Tensor]:
        """The student's state dict, gathered from all processes that hold a piece; to be called by all of them."""
        gathered: dict[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return {name: value for name, value in gathered.items() if not name.startswith(f"{ADAPTERS}.")}


def attach_adapters(student: Any, teacher: Any, objectives: Mapping[str, Objective]) -> dict[str, nn.Module]:
    """Make the objectives' own layers part of the student, so that they are optimised and checkpointed with it."""
    made = {name: objective.adapters(sizes(student, teacher)) for name, objective in objectives.items()}
    found = {name: module for name, module in made.items() if module is not None}
    if found:
        device = next(student.parameters()).device
        setattr(student, ADAPTERS, nn.ModuleDict(found).to(device))
    return found


def detach_adapters(student: Any) -> None:
    """Take them off again before the student is saved."""
    if hasattr(student, ADAPTERS):
        delattr(student, ADAPTERS)


def _to(group: Group, device: torch.device) -> Group:
    return Group(**{name: value.to(device) for name, value in vars(group).items()})
