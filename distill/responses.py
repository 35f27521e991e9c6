"""Who writes which responses of a run: the teacher at each mask ratio and the student, after a look at the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.console import note
from edgekit.data import Sample
from edgekit.distill import processes
from edgekit.distill.gen_data import Reference, Writer, missing_shards, open_shards, write_responses
from edgekit.distill.generators import Generator, Source
from edgekit.distill.judges import make_judge
from edgekit.distill.legs import Leg, Party, Stage
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.sight import check_sight, check_stored_sight
from edgekit.distill.teacher_check import greedy_answers
from edgekit.recipe import GENERATORS, Recipe
from edgekit.seal import write_sealed_json
from edgekit.workspace import Run

SIGHT = "sight.json"
"""Beside the responses of a teacher: how it was found to see the images."""


@dataclass(frozen=True)
class Responses:
    """The responses of one run.

    Attributes:
        recipe: Resolved.
        base: Folder that relative names start from.
        run: Whose folders.
        student: As the run found it.
        vocab: Size of the vocabulary all parties share.
        load_student: The student a leg's stage begins with.
        load_initial: The untouched student, pi_ref.
        load_teacher: A teacher, ready to be masked.
    """

    recipe: Recipe
    base: Path
    run: Run
    student: Party
    vocab: int
    load_student: Callable[[Leg, Stage], Any]
    load_initial: Callable[[], Any]
    load_teacher: Callable[[Party], MaskedTeacher]

    def missing(self, leg: Leg, stage: Stage) -> tuple[list[float], bool]:
        """Mask ratios whose teacher responses this process still has to write, and whether the student's are due."""
        settings, questions = self.recipe.masters.gen_data, self.run.questions
        wanted = stage.ratios if settings.teacher_responses else []
        ratios = [ratio for ratio in wanted if missing_shards(questions, leg.responses(self.run, ratio))]
        own = leg.student_responses(self.run, stage.ratios[0])
        return ratios, bool(settings.student_responses and missing_shards(questions, own))

    def write(self, leg: Leg, stage: Stage, *, own: bool = True) -> None:
        """Write what a stage needs and has not got.

        Args:
            leg, stage: Whose.
            own: Also the student's; not where a stage was trained long ago and the student it asked is gone.
        Raises:
            EdgekitError: the teacher does not see the images, or a generator or judge failed; whole shards stay.
        """
        recipe = self.recipe
        if recipe.masters.gen_data.teacher_responses:
            self._check_stored(leg, stage.ratios)
        ratios, due = self.missing(leg, stage)
        if due and not own:
            note(f"Responses of the student after step {stage.start} stay lost; it has been trained on them already.")
        if not ratios and not (due and own):
            return
        write = partial(
            write_responses,
            reference=Reference(self.load_initial(), self.student.processor, self.vocab),
            judge=make_judge(recipe.masters.rewards, recipe.data.scoring, self.run.responses.parent, self.base),
            settings=recipe.masters.gen_data,
            questions=self.run.questions,
            seed=recipe.trainer.seed,
        )
        self._write_teacher(leg, ratios, write)  # first, as it begins with a look at the teacher
        if due and own:
            folder = leg.student_responses(self.run, stage.ratios[0])
            self._write_student(folder, partial(self.load_student, leg, stage), write)

    def passes(self, leg: Leg, stage: Stage, cache: Path) -> dict[float, list[tuple[Any, int]]]:
        """Mask ratio -> response sets (rows, responses per question) that training uses at it."""
        settings = self.recipe.masters.gen_data
        passes: dict[float, list[tuple[Any, int]]] = {}
        for ratio in stage.ratios:
            passes[ratio] = []
            if settings.teacher_responses:
                rows = open_shards(leg.responses(self.run, ratio), cache)
                passes[ratio].append((rows, settings.teacher_responses))
            if settings.student_responses:
                rows = open_shards(leg.student_responses(self.run, ratio), cache)
                passes[ratio].append((rows, settings.student_responses))
        return passes

    def ask_teacher(self, teacher: Party, number: int, questions: Sequence[Sample]) -> list[str]:
        """Greedy answers of a dense teacher, by whoever writes its responses."""
        settings, mask = self.recipe.masters.gen_data, self.recipe.masters.mask
        if settings.generator == "transformers" or not settings.teacher_responses:
            return greedy_answers(self.load_teacher(teacher).model, teacher.processor, questions)
        source = Source(
            name=teacher.name,
            folder=teacher.folder,
            processor=teacher.processor,
            settings=settings,
            load=lambda: self.load_teacher(teacher).model,
            teacher=number + 1,
            scope=mask.scope,
            exclude=mask.exclude,
            work=self.run.checkpoints / "generator",
        )
        generator: Generator = GENERATORS.load(settings.generator).open_generator(source)
        try:
            return [said.text for said in generator.answers(questions)]
        finally:
            generator.close()

    def ask_student(self, questions: Sequence[Sample]) -> list[str]:
        """Greedy answers of the untouched student."""
        return greedy_answers(self.load_initial(), self.student.processor, questions)

    def check_trainer(self, leg: Leg, teacher: MaskedTeacher) -> None:
        """Look at the loaded teacher too where another than it has written the responses."""
        settings, party = self.recipe.masters.gen_data, leg.teacher
        if settings.check_images and (settings.generator != "transformers" or not settings.teacher_responses):
            source = Source(party.name, party.folder, party.processor, settings, lambda: teacher.model)
            generator = GENERATORS.load("transformers").open_generator(source)
            check_sight(generator, party.name, self.run.questions)

    def _check_stored(self, leg: Leg, ratios: list[float]) -> None:
        """Responses that lie there without a word that their teacher was looked at are judged by themselves."""
        if not self.recipe.masters.gen_data.check_images or not processes.is_main():
            return
        for ratio in ratios:
            folder = leg.responses(self.run, ratio)
            if any(folder.glob("shard-*.parquet")) and not (folder / SIGHT).exists():
                p = check_stored_sight(leg.teacher.name, self.run.questions, folder)
                write_sealed_json(folder / SIGHT, {"checked": "responses", "p": p})

    def _write_teacher(self, leg: Leg, ratios: list[float], write: Callable[..., None]) -> None:
        load, settings = self._teacher_loader(leg), self.recipe.masters.gen_data
        for ratio in ratios:
            folder = leg.responses(self.run, ratio)
            with self._teacher_generator(leg, ratio, load) as generator:
                if settings.check_images:  # by each process, as each has its own teacher or connection
                    sight = check_sight(generator, leg.teacher.name, self.run.questions)
                    write_sealed_json(folder / SIGHT, {"checked": "teacher", **(asdict(sight) if sight else {})})
                name, processor = leg.teacher.name, leg.teacher.processor
                count = settings.teacher_responses
                write(Writer("teacher", name, generator, processor, count, ratio, folder.name), folder=folder)

    def _write_student(self, folder: Path, load: Callable[[], Any], write: Callable[..., None]) -> None:
        """The student's own responses, always by its loaded model."""
        name, processor, settings = self.student.name, self.student.processor, self.recipe.masters.gen_data
        source = Source(name, self.student.folder, processor, settings, load)
        generator = GENERATORS.load("transformers").open_generator(source)
        count = settings.student_responses
        write(Writer("student", name, generator, processor, count, 0.0, folder.name), folder=folder)

    @contextmanager
    def _teacher_generator(self, leg: Leg, ratio: float, load: Callable[[float], Any]) -> Iterator[Generator]:
        settings, mask = self.recipe.masters.gen_data, self.recipe.masters.mask
        source = Source(
            name=leg.teacher.name,
            folder=leg.teacher.folder,
            processor=leg.teacher.processor,
            settings=settings,
            load=partial(load, ratio),
            ratio=ratio,
            teacher=leg.number + 1,
            scope=mask.scope,
            exclude=mask.exclude,
            work=self.run.checkpoints / "generator",
        )
        generator: Generator = GENERATORS.load(settings.generator).open_generator(source)
        try:
            yield generator
        finally:
            generator.close()

    def _teacher_loader(self, leg: Leg) -> Callable[[float], Any]:
        """Ratio -> the teacher masked so; loaded at the first call, if a generator makes one."""
        loaded: list[MaskedTeacher] = []

        def load(ratio: float) -> Any:
            if not loaded:
                loaded.append(self.load_teacher(leg.teacher))
            loaded[0].set_ratio(ratio)
            return loaded[0].model

        return load
