"""The pipeline of `edgekit distill`: Gen-Data, then the joint objective under a falling mask, for each teacher.

Source: Lee, Wang, Hachiuma, "Masking Teacher and Reinforcing Student for Distilling Vision-Language Models",
arXiv:2512.22238. Every stage keeps what it finished, so the same command goes on where a run was stopped and ends in
the same student, bit for bit on a CPU with the same number of threads. Launched as several processes, they share the
shards and the batches; the main one writes everything else.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from edgekit import __version__
from edgekit.checkpoint import checkpoint_hash, load_model
from edgekit.console import note
from edgekit.data import samples
from edgekit.distill import carrying, lora, processes, teacher_check, trackers
from edgekit.distill.acceptance import acceptance
from edgekit.distill.agreement import report_agreement
from edgekit.distill.clock import PhaseClock
from edgekit.distill.evaluate import Evaluation, compared, evaluate_model
from edgekit.distill.gen_data import open_shards, stored_questions, write_questions
from edgekit.distill.gradients import training_summary
from edgekit.distill.joint import ScheduledQuestions, detach_adapters
from edgekit.distill.judges import check_judges, check_sample
from edgekit.distill.legs import Leg, Party, Stage
from edgekit.distill.masking import MaskedTeacher, check_mask, mask_ratio, stage_ratios
from edgekit.distill.objectives import Objective, build
from edgekit.distill.order import Order, picture_numbers
from edgekit.distill.pairing import copy_processor, probe_answers, shared_vocabulary
from edgekit.distill.probe import held_out, probe
from edgekit.distill.probe import save as save_probe
from edgekit.distill.qad import KlReference
from edgekit.distill.qad_stage import qad_due, quantised_stage
from edgekit.distill.responses import Responses, Used
from edgekit.distill.resuming import SECONDS, THRESHOLDS, drop_damaged, lacking, stages_to_do
from edgekit.distill.schedules import MaskSchedule
from edgekit.distill.trainer import StopAt, last_complete_checkpoint, name_layers, run_trainer
from edgekit.distill.training import leg_trainer
from edgekit.errors import DataError, RecipeError
from edgekit.files import new_folder, sha256_file, write_json
from edgekit.machine import peak_memory_bytes
from edgekit.recipe import GENERATORS, Recipe
from edgekit.schema import to_json
from edgekit.seal import read_sealed_json, seal_folder, write_sealed_json
from edgekit.workspace import Run

MAX_ANSWER_TOKENS = 16
ACCEPTANCE_QUESTIONS = 256
Measured = tuple[Evaluation, Evaluation | None]
"""On the test questions, and on those about something else where there are any."""


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
    responses: Responses
    legs: list[Leg]

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
        self.student = Party.of(recipe.student.checkpoint, base)
        self.teachers = [Party.of(model.checkpoint, base) for model in recipe.teachers]
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
            self.run, self.legs = run, []
            self.responses = Responses(
                recipe=self.recipe,
                base=self.base,
                run=run,
                student=self.student,
                vocab=self.vocab,
                load_student=self._student_at,
                load_initial=self._initial,
                load_teacher=self._masked,
                legs=self.legs,  # known once the questions are
                used=self.used,
            )
            return self._go()

    def _go(self) -> dict[str, Any]:
        if finished := processes.from_main(self._begin):
            return finished
        self.clock = PhaseClock(self.run.folder / SECONDS, keep=processes.is_main())
        with self.clock.phase("questions"):
            processes.from_main(self._write_questions)
        if self.recipe.masters.gen_data.check_teacher:
            processes.from_main(self._check_teachers)
        with processes.main_first():
            self.legs += self._ladder()
        schedule = [{"teacher": leg.teacher.name, "mask_ratios": leg.ratios} for leg in self.legs]
        processes.from_main(lambda: self.run.update(schedule=schedule))
        begun = self._both("before", lambda: load_model(self.student.folder))
        for leg in self.legs:
            todo = processes.from_main(partial(self._stages_to_do, leg))
            for stage in leg.stages:
                if self.used.any:
                    with self.clock.phase("gen_data"):
                        own = stage in todo or processes.from_main(self._asked(leg, stage).is_dir)
                        self.responses.write(leg, stage, own=own)
                        processes.wait()
                    processes.from_main(partial(self.responses.record, leg, stage))
                    processes.from_main(self._compare_judges)
                if stage in todo:
                    self._train(leg, stage)
        processes.from_main(self._save_student)
        ended = self._both("after", lambda: load_model(self.run.student))
        processes.from_main(self._complete_records)
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
        fixed = self._identity()
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

    def _ladder(self) -> list[Leg]:
        """A leg for each teacher; one order of visits goes through all of them."""
        trainer, questions = self.recipe.trainer, self.run.questions
        count = read_sealed_json(questions / "index.json")["questions"]
        pictures = picture_numbers(questions) if trainer.order == "pictures" else None
        order, first, legs = Order(count, trainer.seed, pictures), 0, list[Leg]()
        for number, teacher in enumerate(self.teachers):
            legs.append(self._leg(number, teacher, order, first))
            first += legs[-1].steps * legs[-1].per_step
        return legs

    def _leg(self, number: int, teacher: Party, order: Order, first: int) -> Leg:
        steps, fall = self.recipe.steps(number), self.recipe.r_step(number)
        per_step = self.recipe.trainer.batch_questions * self.recipe.trainer.gradient_accumulation
        wanted = self.recipe.r_max(number)
        # Whole stages only where it is measured, so that the schedule ends at 0.
        r_max = math.floor(self._probed(number, teacher) / fall + 1e-9) * fall if wanted == "auto" else wanted
        r_max = round(r_max, 10)
        ratio_of = partial(mask_ratio, steps=steps, r_max=r_max, fall=fall)
        refresh = self.recipe.masters.gen_data.student_refresh
        ratios = stage_ratios(steps, r_max, fall)
        return Leg(number, teacher, steps, ratio_of, ratios, refresh, order, first, per_step)

    def _probed(self, number: int, teacher: Party) -> float:
        """The r_max that a probe of this teacher proposes; kept in the run's reports."""
        path = self.run.reports / f"probe-{teacher.hash[:12]}.json"
        if not path.exists():
            settings, data = self.recipe.masters.probe, self.recipe.data
            taken = set(self._question_ids())
            questions = held_out(data.train, settings.questions, self.recipe.trainer.seed, taken)
            with self.clock.phase("probe"):
                result = probe(
                    self._masked(teacher),
                    teacher.processor,
                    questions,
                    scoring=data.scoring,
                    step=settings.step,
                    max_drop=settings.max_drop / 100,
                    max_new_tokens=MAX_ANSWER_TOKENS,
                    title=f"probing teacher {number + 1} of {len(self.teachers)}",
                )
            save_probe(result, path.parent, path.stem)
        return float(read_sealed_json(path)["r_max"])

    def _question_ids(self) -> list[str]:
        files = sorted(self.run.questions.glob("shard-*.parquet"))
        return [name for path in files for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]

    def _write_questions(self) -> None:
        recipe, folder = self.recipe, self.run.questions
        was_there = {path.name for path in folder.glob("shard-*.parquet")}
        shard = recipe.masters.gen_data.shard_questions
        count = write_questions(recipe.data, folder, shard, recipe.trainer.seed, partial(check_sample, recipe))
        digest = hashlib.sha256()
        answers: set[str | None] = set()
        for path in sorted(folder.glob("shard-*.parquet")):
            digest.update(bytes.fromhex(sha256_file(path)))
            answers |= set(pq.read_table(path, columns=["answer"])["answer"].to_pylist())
        self._check_labels(answers)
        if bad := probe_answers(self.student.processor, {answer for answer in answers if answer}, set()):
            raise DataError(
                f"The student's tokenizer cannot say {len(bad)} of the reference answers, the first: {bad[0]!r}.",
                why="A right response would be scored as wrong.",
                fix=f"See them:  edgekit data check {recipe.data.train}",
            )
        known = self.run.manifest().get("data", {}).get("train_sha256")
        if known not in (None, digest.hexdigest()) and was_there < {
            path.name for path in folder.glob("shard-*.parquet")
        }:
            raise DataError(
                f"{recipe.data.train} is not as the run {self.run.name!r} found it.",
                why="Some of its questions were lost and had to be drawn again; they are other ones now.",
                fix="Start a new run:  edgekit distill --fresh",
            )
        self.run.update(data={"train_questions": count, "train_sha256": digest.hexdigest()})

    def _stages_to_do(self, leg: Leg) -> list[Stage]:
        return stages_to_do(self.run, self.legs, leg, partial(self.responses.student_lacks, leg))

    def _check_labels(self, answers: set[str | None]) -> None:
        """Objectives over reference answers need them: of every question where nothing else is learnt from."""
        over = [name for name, one in self._objectives().items() if one.over == "reference"]
        stated = {answer for answer in answers if answer}
        if over and (not stated or (len(stated) < len(answers) and not self.used.any)):
            raise DataError(
                f"The objective {over[0]!r} learns from reference answers, and train questions have none.",
                fix=f"See which:  edgekit data check {self.recipe.data.train}\n"
                f"Or learn from responses that are drawn:  --set objective_settings.{over[0]}.over=drawn",
            )

    def _compare_judges(self) -> None:
        report_agreement(self.recipe, self.run.questions, self.run.responses, self.run.reports)

    def _train(self, leg: Leg, stage: Stage) -> None:
        """Train one stage; optimiser, schedules and random state go on from the last checkpoint."""
        recipe, run, settings = self.recipe, self.run, self.recipe.trainer
        cache = run.checkpoints / "cache"
        with processes.main_first():
            questions = open_shards(run.questions, cache)
            passes = self.responses.passes(leg, stage, questions, cache)
        dataset = ScheduledQuestions(questions, passes, leg.ratio_of, stage.stop, leg.per_step, leg.order, leg.first)
        student = self._student_at(leg, leg.stages[0])
        name_layers(student)
        if settings.lora is not None:
            student = lora.attach(student, settings.lora, settings.seed + leg.number)
        teacher = self._masked(leg.teacher)
        self.responses.check_trainer(leg, teacher)
        trainer = leg_trainer(
            recipe,
            run,
            self.legs,
            leg,
            models=(student, teacher),
            processors=(self.student.processor, leg.teacher.processor),
            objectives=self._objectives(),
            vocab=self.vocab,
            dataset=dataset,
            loggers=self.trackers,
            load_reference=self._initial,
        )
        if stage.stop < leg.steps:
            trainer.add_callback(StopAt(stage.stop))
        trainer.add_callback(MaskSchedule(teacher, leg.ratio_of, partial(self._record, leg)))
        if trackers.BOARD in self.trackers:
            trainer.add_callback(trackers.board(run.folder / "logs" / f"teacher-{leg.number + 1}"))
        with self.clock.phase("train"):
            run_trainer(trainer, leg.checkpoints(run), f"teacher {leg.number + 1} of {len(self.legs)}")
        weights = trainer.whole_weights()
        detach_adapters(student)
        processes.from_main(lambda: self._keep(leg, stage, student, weights, trainer.state.log_history))

    def _keep(
        self, leg: Leg, stage: Stage, student: Any, weights: dict[str, Any], history: list[dict[str, float]]
    ) -> None:
        """Write what a stage made: its log, and its student as a plain Hugging Face folder."""
        write_json(self.run.reports / f"training-{leg.number + 1}.json", history)
        adapters = self.recipe.trainer.lora
        with new_folder(leg.student(self.run, stage), replace=True) as out:
            if adapters is None:
                student.save_pretrained(out, state_dict=weights)
            else:
                lora.merged(self._student_at(leg, leg.stages[0]), adapters, weights).save_pretrained(out)
            copy_processor(self.student.folder, out)
            seal_folder(out)
        for earlier in leg.stages:
            if earlier.stop < stage.stop:
                shutil.rmtree(leg.student(self.run, earlier), ignore_errors=True)

    def _record(self, leg: Leg, ratio: float, thresholds: dict[str, float]) -> None:
        """Keep the thresholds of a stage: with the dense teacher they make its mask again."""
        if not processes.is_main():
            return
        kept = self._thresholds()
        kept.setdefault(f"teacher-{leg.number + 1}", {})[f"{ratio:g}"] = thresholds
        write_sealed_json(self.run.folder / THRESHOLDS, kept)

    def _thresholds(self) -> dict[str, dict[str, dict[str, float]]]:
        path = self.run.folder / THRESHOLDS
        return read_sealed_json(path) if path.exists() else {}

    def _complete_records(self) -> None:
        """Write again what is only recorded in passing, where it was lost: thresholds, and logs of trainings."""
        kept = self._thresholds()
        for leg in self.legs:
            there = kept.get(f"teacher-{leg.number + 1}", {})
            if lost := [ratio for ratio in leg.ratios if f"{ratio:g}" not in there]:
                teacher = self._masked(leg.teacher)
                there |= {f"{ratio:g}": teacher.set_ratio(ratio) for ratio in lost}
                kept[f"teacher-{leg.number + 1}"] = {f"{ratio:g}": there[f"{ratio:g}"] for ratio in leg.ratios}
                write_sealed_json(self.run.folder / THRESHOLDS, kept)
            log = self.run.reports / f"training-{leg.number + 1}.json"
            if not log.exists() and (last := last_complete_checkpoint(leg.checkpoints(self.run))):
                state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
                write_json(log, state["log_history"])

    def _save_student(self) -> None:
        if not self.run.student.is_dir():
            with new_folder(self.run.student) as out:
                for path in self.legs[-1].student(self.run).iterdir():
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
            measured=self._measured,
            full_precision=after,
        )

    def _measured(self, when: str, load: Callable[[], Any]) -> Evaluation:
        data = self.recipe.data
        return self._asked_of(when, load, data.test, data.test_limit)

    def _both(self, when: str, load: Callable[[], Any]) -> Measured:
        """Answers to the test questions, and to those about something else."""
        return self._measured(when, load), self._kept(when, load)

    def _kept(self, when: str, load: Callable[[], Any]) -> Evaluation | None:
        """Answers to the questions about something else, where the recipe names any."""
        data = self.recipe.data
        if data.retention is None:
            return None
        return self._asked_of(f"retention-{when}", load, data.retention, data.retention_limit)

    def _asked_of(self, when: str, load: Callable[[], Any], spec: str, limit: int | None) -> Evaluation:
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

    def _report_acceptance(self) -> None:
        """How well the student would serve as a draft model of the last teacher, before and after."""
        if "acceptance" in self.run.manifest():
            return
        teacher, data = self.teachers[-1], self.recipe.data
        asked = list(samples(data.test, limit=min(ACCEPTANCE_QUESTIONS, data.test_limit or ACCEPTANCE_QUESTIONS)))
        vocab = self._shared(teacher)
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
        self.run.update(acceptance={"teacher": teacher.name, **found})

    # ------------------------------------------------------------------------------------------------------- the parts

    def _shared(self, teacher: Party) -> int:
        """Size of the vocabulary prefix a teacher shares with the student."""
        return shared_vocabulary(teacher.processor, self.student.processor, teacher.head_size, self.student.head_size)

    def _objectives(self) -> dict[str, Objective]:
        """Fresh ones: their schedules start anew with each teacher."""
        settings = self.recipe.objective_settings
        return {name: build(name, settings.get(name, {})) for name in self.recipe.objective}

    def _student_at(self, leg: Leg, stage: Stage) -> Any:
        """The student as a stage finds it."""
        return load_model(self._asked(leg, stage), attn=self.recipe.trainer.attention)

    def _asked(self, leg: Leg, stage: Stage) -> Path:
        """Folder of the student as a stage finds it; it is gone when later stages are trained."""
        if number := leg.stages.index(stage):
            return leg.student(self.run, leg.stages[number - 1])
        return self.legs[leg.number - 1].student(self.run) if leg.number else self.student.folder

    def _initial(self) -> Any:
        """pi_ref: the student as the run found it."""
        return load_model(self.student.folder, attn=self.recipe.trainer.attention).to(processes.device())

    def _masked(self, teacher: Party) -> MaskedTeacher:
        mask = self.recipe.masters.mask
        model = load_model(teacher.folder, attn=self.recipe.trainer.attention)
        model.to(processes.device())
        model.requires_grad_(False)
        return MaskedTeacher(model, teacher.folder, teacher.family, mask.scope, mask.exclude)

    def _identity(self) -> dict[str, Any]:
        import accelerate
        import transformers

        return {
            "schema_version": 1,
            "run": self.run.name,
            "recipe": to_json(self.recipe),
            "recipe_sha256": self.recipe.hash,
            "inputs": {
                "student_sha256": self.student.hash,
                "teachers_sha256": [teacher.hash for teacher in self.teachers],
            },
            "versions": {
                "edgekit": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "accelerate": accelerate.__version__,
            },
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
            "seed": self.recipe.trainer.seed,
        }

    def _training(self) -> dict[str, Any]:
        """What the training logs say of rewards and gradients."""
        paths = [self.run.reports / f"training-{leg.number + 1}.json" for leg in self.legs]
        return training_summary([json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()])

    def _close(self, begun: Measured, ended: Measured) -> dict[str, Any]:
        data = self.recipe.data
        (before, kept_before), (after, kept_after) = begun, ended
        retention = {}
        if data.retention is not None and kept_before is not None and kept_after is not None:
            retention = {"retention": compared(kept_before, kept_after, data.retention)}
        self.run.update(
            status="finished",
            student_sha256=checkpoint_hash(self.run.student),
            accuracy=compared(before, after, data.test),
            **retention,
            training=self._training(),
            seconds=self.clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
        return self.run.manifest()
