"""The ladder of a run: its teachers and student, a stage for each teacher, and the stretches of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoint.folder import check_checkpoint, checkpoint_hash, resolve_checkpoint
from edgekit.checkpoint.skeleton import skeleton
from edgekit.checkpoint.tensors import check_tensors
from edgekit.distill.order import Order
from edgekit.families import Family, family_of
from edgekit.inputs.processor import Processor
from edgekit.workspace import Run

UNTOUCHED = "student-1"
"""Folder of the responses of the student as the run found it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with what is known of it without loading its weights."""

    name: str
    folder: Path
    family: Family
    processor: Processor
    hash: str

    @classmethod
    def of(cls, name: str, base: Path) -> Checkpoint:
        """Look at a checkpoint named in a recipe; relative names start from `base`.

        Raises:
            CheckpointError: it is missing, damaged, or of no known family.
        """
        folder = resolve_checkpoint(name, base)
        config = check_checkpoint(folder)
        check_tensors(folder)
        return cls(name, folder, family_of(config["model_type"]), Processor.load(folder), checkpoint_hash(folder))

    @property
    def head_size(self) -> int:
        """Rows of the output head, padding included."""
        model = skeleton(self.folder)
        return int(cast(Any, model.get_output_embeddings()).weight.shape[0])


@dataclass(frozen=True)
class Stage:
    """A stretch of a teacher stage: Gen-Data for these ratios, then training on them.

    Attributes:
        ratios: In order.
        start: First optimiser step.
        stop: The step after the last.
    """

    ratios: list[float]
    start: int
    stop: int


@dataclass(frozen=True)
class TeacherStage:
    """One teacher's share of the run.

    Attributes:
        number: From 0.
        teacher: Whose.
        steps: Optimiser steps.
        ratio_of: Optimiser step -> mask ratio.
        ratios: Distinct ratios in order.
        refresh: `masters.gen_data.student_refresh`.
        order: Of the visits of the whole ladder.
        first: Visits of the teachers before.
        per_step: Questions an optimiser step takes, those of all processes together.
    """

    number: int
    teacher: Checkpoint
    steps: int
    ratio_of: Callable[[int], float]
    ratios: list[float]
    refresh: str
    order: Order
    first: int
    per_step: int

    @property
    def stages(self) -> list[Stage]:
        """One stretch, or one per mask ratio where the student's responses follow its training."""
        if self.refresh != "per_stage":
            return [Stage(self.ratios, 0, self.steps)]
        return [Stage([ratio], *self._span(ratio)) for ratio in self.ratios]

    def rows(self, ratio: float) -> NDArray[np.int64]:
        """Questions that are visited at one mask ratio, by row, each once."""
        return np.unique(self.order.visits(*(self.first + step * self.per_step for step in self._span(ratio))))

    def all_rows(self) -> NDArray[np.int64]:
        """Questions that this teacher stage visits."""
        return np.unique(self.order.visits(self.first, self.first + self.steps * self.per_step))

    def _span(self, ratio: float) -> tuple[int, int]:
        """First step at a ratio, and the step after the last; ratios only fall."""
        own = [step for step in range(self.steps) if self.ratio_of(step) == ratio]
        return own[0], own[-1] + 1

    def responses(self, run: Run, ratio: float) -> Path:
        """Shards of this teacher at one mask ratio."""
        return run.responses / f"teacher-{self.teacher.hash[:12]}-mask-{ratio:.4f}"

    def student_responses(self, run: Run, ratio: float) -> Path:
        """Shards of the student used here at one mask ratio; only those of the untouched one can be shared."""
        if self.refresh == "per_stage":
            return run.folder / "responses" / f"student-{self.number + 1}-mask-{ratio:.4f}"
        if self.refresh == "per_teacher" and self.number:
            return run.folder / "responses" / f"student-{self.number + 1}"
        return self.untouched(run)

    def untouched(self, run: Run) -> Path:
        """Shards of the student as the run found it, pi_ref."""
        return run.responses / UNTOUCHED

    def checkpoints(self, run: Run) -> Path:
        """Trainer's folder."""
        return run.checkpoints / f"teacher-{self.number + 1}"

    def student(self, run: Run, stage: Stage | None = None) -> Path:
        """The student as a stage leaves it; the last one by default."""
        name = f"student-{self.number + 1}"
        return run.checkpoints / (name if stage is None or stage.stop == self.steps else f"{name}-step-{stage.stop}")
