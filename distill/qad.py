"""Quantisation-aware distillation: the finished student, trained at the weights its export will hold.

Forward and backward run at quantised weights, the optimiser steps on the full-precision ones; the loss is
a T^2 KL(p_ref || p_S) + b CE on the reference answer (Polino, Pascanu, Alistarh, "Model compression via distillation
and quantization", ICLR 2018, arXiv:1802.05668, its quantised distillation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.data import Dataset

from edgekit.checkpoint.configuration import end_list
from edgekit.checkpoint.folder import load_model
from edgekit.data import Sample
from edgekit.distill.batch import Prompts, embed, encode_prompts, project, response_hidden
from edgekit.distill.fake_quant import fake_quantised, quantised_layers
from edgekit.distill.groups import row_means
from edgekit.distill.pairing import copy_processor
from edgekit.distill.questions import question
from edgekit.distill.shards import open_shards
from edgekit.distill.trainer import PartsTrainer, run_trainer, training_arguments
from edgekit.errors import EdgekitError
from edgekit.files import new_folder
from edgekit.formats.onnx.precisions import scheme_of
from edgekit.inputs.chat import render
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import Qad, Recipe
from edgekit.seal import seal_folder, write_sealed_rows
from edgekit.workspace import Run


@dataclass(frozen=True)
class KlReference:
    """p_ref: a loaded model, never trained, never quantised."""

    model: Any
    processor: Processor


@dataclass(frozen=True)
class Batch:
    """Questions with their reference answers, as both models see them."""

    ids: list[str]
    student: Prompts
    reference: Prompts
    answers: list[list[int]]


class Questions(Dataset[Sample]):
    """Item i: the question whose turn it is; each pass over them is a new permutation.

    Args:
        rows: Of `questions.QUESTIONS`.
        count: Items in all.
        seed: Of the order.
    """

    def __init__(self, rows: Any, count: int, seed: int) -> None:
        self.rows, self.count, self.seed = rows, count, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        epoch, place = divmod(index, len(self.rows))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
        return question(self.rows[int(self._order[place])])


def answer_ids(processor: Processor, sample: Sample, ends: set[int]) -> list[int]:
    """Token ids of the reference answer as the model's own template writes it, its end token included.

    Args:
        processor: Of the model.
        sample: With an answer.
        ends: The model's end tokens; none is added where there are none.
    """
    said = {"role": "assistant", "content": [{"type": "text", "text": str(sample.answer)}]}
    asked = render(processor.template, sample.messages, processor.special)
    answered = render(processor.template, [*sample.messages, said], processor.special)
    # A template that opens an answer otherwise than it writes one down, with an empty thought for instance, shows no
    # common start; the answer then follows the opening directly.
    text = answered.removeprefix(asked) if answered.startswith(asked) else str(sample.answer)
    ids: list[int] = processor.tokenizer.encode(text, add_special_tokens=False).ids
    last = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: last + 1] if last < len(ids) else ids + sorted(ends)[:1]


@dataclass(frozen=True)
class Collator:
    """Samples to a batch."""

    student: Processor
    reference: Processor
    ends: set[int]

    def __call__(self, samples: list[Sample]) -> dict[str, Batch]:
        """One batch."""
        student = encode_prompts(self.student, samples)
        alike = (self.reference.params, self.reference.template) == (self.student.params, self.student.template)
        reference = student if alike else encode_prompts(self.reference, samples)
        answers = [answer_ids(self.student, sample, self.ends) for sample in samples]
        return {"batch": Batch([sample.id for sample in samples], student, reference, answers)}


def qad_loss(
    logits: Tensor, reference: Tensor, answers: list[list[int]], settings: Qad
) -> tuple[Tensor, dict[str, Tensor]]:
    """kl_weight T^2 KL(p_ref || p_S) + ce_weight CE: mean over the tokens of each answer, then over answers.

    Args:
        logits, reference: (K, V), K the tokens of all answers in order; no gradient flows to the reference.
        answers: Token ids of each.
        settings: Weights and temperature T.

    Returns:
        The scalar loss, and detached means of its two parts in nats, the KL at temperature T.
    """
    heat = settings.temperature
    lengths = torch.tensor([len(ids) for ids in answers], device=logits.device)
    tokens = torch.tensor([token for ids in answers for token in ids], device=logits.device)
    ours, theirs = (log_softmax(values.float() / heat, -1) for values in (logits, reference.detach()))
    kl = row_means(kl_div(ours, theirs, reduction="none", log_target=True).sum(-1), lengths).mean()
    ce = row_means(cross_entropy(logits.float(), tokens, reduction="none"), lengths).mean()
    loss = settings.kl_weight * heat**2 * kl + settings.ce_weight * ce
    return loss, {"kl": kl.detach(), "ce": ce.detach()}


class QadTrainer(PartsTrainer):
    """Trainer whose loss is `qad_loss`; it quantises nothing itself.

    Args:
        reference: p_ref.
        processor: The student's.
        settings: Of the loss.
        vocab: Shared vocabulary size V.
        **rest: Trainer's own.
    """

    def __init__(self, *, reference: KlReference, processor: Processor, settings: Qad, vocab: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.reference, self.processor, self.settings, self.vocab = reference, processor, settings, vocab

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Batch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch."""
        batch = inputs["batch"]
        with self.accelerator.autocast():
            logits = self._logits(model, self.processor, batch.student, batch.answers)
            with torch.no_grad():
                theirs = self._logits(self.reference.model, self.reference.processor, batch.reference, batch.answers)
        loss, logs = qad_loss(logits, theirs, batch.answers, self.settings)
        if not torch.isfinite(loss):
            raise EdgekitError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1} of the quantised stage.",
                why=f"Questions of that step: {', '.join(batch.ids)}",
                fix="The last checkpoint is kept. Lower qad.learning_rate, or look at these questions.",
            )
        self.count_parts(logs)
        return (loss, {}) if return_outputs else loss

    def _logits(self, model: Any, processor: Processor, prompts: Prompts, answers: list[list[int]]) -> Tensor:
        embedded = embed(model, processor, prompts, 0)
        return project(model, response_hidden(model, embedded, range(len(answers)), answers, 0), self.vocab)


def distil_quantised(
    recipe: Recipe, run: Run, reference: Callable[[], KlReference], vocab: int, checkpoints: Path, out: Path
) -> None:
    """Train the run's student at quantised weights and write its full-precision weights.

    In memory: the student, the reference, and during a step the quantised values. Optimiser settings that `qad` does
    not name (schedule, weight decay, clipping, bf16, seed, save_steps) are the recipe's `trainer`; there is no warm-up.

    Args:
        recipe: With `qad`.
        run: Has questions/ and student/.
        reference: Loads p_ref.
        vocab: Shared vocabulary size V.
        checkpoints: Trainer's folder; a stage that was stopped goes on from there.
        out: Hugging Face folder; there once the stage is done.
    """
    qad, settings = recipe.qad, recipe.trainer
    student: Any = load_model(run.student, attn=settings.attention)
    processor = Processor.load(run.student)
    ref = reference()
    if torch.cuda.is_available():
        ref.model.to("cuda")
    ref.model.requires_grad_(False)
    trainer = QadTrainer(
        reference=ref,
        processor=processor,
        settings=qad,
        vocab=vocab,
        model=student,
        args=training_arguments(
            checkpoints,
            max_steps=qad.steps,
            per_device_train_batch_size=qad.batch_questions,
            learning_rate=qad.learning_rate,
            lr_scheduler_type=settings.schedule,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            bf16=settings.bf16,
            save_steps=settings.save_steps,
            seed=settings.seed,
        ),
        train_dataset=Questions(
            open_shards(run.questions, run.checkpoints / "cache"),
            qad.steps * qad.batch_questions,
            settings.seed,
        ),
        data_collator=Collator(processor, ref.processor, set(end_list(student.generation_config.eos_token_id))),
    )
    with fake_quantised(quantised_layers(student, processor.family), scheme_of(qad.precision)):
        run_trainer(trainer, checkpoints, f"at {qad.precision} weights")
    write_sealed_rows(run.reports / f"training-{qad.precision}.json", trainer.state.log_history)
    with new_folder(out, replace=True) as folder:
        student.save_pretrained(folder)
        copy_processor(run.student, folder)
        seal_folder(folder)
