"""The pipeline of `edgekit distill`: Gen-Data, then the joint objective under a falling mask, for each teacher.

Source: Lee, Wang, Hachiuma, "Masking Teacher and Reinforcing Student for Distilling Vision-Language Models",
arXiv:2512.22238. Every stage keeps what it finished, so the same command goes on where a run was stopped and ends in
the same student, bit for bit on a CPU with the same number of threads. Launched as several processes, they share the
shards and the batches; the main one writes everything else.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgekit.checkpoint.folder import checkpoint_hash, load_model
from edgekit.console import note
from edgekit.data import samples
from edgekit.distill import carrying, lora, processes, teacher_check, trackers
from edgekit.distill.agreement import report_agreement
from edgekit.distill.clock import PhaseClock
from edgekit.distill.evaluate import Evaluation
from edgekit.distill.generators import GENERATORS
from edgekit.distill.joint import ScheduledQuestions, detach_adapters
from edgekit.distill.judges import check_judges
from edgekit.distill.ladder import Ladder
from edgekit.distill.masking import MaskedTeacher, check_mask
from edgekit.distill.measuring import Measured, Measuring
from edgekit.distill.objectives import Objective, build
from edgekit.distill.pairing import copy_processor, shared_vocabulary
from edgekit.distill.preparing import write_train_questions
from edgekit.distill.qad import KlReference
from edgekit.distill.qad_stage import qad_due, quantised_stage
from edgekit.distill.questions import stored_questions
from edgekit.distill.records import complete_records, identity, keep_thresholds, trainings
from edgekit.distill.responses import Responses, Used
from edgekit.distill.resuming import SECONDS, drop_damaged, lacking, stages_to_do
from edgekit.distill.schedules import MaskSchedule
from edgekit.distill.shards import open_shards
from edgekit.distill.teacher_stages import Checkpoint, Stage, TeacherStage
from edgekit.distill.trainer import StopAt, name_layers, run_trainer
from edgekit.distill.training import stage_trainer
from edgekit.errors import DataError, RecipeError
from edgekit.files import new_folder
from edgekit.recipe.model import Recipe
from edgekit.seal import read_sealed_json, seal_folder, write_sealed_json, write_sealed_rows
from edgekit.system.machine import peak_memory_bytes
from edgekit.workspace import Run


class Pipeline:
    """A recipe whose models and data have been looked at, ready to run.

    Args:
        recipe: Resolved.
        base: Folder that relative checkpoint names start from.

    Raises:
        EdgekitError: a model is missing, of another family or tokenizer, or the data cannot be read; nothing has been
            written then.
    """

    run: Run
    clock: PhaseClock
    measuring: Measuring
    responses: Responses
    teacher_stages: list[TeacherStage]

    def __init__(self, recipe: Recipe, base: Path) -> None:
        self.recipe, self.base = recipe, base
        if recipe.trainer.batch_questions % processes.count():
            raise RecipeError(
                f"trainer.batch_questions: {recipe.trainer.batch_questions} questions cannot be shared out evenly "
                f"among {processes.count()} processes.",
                fix="Make it a multiple of the number of processes.",
            )
        if recipe.trainer.log_gradients and processes.count() > 1:
            raise RecipeError(
                f"trainer.log_gradients: {recipe.trainer.log_gradients} works in one process, and there are "
                f"{processes.count()}.",
                why="Each process has the gradients of its own questions only.",
                fix="Look at them in a short run without a launcher, or set it to 0.",
            )
        check_judges(recipe.masters.rewards, base)
        lora.check(recipe.trainer.lora)
        carrying.check(recipe)
        self.trackers = trackers.chosen(recipe.trainer.report_to)
        for spec in filter(None, (recipe.data.train, recipe.data.test, recipe.data.retention)):
            next(samples(spec, limit=1))
        if recipe.trainer.threads:
            torch.set_num_threads(recipe.trainer.threads)
        self.student = Checkpoint.of(recipe.student.checkpoint, base)
        self.teachers = [Checkpoint.of(model.checkpoint, base) for model in recipe.teachers]
        self.vocab = min(self._shared(teacher) for teacher in self.teachers)
        self._check_masks()
        GENERATORS.load(recipe.masters.gen_data.generator).check(recipe.masters.gen_data)
        if recipe.qad.steps and processes.count() > 1:
            raise RecipeError(
                "The quantisation-aware stage (qad.steps) runs in one process.",
                fix="Distil without it; the same command with it, and without a launcher, then adds only this stage.",
            )
        objectives = self._objectives()
        self.used = Used.by(recipe, objectives.values())
        own = [name for name, one in objectives.items() if type(one).adapters is not Objective.adapters]
        if own and recipe.trainer.lora is not None:
            raise RecipeError(
                f"trainer.lora cannot be combined with the objective {own[0]!r}, which trains layers of its own.",
                why="A checkpoint of adapters holds no other layers, so the run could not be resumed.",
            )

    def _check_masks(self) -> None:
        """Make sure that something is left to mask, where a recipe says what to leave whole."""
        mask = self.recipe.masters.mask
        for number, teacher in enumerate(self.teachers):
            if mask.exclude and self.recipe.r_max(number) != 0:
                check_mask(teacher.folder, teacher.family, mask.scope, mask.exclude)

    def go(self, run: Run) -> dict[str, Any]:
        """Run from wherever the run stands to the end.

        Returns:
            The run's manifest, in every process.

        Raises:
            EdgekitError: of any kind; what was done is kept.
        """
        with run.lock() if processes.is_main() else nullcontext():
            self.run, self.teacher_stages = run, []
            self.responses = Responses(
                recipe=self.recipe,
                base=self.base,
                run=run,
                student=self.student,
                vocab=self.vocab,
                load_student=self._student_at,
                load_initial=self._initial,
                load_teacher=self._masked,
                teacher_stages=self.teacher_stages,  # known once the questions are
                used=self.used,
            )
            return self._go()

    def _go(self) -> dict[str, Any]:
        if finished := processes.from_main(self._begin):
            return finished
        self.clock = PhaseClock(self.run.folder / SECONDS, keep=processes.is_main())
        self.measuring = Measuring(self.recipe, self.run, self.student, self.clock)
        with self.clock.phase("questions"):
            processes.from_main(self._write_questions)
        if self.recipe.masters.gen_data.check_teacher:
            processes.from_main(self._check_teachers)
        with processes.main_first():
            self.teacher_stages += Ladder(self.recipe, self.run, self._masked, self.clock).teacher_stages(self.teachers)
        schedule = [
            {"teacher": teacher_stage.teacher.name, "mask_ratios": teacher_stage.ratios}
            for teacher_stage in self.teacher_stages
        ]
        processes.from_main(lambda: self.run.update(schedule=schedule))
        begun = self.measuring.both("before", lambda: load_model(self.student.folder))
        for teacher_stage in self.teacher_stages:
            todo = processes.from_main(partial(self._stages_to_do, teacher_stage))
            for stage in teacher_stage.stages:
                if self.used.any:
                    with self.clock.phase("gen_data"):
                        own = stage in todo or processes.from_main(self._asked(teacher_stage, stage).is_dir)
                        self.responses.write(teacher_stage, stage, own=own)
                        processes.wait()
                    processes.from_main(partial(self.responses.record, teacher_stage, stage))
                    processes.from_main(self._compare_judges)
                if stage in todo:
                    self._train(teacher_stage, stage)
        processes.from_main(self._save_student)
        ended = self.measuring.both("after", lambda: load_model(self.run.student))
        processes.from_main(lambda: complete_records(self.run, self.teacher_stages, self._masked))
        processes.from_main(self._report_acceptance)
        if self.recipe.qad.steps:
            self._qad(ended[0])
        return processes.from_main(lambda: self._close(begun, ended))

    # ------------------------------------------------------------------------------------------------------ the stages

    def _begin(self) -> dict[str, Any] | None:
        """Open the run; returns the manifest of one that is finished."""
        run = self.run
        damaged = drop_damaged(run)
        begun = run.manifest()
        fixed = identity(run, self.recipe, self.student, self.teachers)
        if begun and (changed := [key for key in fixed["inputs"] if begun["inputs"].get(key) != fixed["inputs"][key]]):
            raise DataError(
                f"The run {run.name!r} was started with other inputs: {', '.join(changed)} changed since.",
                fix="Start a new one:  edgekit distill --fresh",
            )
        if run.finished and not qad_due(self.recipe.qad, run):
            if not damaged and not lacking(run):
                note(f"The run {run.name!r} is finished already; --fresh starts another.")
                return begun
            note(f"The run {run.name!r} was finished; what it lacks is made again.")
        run.update(status="running", **fixed)
        return None

    def _write_questions(self) -> None:
        labelled = next((name for name, one in self._objectives().items() if one.over == "reference"), None)
        write_train_questions(self.recipe, self.run, self.student, labelled, drawn=self.used.any)

    def _check_teachers(self) -> None:
        """Make sure that each teacher can do the task; what it said is kept, so nothing is asked twice.

        Raises:
            EdgekitError: one cannot.
        """
        recipe, questions = self.recipe, None
        for number, teacher in enumerate(self.teachers):
            path = self.run.reports / f"teacher-check-{teacher.hash[:12]}.json"
            if not path.exists():
                if questions is None:
                    test = samples(recipe.data.test, limit=recipe.data.test_limit)
                    train, judge = stored_questions(self.run.questions), recipe.masters.rewards.judge
                    questions = teacher_check.choose(test, train, judge, recipe.trainer.seed)
                if not questions:
                    note(f"Not checked whether {teacher.name} can do the task: the rule judges none of its answers.")
                    continue
                with self.clock.phase("teacher_check"), torch.random.fork_rng(devices=[]):
                    asked = teacher_check.ask(
                        questions,
                        recipe.data.scoring,
                        teacher.name,
                        partial(self.responses.ask_teacher, teacher, number),
                        self.responses.ask_student,
                    )
                write_sealed_json(path, asked.as_dict())
            note(teacher_check.verdict(teacher_check.from_dict(read_sealed_json(path))))

    def _stages_to_do(self, teacher_stage: TeacherStage) -> list[Stage]:
        return stages_to_do(
            self.run, self.teacher_stages, teacher_stage, partial(self.responses.student_lacks, teacher_stage)
        )

    def _compare_judges(self) -> None:
        report_agreement(self.recipe, self.run.questions, self.run.responses, self.run.reports)

    def _train(self, teacher_stage: TeacherStage, stage: Stage) -> None:
        """Train one stage; optimiser, schedules and random state go on from the last checkpoint."""
        recipe, run, settings = self.recipe, self.run, self.recipe.trainer
        cache = run.checkpoints / "cache"
        with processes.main_first():
            questions = open_shards(run.questions, cache)
            passes = self.responses.passes(teacher_stage, stage, questions, cache)
        dataset = ScheduledQuestions(
            questions,
            passes,
            teacher_stage.ratio_of,
            stage.stop,
            teacher_stage.per_step,
            teacher_stage.order,
            teacher_stage.first,
        )
        student = self._student_at(teacher_stage, teacher_stage.stages[0])
        name_layers(student)
        if settings.lora is not None:
            student = lora.attach(student, settings.lora, settings.seed + teacher_stage.number)
        teacher = self._masked(teacher_stage.teacher)
        self.responses.check_trainer(teacher_stage, teacher)
        trainer = stage_trainer(
            recipe,
            run,
            self.teacher_stages,
            teacher_stage,
            models=(student, teacher),
            processors=(self.student.processor, teacher_stage.teacher.processor),
            objectives=self._objectives(),
            vocab=self.vocab,
            dataset=dataset,
            loggers=self.trackers,
            load_reference=self._initial,
        )
        if stage.stop < teacher_stage.steps:
            trainer.add_callback(StopAt(stage.stop))
        trainer.add_callback(
            MaskSchedule(teacher, teacher_stage.ratio_of, partial(keep_thresholds, run, teacher_stage))
        )
        if trackers.BOARD in self.trackers:
            trainer.add_callback(trackers.board(run.folder / "logs" / f"teacher-{teacher_stage.number + 1}"))
        with self.clock.phase("train"):
            run_trainer(
                trainer,
                teacher_stage.checkpoints(run),
                f"teacher {teacher_stage.number + 1} of {len(self.teacher_stages)}",
            )
        weights = trainer.whole_weights()
        detach_adapters(student)
        processes.from_main(lambda: self._keep(teacher_stage, stage, student, weights, trainer.state.log_history))

    def _keep(
        self,
        teacher_stage: TeacherStage,
        stage: Stage,
        student: Any,
        weights: dict[str, Any],
        history: list[dict[str, float]],
    ) -> None:
        """Write what a stage made: its log, and its student as a plain Hugging Face folder."""
        write_sealed_rows(self.run.reports / f"training-{teacher_stage.number + 1}.json", history)
        adapters = self.recipe.trainer.lora
        with new_folder(teacher_stage.student(self.run, stage), replace=True) as out:
            if adapters is None:
                student.save_pretrained(out, state_dict=weights)
            else:
                lora.merged(
                    self._student_at(teacher_stage, teacher_stage.stages[0]), adapters, weights
                ).save_pretrained(out)
            copy_processor(self.student.folder, out)
            seal_folder(out)
        for earlier in teacher_stage.stages:
            if earlier.stop < stage.stop:
                shutil.rmtree(teacher_stage.student(self.run, earlier), ignore_errors=True)

    def _save_student(self) -> None:
        if not self.run.student.is_dir():
            with new_folder(self.run.student) as out:
                for path in self.teacher_stages[-1].student(self.run).iterdir():
                    shutil.copyfile(path, out / path.name)

    def _qad(self, after: Evaluation) -> None:
        teacher = self.teachers[-1] if self.recipe.qad.from_ == "teacher" else None
        folder, processor = (
            (teacher.folder, teacher.processor) if teacher else (self.run.student, self.student.processor)
        )
        quantised_stage(
            self.recipe,
            self.run,
            lambda: KlReference(load_model(folder, attn=self.recipe.trainer.attention), processor),
            self.vocab,
            clock=self.clock,
            measured=self.measuring.test,
            full_precision=after,
        )

    # ------------------------------------------------------------------------------------------------------- the parts

    def _shared(self, teacher: Checkpoint) -> int:
        """Size of the vocabulary prefix a teacher shares with the student."""
        return shared_vocabulary(teacher.processor, self.student.processor, teacher.head_size, self.student.head_size)

    def _objectives(self) -> dict[str, Objective]:
        """Fresh ones: their schedules start anew with each teacher."""
        settings = self.recipe.objective_settings
        return {name: build(name, settings.get(name, {})) for name in self.recipe.objective}

    def _student_at(self, teacher_stage: TeacherStage, stage: Stage) -> Any:
        """The student as a stage finds it."""
        return load_model(self._asked(teacher_stage, stage), attn=self.recipe.trainer.attention)

    def _asked(self, teacher_stage: TeacherStage, stage: Stage) -> Path:
        """Folder of the student as a stage finds it; it is gone when later stages are trained."""
        if number := teacher_stage.stages.index(stage):
            return teacher_stage.student(self.run, teacher_stage.stages[number - 1])
        return (
            self.teacher_stages[teacher_stage.number - 1].student(self.run)
            if teacher_stage.number
            else self.student.folder
        )

    def _initial(self) -> Any:
        """pi_ref: the student as the run found it."""
        return load_model(self.student.folder, attn=self.recipe.trainer.attention).to(processes.device())

    def _masked(self, teacher: Checkpoint) -> MaskedTeacher:
        mask = self.recipe.masters.mask
        model = load_model(teacher.folder, attn=self.recipe.trainer.attention)
        model.to(processes.device())
        model.requires_grad_(False)
        return MaskedTeacher(model, teacher.folder, teacher.family, mask.scope, mask.exclude)

    def _report_acceptance(self) -> None:
        if "acceptance" not in self.run.manifest():
            teacher = self.teachers[-1]
            self.run.update(acceptance=self.measuring.acceptance(teacher, self._shared(teacher)))

    def _close(self, begun: Measured, ended: Measured) -> dict[str, Any]:
        self.run.update(
            status="finished",
            student_sha256=checkpoint_hash(self.run.student),
            **self.measuring.gains(begun, ended),
            training=trainings(self.run, self.teacher_stages),
            seconds=self.clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
        return self.run.manifest()
