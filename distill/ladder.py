"""The teacher stages of a run: a falling mask for each teacher, and one order of visits through all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from edgekit.distill.clock import PhaseClock
from edgekit.distill.masking import MaskedTeacher, mask_ratio, stage_ratios
from edgekit.distill.measuring import MAX_ANSWER_TOKENS
from edgekit.distill.order import Order, image_numbers
from edgekit.distill.probe import held_out, probe
from edgekit.distill.probe import save as save_probe
from edgekit.distill.teacher_stages import Checkpoint, TeacherStage
from edgekit.recipe.model import Recipe
from edgekit.seal import read_sealed_json
from edgekit.workspace import Run


@dataclass(frozen=True)
class Ladder:
    """Plans the teacher stages of a run whose questions are known.

    Attributes:
        recipe: Says how long each teacher stage is and how its mask falls.
        run: Holds the questions; keeps what was probed.
        masked: Loads a teacher.
        clock: Told the time that probing takes.
    """

    recipe: Recipe
    run: Run
    masked: Callable[[Checkpoint], MaskedTeacher]
    clock: PhaseClock

    def teacher_stages(self, teachers: Sequence[Checkpoint]) -> list[TeacherStage]:
        """A teacher stage for each teacher; one order of visits goes through all of them."""
        trainer, questions = self.recipe.trainer, self.run.questions
        count = read_sealed_json(questions / "index.json")["questions"]
        images = image_numbers(questions) if trainer.order == "pictures" else None
        order, first, teacher_stages = Order(count, trainer.seed, images), 0, list[TeacherStage]()
        for number, teacher in enumerate(teachers):
            title = f"probing teacher {number + 1} of {len(teachers)}"
            teacher_stages.append(self._teacher_stage(number, teacher, order, first, title))
            first += teacher_stages[-1].steps * teacher_stages[-1].per_step
        return teacher_stages

    def _teacher_stage(self, number: int, teacher: Checkpoint, order: Order, first: int, title: str) -> TeacherStage:
        steps, fall = self.recipe.steps(number), self.recipe.r_step(number)
        per_step = self.recipe.trainer.batch_questions * self.recipe.trainer.gradient_accumulation
        wanted = self.recipe.r_max(number)
        # Whole stages only where it is measured, so that the schedule ends at 0.
        r_max = math.floor(self._probed(teacher, title) / fall + 1e-9) * fall if wanted == "auto" else wanted
        r_max = round(r_max, 10)
        ratio_of = partial(mask_ratio, steps=steps, r_max=r_max, fall=fall)
        refresh = self.recipe.masters.gen_data.student_refresh
        ratios = stage_ratios(steps, r_max, fall)
        return TeacherStage(number, teacher, steps, ratio_of, ratios, refresh, order, first, per_step)

    def _probed(self, teacher: Checkpoint, title: str) -> float:
        """The r_max that a probe of this teacher proposes; kept in the run's reports."""
        path = self.run.reports / f"probe-{teacher.hash[:12]}.json"
        if not path.exists():
            settings, data = self.recipe.masters.probe, self.recipe.data
            taken = set(_question_ids(self.run.questions))
            questions = held_out(data.train, settings.questions, self.recipe.trainer.seed, taken)
            with self.clock.phase("probe"):
                result = probe(
                    self.masked(teacher),
                    teacher.processor,
                    questions,
                    scoring=data.scoring,
                    step=settings.step,
                    max_drop=settings.max_drop / 100,
                    max_new_tokens=MAX_ANSWER_TOKENS,
                    title=title,
                )
            save_probe(result, path.parent, path.stem)
        return float(read_sealed_json(path)["r_max"])


def _question_ids(questions: Path) -> list[str]:
    files = sorted(questions.glob("shard-*.parquet"))
    return [name for path in files for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]
