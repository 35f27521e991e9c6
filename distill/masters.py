"""The pipeline of `edgekit distill`: Gen-Data, then the joint objective under a falling mask, for each teacher.

Source: Lee, Wang, Hachiuma, "Masking Teacher and Reinforcing Student for Distilling Vision-Language Models",
arXiv:2512.22238. Every stage keeps what it finished, so the same command goes on where a run was stopped and ends in
the same student, bit for bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from edgekit import __version__
from edgekit.checkpoint import check_checkpoint, checkpoint_hash, load_model
from edgekit.console import note
from edgekit.data import samples
from edgekit.distill.acceptance import acceptance
from edgekit.distill.agreement import report_agreement
from edgekit.distill.clock import PhaseClock
from edgekit.distill.evaluate import Evaluation, evaluate_model
from edgekit.distill.gen_data import Reference, Writer, missing_shards, open_shards, write_questions, write_responses
from edgekit.distill.generators import Generator, Source
from edgekit.distill.joint import (
    Collator,
    JointTrainer,
    MaskSchedule,
    ScheduledQuestions,
    checkpoint_folder,
    detach_adapters,
)
from edgekit.distill.judges import check_judges, check_sample, make_judge
from edgekit.distill.loss import Weights
from edgekit.distill.masking import MaskedTeacher, mask_ratio, stage_ratios
from edgekit.distill.objectives import Objective, build
from edgekit.distill.pairing import copy_processor, probe_answers, shared_vocabulary
from edgekit.distill.probe import held_out, probe
from edgekit.distill.probe import save as save_probe
from edgekit.distill.sight import check_sight, check_stored_sight
from edgekit.distill.trainer import StopAt, last_complete_checkpoint, run_trainer, training_arguments
from edgekit.errors import CheckpointError, DataError
from edgekit.families import family_of
from edgekit.files import new_folder, sha256_file, write_json
from edgekit.machine import peak_memory_bytes
from edgekit.processor import Processor
from edgekit.recipe import GENERATORS, Recipe, resolve_checkpoint
from edgekit.schema import to_json
from edgekit.stats import paired
from edgekit.workspace import Run

MAX_ANSWER_TOKENS = 16
ACCEPTANCE_QUESTIONS = 256
SIGHT = "sight.json"
"""Beside the responses of a teacher: how it was found to see the images."""


@dataclass(frozen=True)
class Party:
    """A checkpoint with what is known of it without loading its weights."""

    name: str
    folder: Path
    family: ModuleType
    processor: Processor
    hash: str


@dataclass(frozen=True)
class Leg:
    """One teacher's share of the run.

    Attributes:
        number: From 0.
        teacher: Whose.
        steps: Optimiser steps.
        ratio_of: Optimiser step -> mask ratio.
        ratios: Distinct ratios in order.
    """

    number: int
    teacher: Party
    steps: int
    ratio_of: Callable[[int], float]
    ratios: list[float]

    def responses(self, run: Run, ratio: float) -> Path:
        """Shards of this teacher at one mask ratio."""
        return run.responses / f"teacher-{self.teacher.hash[:12]}-mask-{ratio:.4f}"

    def student_responses(self, run: Run, refresh: str, ratio: float) -> Path:
        """Shards of the student this leg uses at one mask ratio; only those of the untouched one can be shared."""
        if refresh == "per_stage":
            return run.folder / "responses" / f"student-{self.number + 1}-mask-{ratio:.4f}"
        if refresh == "per_teacher" and self.number:
            return run.folder / "responses" / f"student-{self.number + 1}"
        return run.responses / "student-1"


@dataclass(frozen=True)
class Stage:
    """A stretch of a leg: Gen-Data for these ratios, then training on them.

    Attributes:
        ratios: In order.
        start: First optimiser step.
        stop: The step after the last.
    """

    ratios: list[float]
    start: int
    stop: int


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

    def __init__(self, recipe: Recipe, base: Path) -> None:
        self.recipe, self.base = recipe, base
        check_judges(recipe.masters.rewards, base)
        for spec in (recipe.data.train, recipe.data.test):
            next(samples(spec, limit=1))
        if recipe.trainer.threads:
            torch.set_num_threads(recipe.trainer.threads)
        self.student = _party(recipe.student.checkpoint, base)
        self.teachers = [_party(model.checkpoint, base) for model in recipe.teachers]
        self.vocab = min(self._shared(teacher) for teacher in self.teachers)
        self._objectives()
        GENERATORS.load(recipe.masters.gen_data.generator).check(recipe.masters.gen_data)

    def go(self, run: Run) -> dict[str, Any]:
        """Run from wherever the run stands to the end.

        Returns:
            The run's manifest.
        Raises:
            EdgekitError: of any kind; what was done is kept.
        """
        with run.lock():
            self.run, self.clock = run, PhaseClock(run.folder / "seconds.json")
            return self._go()

    def _go(self) -> dict[str, Any]:
        run = self.run
        begun = run.manifest()
        fixed = self._identity()
        if begun and (changed := [key for key in fixed["inputs"] if begun["inputs"].get(key) != fixed["inputs"][key]]):
            raise DataError(
                f"The run {run.name!r} was started with other inputs: {', '.join(changed)} changed since.",
                fix="Start a new one:  edgekit distill --fresh",
            )
        if run.finished:
            note(f"The run {run.name!r} is finished already; --fresh starts another.")
            return begun
        run.update(status="running", **fixed)
        with self.clock.phase("questions"):
            self._write_questions()
        self.legs = [self._leg(number, teacher) for number, teacher in enumerate(self.teachers)]
        run.update(schedule=[{"teacher": leg.teacher.name, "mask_ratios": leg.ratios} for leg in self.legs])
        before = self._measured("before", lambda: load_model(self.student.folder))
        for leg in self.legs:
            for stage in self._stages(leg):
                self._gen_data(leg, stage)
                report_agreement(self.recipe, run.questions, run.responses, run.reports)
                self._train(leg, stage)
        self._save_student()
        after = self._measured("after", lambda: load_model(run.student))
        self._report_acceptance()
        return self._close(before, after)

    # ------------------------------------------------------------------------------------------------------ the stages

    def _leg(self, number: int, teacher: Party) -> Leg:
        steps, fall = self.recipe.steps(number), self.recipe.r_step(number)
        wanted = self.recipe.r_max(number)
        # Whole stages only where it is measured, so that the schedule ends at 0.
        r_max = math.floor(self._probed(number, teacher) / fall + 1e-9) * fall if wanted == "auto" else wanted
        r_max = round(r_max, 10)
        ratio_of = partial(mask_ratio, steps=steps, r_max=r_max, fall=fall)
        return Leg(number, teacher, steps, ratio_of, stage_ratios(steps, r_max, fall))

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
        return float(json.loads(path.read_text(encoding="utf-8"))["r_max"])

    def _question_ids(self) -> list[str]:
        files = sorted(self.run.questions.glob("shard-*.parquet"))
        return [name for path in files for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]

    def _stages(self, leg: Leg) -> list[Stage]:
        """One stretch, or one per mask ratio where the student's responses follow its training."""
        if self.recipe.masters.gen_data.student_refresh != "per_stage":
            return [Stage(leg.ratios, 0, leg.steps)]
        own = {ratio: [step for step in range(leg.steps) if leg.ratio_of(step) == ratio] for ratio in leg.ratios}
        return [Stage([ratio], own[ratio][0], own[ratio][-1] + 1) for ratio in leg.ratios]

    def _write_questions(self) -> None:
        recipe, folder = self.recipe, self.run.questions
        shard = recipe.masters.gen_data.shard_questions
        count = write_questions(recipe.data, folder, shard, recipe.trainer.seed, partial(check_sample, recipe))
        digest = hashlib.sha256()
        answers: set[str] = set()
        for path in sorted(folder.glob("shard-*.parquet")):
            digest.update(bytes.fromhex(sha256_file(path)))
            answers |= set(pq.read_table(path, columns=["answer"])["answer"].to_pylist())
        if bad := probe_answers(self.student.processor, answers, set()):
            raise DataError(
                f"The student's tokenizer cannot say {len(bad)} of the reference answers, the first: {bad[0]!r}.",
                why="A right response would be scored as wrong.",
                fix=f"See them:  edgekit data check {recipe.data.train}",
            )
        self.run.update(data={"train_questions": count, "train_sha256": digest.hexdigest()})

    def _gen_data(self, leg: Leg, stage: Stage) -> None:
        run, settings = self.run, self.recipe.masters.gen_data
        questions = run.questions
        student_folder = leg.student_responses(run, settings.student_refresh, stage.ratios[0])
        student_todo = settings.student_responses and missing_shards(questions, student_folder)
        teacher_ratios = stage.ratios if settings.teacher_responses else []
        self._check_stored(leg, teacher_ratios)
        teacher_todo = [r for r in teacher_ratios if missing_shards(questions, leg.responses(run, r))]
        if not student_todo and not teacher_todo:
            return
        judge = make_judge(self.recipe.masters.rewards, self.recipe.data.scoring, run.responses.parent, self.base)
        initial = load_model(self.student.folder, attn=self.recipe.trainer.attention)
        reference = Reference(initial, self.student.processor, self.vocab)
        write = partial(
            write_responses,
            reference=reference,
            judge=judge,
            settings=settings,
            questions=questions,
            seed=self.recipe.trainer.seed,
        )
        with self.clock.phase("gen_data"):
            self._write_teacher(leg, teacher_todo, write)  # first, as it begins with a look at the teacher
            if student_todo:
                self._write_student(student_folder, lambda: self._student_at(leg, stage, initial), write)

    def _write_teacher(self, leg: Leg, ratios: list[float], write: Callable[..., None]) -> None:
        load, count = self._teacher_loader(leg), self.recipe.masters.gen_data.teacher_responses
        for ratio in ratios:
            folder = leg.responses(self.run, ratio)
            with self._teacher_generator(leg, ratio, load) as generator:
                if self.recipe.masters.gen_data.check_images:
                    sight = check_sight(generator, leg.teacher.name, self.run.questions)
                    write_json(folder / SIGHT, {"checked": "teacher", **(asdict(sight) if sight else {})})
                name, processor = leg.teacher.name, leg.teacher.processor
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
                loaded.append(self._masked(leg.teacher))
            loaded[0].set_ratio(ratio)
            return loaded[0].model

        return load

    def _check_stored(self, leg: Leg, ratios: list[float]) -> None:
        """Responses that lie there without a word that their teacher was looked at are judged by themselves."""
        for ratio in ratios if self.recipe.masters.gen_data.check_images else []:
            folder = leg.responses(self.run, ratio)
            if any(folder.glob("shard-*.parquet")) and not (folder / SIGHT).exists():
                p = check_stored_sight(leg.teacher.name, self.run.questions, folder)
                write_json(folder / SIGHT, {"checked": "responses", "p": p})

    def _train(self, leg: Leg, stage: Stage) -> None:
        """Train one stretch of a leg; optimiser, schedules and random state go on from the last checkpoint."""
        recipe, run, settings = self.recipe, self.run, self.recipe.trainer
        if self._leg_student(leg.number).is_dir():
            return
        folder = checkpoint_folder(run.checkpoints, leg.number)
        last = stage.stop == leg.steps
        if not last and self._trained(leg) >= stage.stop:
            return
        cache = run.checkpoints / "cache"
        questions = open_shards(run.questions, cache)
        dataset = ScheduledQuestions(
            questions,
            self._passes(leg, stage, cache),
            leg.ratio_of,
            stage.stop,
            settings.batch_questions * settings.gradient_accumulation,
            settings.seed + leg.number,
        )
        student = self._student_of(leg, None)
        teacher = self._masked(leg.teacher)
        self._check_trainer(leg, teacher)
        objectives = self._objectives()
        masters = recipe.masters
        trainer = JointTrainer(
            teacher=teacher,
            processors=(self.student.processor, leg.teacher.processor),
            objectives=objectives,
            weights=Weights(
                objective=recipe.objective,
                grpo=masters.grpo_weight,
                kl_beta=masters.kl_beta,
                accuracy=masters.rewards.accuracy,
                distill=masters.rewards.distill,
                advantage_std=masters.advantage_std,
                rows={name: objective.rows for name, objective in objectives.items()},
            ),
            vocab=self.vocab,
            model=student,
            args=self._arguments(folder, leg.steps),
            train_dataset=dataset,
            data_collator=Collator(
                self.student.processor,
                leg.teacher.processor,
                references=any(objective.rows == "reference" for objective in objectives.values()),
            ),
        )
        if not last:
            trainer.add_callback(StopAt(stage.stop))
        trainer.add_callback(MaskSchedule(teacher, leg.ratio_of, partial(self._record, leg)))
        with self.clock.phase("train"):
            run_trainer(trainer, folder, f"teacher {leg.number + 1} of {len(self.legs)}")
        write_json(run.reports / f"training-{leg.number + 1}.json", trainer.state.log_history)
        if not last:
            return
        detach_adapters(student)
        with new_folder(self._leg_student(leg.number), replace=True) as out:
            student.save_pretrained(out)
            copy_processor(self.student.folder, out)

    def _check_trainer(self, leg: Leg, teacher: MaskedTeacher) -> None:
        """Look at the loaded teacher too where another than it has written the responses."""
        settings = self.recipe.masters.gen_data
        if settings.check_images and (settings.generator != "transformers" or not settings.teacher_responses):
            source = Source(
                leg.teacher.name, leg.teacher.folder, leg.teacher.processor, settings, lambda: teacher.model
            )
            generator = GENERATORS.load("transformers").open_generator(source)
            check_sight(generator, leg.teacher.name, self.run.questions)

    def _record(self, leg: Leg, ratio: float, thresholds: dict[str, float]) -> None:
        """Keep the thresholds of a stage: with the dense teacher they make its mask again."""
        path = self.run.folder / "mask-thresholds.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept.setdefault(f"teacher-{leg.number + 1}", {})[f"{ratio:g}"] = thresholds
        write_json(path, kept)

    def _passes(self, leg: Leg, stage: Stage, cache: Path) -> dict[float, list[tuple[Any, int]]]:
        settings = self.recipe.masters.gen_data
        passes: dict[float, list[tuple[Any, int]]] = {}
        for ratio in stage.ratios:
            passes[ratio] = []
            if settings.teacher_responses:
                rows = open_shards(leg.responses(self.run, ratio), cache)
                passes[ratio].append((rows, settings.teacher_responses))
            if settings.student_responses:
                rows = open_shards(leg.student_responses(self.run, settings.student_refresh, ratio), cache)
                passes[ratio].append((rows, settings.student_responses))
        return passes

    def _arguments(self, folder: Path, steps: int) -> Any:
        settings = self.recipe.trainer
        return training_arguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=settings.batch_questions,
            gradient_accumulation_steps=settings.gradient_accumulation,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            bf16=settings.bf16,
            save_steps=settings.save_steps,
            seed=settings.seed,
        )

    def _save_student(self) -> None:
        if not self.run.student.is_dir():
            with new_folder(self.run.student) as out:
                for path in self._leg_student(len(self.legs) - 1).iterdir():
                    shutil.copyfile(path, out / path.name)

    def _measured(self, when: str, load: Callable[[], Any]) -> Evaluation:
        path = self.run.reports / f"accuracy-{when}.json"
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            return Evaluation(kept["ids"], np.array(kept["scores"]), kept["answers"])
        data = self.recipe.data
        with self.clock.phase(f"measure_{when}"):
            result = evaluate_model(
                load(),
                self.student.processor,
                data.test,
                scoring=data.scoring,
                limit=data.test_limit,
                max_new_tokens=MAX_ANSWER_TOKENS,
                title=f"accuracy {when}",
            )
        write_json(path, {"ids": result.ids, "scores": result.scores.tolist(), "answers": result.answers})
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
        heads = _vocab_size(teacher.folder), _vocab_size(self.student.folder)
        return shared_vocabulary(teacher.processor, self.student.processor, *heads)

    def _objectives(self) -> dict[str, Objective]:
        """Fresh ones: their schedules start anew with each teacher."""
        settings = self.recipe.objective_settings
        return {name: build(name, settings.get(name, {})) for name in self.recipe.objective}

    def _leg_student(self, number: int) -> Path:
        return self.run.checkpoints / f"student-{number + 1}"

    def _student_of(self, leg: Leg, initial: Any) -> Any:
        """The student as this leg finds it."""
        attention = self.recipe.trainer.attention
        if leg.number == 0:
            return initial if initial is not None else load_model(self.student.folder, attn=attention)
        return load_model(self._leg_student(leg.number - 1), attn=attention)

    def _student_at(self, leg: Leg, stage: Stage, initial: Any) -> Any:
        """The student as this stage finds it."""
        if stage.start == 0:
            return self._student_of(leg, initial)
        checkpoint = last_complete_checkpoint(checkpoint_folder(self.run.checkpoints, leg.number))
        if checkpoint is None or self._trained(leg) != stage.start:
            raise CheckpointError(
                f"The student as it was after step {stage.start} is not kept any more.",
                why="Responses of a stage whose training has begun are missing.",
                fix="Start a new run:  edgekit distill --fresh",
            )
        return load_model(checkpoint, attn=self.recipe.trainer.attention)

    def _trained(self, leg: Leg) -> int:
        """Steps of a leg that the last whole checkpoint holds."""
        checkpoint = last_complete_checkpoint(checkpoint_folder(self.run.checkpoints, leg.number))
        return int(checkpoint.name.rpartition("-")[2]) if checkpoint is not None else 0

    def _masked(self, teacher: Party) -> MaskedTeacher:
        mask = self.recipe.masters.mask
        model = load_model(teacher.folder, attn=self.recipe.trainer.attention)
        if torch.cuda.is_available():
            model.to("cuda")
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
            "seed": self.recipe.trainer.seed,
        }

    def _close(self, before: Evaluation, after: Evaluation) -> dict[str, Any]:
        gain = paired(after.scores, before.scores)
        self.run.update(
            status="finished",
            student_sha256=checkpoint_hash(self.run.student),
            accuracy={
                "test": self.recipe.data.test,
                "n": after.n,
                "before": before.accuracy,
                "before_ci95": list(before.ci95),
                "after": after.accuracy,
                "after_ci95": list(after.ci95),
                "delta": gain.delta,
                "delta_ci95": list(gain.ci95),
                "p_value_mcnemar": gain.p_value,
                "gained": gain.gained,
                "lost": gain.lost,
            },
            seconds=self.clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
        return self.run.manifest()


def _party(name: str, base: Path) -> Party:
    folder = resolve_checkpoint(name, base)
    config = check_checkpoint(folder)
    return Party(name, folder, family_of(config["model_type"]), Processor.load(folder), checkpoint_hash(folder))


def _vocab_size(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config.get("text_config", {}).get("vocab_size", config.get("vocab_size"))
    return int(size)
