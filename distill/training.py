"""The trainer of one teacher stage, as a recipe describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.distill import processes, trackers
from edgekit.distill.carrying import Span
from edgekit.distill.groups import Weights
from edgekit.distill.joint import Collator, JointTrainer, ScheduledQuestions
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.objectives import Objective
from edgekit.distill.teacher_stages import TeacherStage
from edgekit.distill.trainer import training_arguments
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import Recipe
from edgekit.workspace import Run


def stage_trainer(
    recipe: Recipe,
    run: Run,
    teacher_stages: Sequence[TeacherStage],
    teacher_stage: TeacherStage,
    *,
    models: tuple[Any, MaskedTeacher],
    processors: tuple[Processor, Processor],
    objectives: Mapping[str, Objective],
    vocab: int,
    dataset: ScheduledQuestions,
    loggers: Sequence[str],
    load_reference: Callable[[], Any],
) -> JointTrainer:
    """Ready to train, but for its schedules.

    Args:
        recipe: Resolved.
        run: Whose checkpoints and logs.
        teacher stages: The whole ladder.
        teacher stage: Which teacher's.
        models, processors: The student's and the teacher's.
        objectives: By name.
        vocab: Size of the vocabulary all checkpoints share.
        dataset: The visits of the teacher stage.
        loggers: Trackers by Trainer's names.
        load_reference: Loads pi_ref, where the loss runs it.
    """
    weights = Weights.by(recipe, objectives)
    return JointTrainer(
        teacher=models[1],
        reference=load_reference().requires_grad_(False) if weights.needs_reference else None,
        processors=processors,
        objectives=objectives,
        weights=weights,
        vocab=vocab,
        span=_span(recipe, run, teacher_stages, teacher_stage),
        log_gradients=recipe.trainer.log_gradients,
        model=models[0],
        args=_arguments(recipe, teacher_stage.checkpoints(run), teacher_stage.steps, loggers, run.name),
        train_dataset=dataset,
        data_collator=Collator(
            *processors,
            references=any(objective.over == "reference" for objective in objectives.values()),
            blanks=any(objective.compares_images for objective in objectives.values()),
        ),
    )


def _span(recipe: Recipe, run: Run, teacher_stages: Sequence[TeacherStage], teacher_stage: TeacherStage) -> Span | None:
    if recipe.trainer.across_teachers == "anew":
        return None
    before = teacher_stages[teacher_stage.number - 1].checkpoints(run) if teacher_stage.number else None
    return Span(
        sum(one.steps for one in teacher_stages[: teacher_stage.number]),
        sum(one.steps for one in teacher_stages),
        before,
    )


def _arguments(recipe: Recipe, folder: Path, steps: int, loggers: Sequence[str], name: str) -> Any:
    settings = recipe.trainer
    return training_arguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=settings.batch_questions // processes.count(),
        gradient_accumulation_steps=settings.gradient_accumulation,
        activation_checkpointing=settings.gradient_checkpointing,
        # A process whose questions have no image leaves the vision tower without gradients.
        ddp_find_unused_parameters=True,
        report_to=[logger for logger in loggers if logger != trackers.BOARD],
        run_name=name,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        save_steps=settings.save_steps,
        logging_steps=settings.logging_steps,
        seed=settings.seed,
    )
