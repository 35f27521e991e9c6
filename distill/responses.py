"""Who writes which responses of a run: the teacher at each mask ratio and the student, after a look at the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from edgekit.console import note
from edgekit.data import Sample
from edgekit.distill import processes
from edgekit.distill.answered import Answered
from edgekit.distill.gen_data import RESPONSES, Reference, Writer, write_responses
from edgekit.distill.generators import GENERATORS, Source, Writing, transformers
from edgekit.distill.groups import Weights
from edgekit.distill.image_use import check_image_use, check_stored_image_use
from edgekit.distill.judges import make_judge
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.objectives import Objective
from edgekit.distill.shards import missing_rows, open_shards
from edgekit.distill.teacher_check import greedy_answers
from edgekit.distill.teacher_stages import UNTOUCHED, Checkpoint, Stage, TeacherStage
from edgekit.recipe.model import Recipe
from edgekit.seal import write_sealed_json
from edgekit.workspace import Run

SHARDS = "shards.json"
"""Beside the responses of a pass: the names of its files, once all of them are there."""
IMAGE_USE = "sight.json"
"""Beside the responses of a teacher: how it was found to see the images."""


@dataclass(frozen=True)
class Used:
    """Responses per question that the loss looks at; the others are not written.

    Attributes:
        teacher, student: How many of each.
    """

    teacher: int
    student: int

    @classmethod
    def by(cls, recipe: Recipe, objectives: Iterable[Objective]) -> Used:
        """What a recipe uses: rewards compare all that were drawn; without them an objective says what it is over."""
        settings, over = recipe.masters.gen_data, {objective.over for objective in objectives}
        drawn = recipe.masters.grpo_weight > 0 or bool(over & {"drawn", "right"})
        return cls(
            settings.teacher_responses if drawn or "teacher" in over else 0,
            settings.student_responses if drawn else 0,
        )

    @property
    def any(self) -> bool:
        """Is there a Gen-Data at all?"""
        return bool(self.teacher or self.student)


@dataclass(frozen=True)
class Responses:
    """The responses of one run.

    Attributes:
        recipe: Resolved.
        base: Folder that relative names start from.
        run: Whose folders.
        student: As the run found it.
        vocab: Size of the vocabulary all checkpoints share.
        load_student: The student a teacher stage's stage begins with.
        load_initial: The untouched student, pi_ref.
        load_teacher: A teacher, ready to be masked.
        teacher stages: The whole ladder.
        used: Whose responses the loss uses.
        told: What a user has been told of already.
    """

    recipe: Recipe
    base: Path
    run: Run
    student: Checkpoint
    vocab: int
    load_student: Callable[[TeacherStage, Stage], Any]
    load_initial: Callable[[], Any]
    load_teacher: Callable[[Checkpoint], MaskedTeacher]
    teacher_stages: list[TeacherStage]
    used: Used
    told: set[str] = field(default_factory=set)

    def missing(self, teacher_stage: TeacherStage, stage: Stage) -> tuple[list[float], bool]:
        """Mask ratios whose teacher responses this process still has to write, and whether the student's are due."""
        questions, run = self.run.questions, self.run
        wanted = stage.ratios if self.used.teacher else []
        ratios = [
            one for one in wanted if missing_rows(questions, teacher_stage.responses(run, one), teacher_stage.rows(one))
        ]
        if not self.used.student:
            return ratios, False
        own = teacher_stage.student_responses(run, stage.ratios[0])
        return ratios, bool(missing_rows(questions, own, self._student_rows(teacher_stage, stage)))

    def student_lacks(self, teacher_stage: TeacherStage, stage: Stage) -> bool:
        """Whether some of the student's responses that a stage needs are missing, in whatever process."""
        own = teacher_stage.student_responses(self.run, stage.ratios[0])
        rows = self._student_rows(teacher_stage, stage)
        return bool(self.used.student and missing_rows(self.run.questions, own, rows, everywhere=True))

    def record(self, teacher_stage: TeacherStage, stage: Stage) -> None:
        """Keep which shards the passes of a stage have, so that a lost one is missed later; by the main process."""
        folders = [teacher_stage.responses(self.run, ratio) for ratio in stage.ratios]
        for folder in (*folders, teacher_stage.student_responses(self.run, stage.ratios[0])):
            if names := sorted(path.name for path in folder.glob("shard-*.parquet")):
                write_sealed_json(folder / SHARDS, {"files": names})

    def _student_rows(self, teacher_stage: TeacherStage, stage: Stage) -> NDArray[np.int64]:
        """Questions that this version of the student is to answer."""
        if teacher_stage.refresh == "per_stage":
            return teacher_stage.rows(stage.ratios[0])
        return (
            teacher_stage.all_rows()
            if teacher_stage.refresh == "per_teacher"
            else np.concatenate([one.all_rows() for one in self.teacher_stages])
        )

    def write(self, teacher_stage: TeacherStage, stage: Stage, *, own: bool = True) -> None:
        """Write what a stage needs and has not got.

        Args:
            teacher stage, stage: Whose.
            own: Also the student's; not where a stage was trained long ago and the student it asked is gone.

        Raises:
            EdgekitError: the teacher does not see the images, or a generator or judge failed; whole shards stay.
        """
        recipe = self.recipe
        if self.used.teacher:
            self._check_stored(teacher_stage, stage.ratios)
        ratios, due = self.missing(teacher_stage, stage)
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
        self._write_teacher(teacher_stage, ratios, write)  # first, as it begins with a look at the teacher
        if due and own:
            folder = teacher_stage.student_responses(self.run, stage.ratios[0])
            write = partial(write, wanted=self._student_rows(teacher_stage, stage))
            self._write_student(folder, partial(self.load_student, teacher_stage, stage), write)

    def passes(
        self, teacher_stage: TeacherStage, stage: Stage, questions: Any, cache: Path
    ) -> dict[float, list[Answered]]:
        """Mask ratio -> response sets that training uses at it.

        Args:
            teacher stage, stage: Which.
            questions: Rows of `questions.QUESTIONS`.
            cache: Folder for what the shards are mapped from.
        """
        passes: dict[float, list[Answered]] = {}
        for ratio in stage.ratios:
            sources = [(teacher_stage.responses(self.run, ratio), self.used.teacher)]
            sources.append((teacher_stage.student_responses(self.run, ratio), self.used.student))
            passes[ratio] = [
                Answered.of(
                    open_shards(folder, cache, RESPONSES),
                    n,
                    questions,
                    by_reference=folder == teacher_stage.untouched(self.run),
                )
                for folder, n in sources
                if n
            ]
        self._check_writers(passes)
        return passes

    def _check_writers(self, passes: Mapping[float, Sequence[Answered]]) -> None:
        """Say where a loss that compares with the writers will miss the probabilities of some."""
        if "writers" in self.told or not Weights.by(self.recipe, {}).needs_mu:
            return
        for answered in (one for sets in passes.values() for one in sets if not one.by_reference):
            table = answered.rows.select_columns(["source", "writer_logp"]).with_format("arrow")[:]
            table = table.filter(pc.and_(pc.equal(table["source"], "student"), pc.is_null(table["writer_logp"])))
            if len(table) and processes.is_main():
                self.told.add("writers")
                note(
                    f"{len(table):,} responses of the student were written by an edgekit that did not keep their "
                    "probabilities: in the off-policy terms they weigh 1.  --fresh writes them anew."
                )
                return

    def ask_teacher(self, teacher: Checkpoint, number: int, questions: Sequence[Sample]) -> list[str]:
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
        generator = GENERATORS.load(settings.generator).open(source)
        try:
            return [said.text for said in generator.answers(questions)]
        finally:
            generator.close()

    def ask_student(self, questions: Sequence[Sample]) -> list[str]:
        """Greedy answers of the untouched student."""
        return greedy_answers(self.load_initial(), self.student.processor, questions)

    def check_trainer(self, teacher_stage: TeacherStage, teacher: MaskedTeacher) -> None:
        """Look at the loaded teacher too where another than it has written the responses."""
        settings, checkpoint = self.recipe.masters.gen_data, teacher_stage.teacher
        if settings.check_images and (settings.generator != "transformers" or not self.used.teacher):
            source = Source(checkpoint.name, checkpoint.folder, checkpoint.processor, settings, lambda: teacher.model)
            generator = transformers.open_generator(source)
            check_image_use(generator, checkpoint.name, self.run.questions)

    def _check_stored(self, teacher_stage: TeacherStage, ratios: list[float]) -> None:
        """Responses that lie there without a word that their teacher was looked at are judged by themselves."""
        if not self.recipe.masters.gen_data.check_images or not processes.is_main():
            return
        for ratio in ratios:
            folder = teacher_stage.responses(self.run, ratio)
            if any(folder.glob("shard-*.parquet")) and not (folder / IMAGE_USE).exists():
                p = check_stored_image_use(teacher_stage.teacher.name, self.run.questions, folder)
                write_sealed_json(folder / IMAGE_USE, {"checked": "responses", "p": p})

    def _write_teacher(self, teacher_stage: TeacherStage, ratios: list[float], write: Callable[..., None]) -> None:
        load, settings = self._teacher_loader(teacher_stage), self.recipe.masters.gen_data
        for ratio in ratios:
            folder = teacher_stage.responses(self.run, ratio)
            with self._teacher_generator(teacher_stage, ratio, load) as generator:
                if settings.check_images:  # by each process, as each has its own teacher or connection
                    image_use = check_image_use(generator, teacher_stage.teacher.name, self.run.questions)
                    figures = asdict(image_use) if image_use else {}
                    write_sealed_json(folder / IMAGE_USE, {"checked": "teacher", **figures})
                name, processor = teacher_stage.teacher.name, teacher_stage.teacher.processor
                count = settings.teacher_responses
                writer = Writer("teacher", name, generator, processor, count, ratio, folder.name)
                write(writer, folder=folder, wanted=teacher_stage.rows(ratio))

    def _write_student(self, folder: Path, load: Callable[[], Any], write: Callable[..., None]) -> None:
        """The student's own responses, always by its loaded model."""
        name, processor, settings = self.student.name, self.student.processor, self.recipe.masters.gen_data
        source = Source(name, self.student.folder, processor, settings, load)
        generator = transformers.open_generator(source)
        count = settings.student_responses
        model = None if folder == self.run.responses / UNTOUCHED else generator.model
        write(Writer("student", name, generator, processor, count, 0.0, folder.name, model), folder=folder)

    @contextmanager
    def _teacher_generator(
        self, teacher_stage: TeacherStage, ratio: float, load: Callable[[float], Any]
    ) -> Iterator[Writing]:
        settings, mask = self.recipe.masters.gen_data, self.recipe.masters.mask
        source = Source(
            name=teacher_stage.teacher.name,
            folder=teacher_stage.teacher.folder,
            processor=teacher_stage.teacher.processor,
            settings=settings,
            load=partial(load, ratio),
            ratio=ratio,
            teacher=teacher_stage.number + 1,
            scope=mask.scope,
            exclude=mask.exclude,
            work=self.run.checkpoints / "generator",
        )
        generator = GENERATORS.load(settings.generator).open(source)
        try:
            yield generator
        finally:
            generator.close()

    def _teacher_loader(self, teacher_stage: TeacherStage) -> Callable[[float], Any]:
        """Ratio -> the teacher masked so; loaded at the first call, if a generator makes one."""
        loaded: list[MaskedTeacher] = []

        def load(ratio: float) -> Any:
            if not loaded:
                loaded.append(self.load_teacher(teacher_stage.teacher))
            loaded[0].set_ratio(ratio)
            return loaded[0].model

        return load
