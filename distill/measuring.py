"""Accuracy of the students of a run, each asked once and what it said kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.checkpoint.folder import load_model
from edgekit.data import samples
from edgekit.distill import processes
from edgekit.distill.acceptance import acceptance
from edgekit.distill.clock import PhaseClock
from edgekit.distill.evaluate import Evaluation, compared, evaluate_model
from edgekit.distill.teacher_stages import Checkpoint
from edgekit.recipe.model import Recipe
from edgekit.seal import read_sealed_json, write_sealed_json
from edgekit.workspace import Run

MAX_ANSWER_TOKENS = 16
ACCEPTANCE_QUESTIONS = 256
Measured = tuple[Evaluation, Evaluation | None]
"""On the test questions, and on those about something else where there are any."""


@dataclass(frozen=True)
class Measuring:
    """Puts the questions of a recipe to students.

    Attributes:
        recipe: Says which questions.
        run: Keeps the answers, in reports/.
        student: Whose processor all students have.
        clock: Told the time it takes.
    """

    recipe: Recipe
    run: Run
    student: Checkpoint
    clock: PhaseClock

    def test(self, when: str, load: Callable[[], Any]) -> Evaluation:
        """Answers to the test questions.

        Args:
            when: They are kept under this name, and given back without loading anything the next time.
            load: Loads the model.
        """
        return self._asked(when, load, self.recipe.data.test, self.recipe.data.test_limit)

    def both(self, when: str, load: Callable[[], Any]) -> Measured:
        """Answers to the test questions, and to those about something else; arguments as for `test`."""
        data = self.recipe.data
        first = self.test(when, load)
        if data.retention is None:
            return first, None
        return first, self._asked(f"retention-{when}", load, data.retention, data.retention_limit)

    def gains(self, begun: Measured, ended: Measured) -> dict[str, Any]:
        """What a run's manifest says of the accuracy before and after it."""
        data = self.recipe.data
        (before, kept_before), (after, kept_after) = begun, ended
        said = {"accuracy": compared(before, after, data.test)}
        if data.retention is not None and kept_before is not None and kept_after is not None:
            said["retention"] = compared(kept_before, kept_after, data.retention)
        return said

    def acceptance(self, teacher: Checkpoint, vocab: int) -> dict[str, Any]:
        """How well the student would serve as a draft model of a teacher, before and after.

        Args:
            teacher: Without its mask.
            vocab: Size of the vocabulary prefix that both share.
        """
        data = self.recipe.data
        asked = list(samples(data.test, limit=min(ACCEPTANCE_QUESTIONS, data.test_limit or ACCEPTANCE_QUESTIONS)))
        with self.clock.phase("acceptance"):
            dense = load_model(teacher.folder)
            found = {
                when: acceptance(
                    (load_model(folder), self.student.processor),
                    (dense, teacher.processor),
                    asked,
                    vocab,
                    max_new_tokens=MAX_ANSWER_TOKENS,
                )
                for when, folder in (("before", self.student.folder), ("after", self.run.student))
            }
        return {"teacher": teacher.name, **found}

    def _asked(self, when: str, load: Callable[[], Any], spec: str, limit: int | None) -> Evaluation:
        path = self.run.reports / f"accuracy-{when}.json"
        if processes.from_main(path.exists):
            kept = read_sealed_json(path)
            return Evaluation(kept["ids"], np.array(kept["scores"]), kept["answers"])
        with self.clock.phase(f"measure_{when}"):
            result = evaluate_model(
                load().to(processes.device()),
                self.student.processor,
                spec,
                scoring=self.recipe.data.scoring,
                limit=limit,
                max_new_tokens=MAX_ANSWER_TOKENS,
                title=f"accuracy {when}",
            )
        kept = {"ids": result.ids, "scores": result.scores.tolist(), "answers": result.answers}
        processes.from_main(lambda: write_sealed_json(path, kept))
        return result
