"""`edgekit ablate`: what each part of MASTERS brings, at equal compute, over several seeds.

Every arm makes the same number of student updates on the same questions with as many responses each, and so asks its
teachers for as many forward passes; arms of one seed share the questions and the responses. A finished arm is never
run again, and a stopped one goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.console import note
from edgekit.distill.ablation_report import AblationReport, Untouched
from edgekit.distill.ablation_table import markdown
from edgekit.distill.arms import ARMS, BASELINE, arms_of
from edgekit.distill.masters import Pipeline
from edgekit.distill.objectives import build
from edgekit.distill.outcomes import Difference, Outcome, Scores, compared
from edgekit.distill.recommend import Start, recommend
from edgekit.distill.responses import Used
from edgekit.distill.resuming import drop_damaged, lacking
from edgekit.distill.tuning import FOLDER, SEED_AFTER, Choice, Tuning, asked, check_rates, keep_asked
from edgekit.errors import EdgekitError
from edgekit.files import write_json, write_text
from edgekit.recipe.model import Qad, Recipe
from edgekit.recipe.reading import dump_recipe, load_recipe
from edgekit.report import plots
from edgekit.stats import paired, score_interval
from edgekit.workspace import Run


class Ablation:
    """An ablation's folder: tuning/, seed-<k>/{questions,responses,<arm>}, report.json, report.md, gain.svg.

    Args:
        recipe: Full MASTERS.
        base: Folder that relative checkpoint names start from.
        folder: Where everything is kept.
        names: Arms; `arms.DEFAULT` when None.
        seeds: How many; the recipe's own seed and those after it.
        rates: Learning rates to choose each arm's from; the recipe's for all when empty.
        held_out: Train questions to choose on, at most.
        start: How a command comes to the recipe.

    Raises:
        EdgekitError: the folder belongs to another recipe or other rates, an arm is unknown, or a model or the data is
            not usable.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Path,
        folder: Path,
        names: Sequence[str] | None,
        seeds: int,
        *,
        rates: Sequence[float] = (),
        held_out: int = 512,
        start: Start | None = None,
    ) -> None:
        self.recipe, self.base, self.folder, self.start = recipe, base, folder, start or Start()
        self.arms = arms_of(recipe, names)
        if not 0 < seeds <= SEED_AFTER:
            raise EdgekitError(f"{seeds} seeds are not between 1 and {SEED_AFTER}.")
        if held_out < 1:
            raise EdgekitError(f"{held_out} held-out questions are not at least 1.")
        self.seeds = [recipe.trainer.seed + number for number in range(seeds)]
        self.tuning = Tuning(recipe, folder, check_rates(rates), held_out) if rates else None
        wanted = asked(folder, self.tuning.rates if self.tuning else (), held_out)
        self.chosen: dict[str, Choice] = {}
        for arm in self.arms.values():
            Pipeline(arm, base)  # everything that can be refused is refused now
        kept = folder / "ablation.yaml"
        if kept.exists() and load_recipe(kept, kept=True).hash != recipe.hash:
            raise EdgekitError(
                f"The ablation {folder.name!r} was started with another recipe.", fix="Give --name another one."
            )
        write_text(kept, dump_recipe(recipe))
        keep_asked(folder, wanted)

    def go(self) -> AblationReport:
        """Run what is missing, and write the report.

        Returns:
            The report that report.json holds.
        """
        with Run(self.folder).lock():
            if self.tuning is not None:
                self._take(self.tuning.choose(self.arms, self._one))
            total = len(self.arms) * len(self.seeds)
            # Arms of a seed share their shards, so what one of them finds damaged may be another's.
            hurt = {seed for seed in self.seeds for name in self.arms if drop_damaged(self._run(seed, name))}
            # Seed by seed, so that a stopped ablation already holds whole comparisons.
            for place, (seed, name) in enumerate(((s, n) for s in self.seeds for n in self.arms), 1):
                run = self._run(seed, name)
                if not run.finished or seed in hurt or lacking(run):
                    note(f"Arm {place} of {total}: {ARMS[name].title}, seed {seed}")
                    arm = self.arms[name]
                    self._one(run, dataclasses.replace(arm, trainer=dataclasses.replace(arm.trainer, seed=seed)))
            return self.report()

    def _take(self, chosen: Mapping[str, Choice]) -> None:
        """Go on with the learning rates that were chosen."""
        self.chosen = dict(chosen)
        for name, choice in chosen.items():
            trainer = dataclasses.replace(self.arms[name].trainer, learning_rate=choice.rate)
            self.arms[name] = dataclasses.replace(self.arms[name], trainer=trainer)

    def _run(self, seed: int, name: str) -> Run:
        return Run(self.folder / f"seed-{seed}" / name, shared=self.folder / f"seed-{seed}")

    def _one(self, run: Run, arm: Recipe) -> None:
        # The students compared are the full-precision ones.
        arm = dataclasses.replace(arm, name=run.name, qad=Qad())
        # The untouched student is the same everywhere, and so is a probe or a check of the same teacher: made once.
        # The runs that choose a learning rate are measured on other questions than the others.
        alike = FOLDER if run.folder.parent.name == FOLDER else "seed-*"
        for when in ("before", "retention-before"):
            for path in sorted(self.folder.glob(f"{alike}/*/reports/accuracy-{when}.json"))[:1]:
                self._share(path, run.reports / path.name)
        for kind in ("probe", "teacher-check"):
            for place in ("seed-*", FOLDER):
                for path in sorted(self.folder.glob(f"{place}/*/reports/{kind}-*.json")):
                    self._share(path, run.reports / path.name)
        run.write_recipe(arm)
        Pipeline(arm, self.base).go(run)
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # of a finished arm: only its student is of use

    @staticmethod
    def _share(source: Path, target: Path) -> None:
        if not target.exists():
            write_text(target, source.read_text(encoding="utf-8"))

    # ------------------------------------------------------------------------------------------------------ the report

    def report(self) -> AblationReport:
        """Compare the arms that are finished for every seed; written to report.json, report.md and gain.svg."""
        before = _read_scores(self._run(self.seeds[0], BASELINE), "before")
        outcomes = self._outcomes({name: self._scores(name) for name in self.arms})
        report = AblationReport(
            recipe_sha256=self.recipe.hash,
            test=self.recipe.data.test,
            questions=len(before),
            seeds=self.seeds,
            untouched=Untouched(float(before.mean()), score_interval(before), self._untouched_retention()),
            baseline=BASELINE,
            tuning=self.tuning.record() if self.chosen and self.tuning else None,
            arms=outcomes,
            recommendation=recommend(outcomes, self.arms, self.recipe, self.start),
        )
        written = report.as_dict()
        write_json(self.folder / "report.json", written)
        write_text(self.folder / "report.md", markdown(written))
        if plots.available() and len(outcomes) > 1:
            self._draw(outcomes, len(before))
        return report

    def _outcomes(self, scores: Mapping[str, Scores]) -> list[Outcome]:
        plain, labels, both = compared(scores)
        found = []
        for name, ours in scores.items():
            arm, choice = self.arms[name], self.chosen.get(name)
            steps = sum(arm.steps(number) for number in range(len(arm.teachers)))
            found.append(
                Outcome(
                    name,
                    ARMS[name].title,
                    tuple(float(value) for value in ours.mean(1)),
                    float(ours.mean()),
                    steps,
                    steps * arm.trainer.batch_questions * arm.trainer.gradient_accumulation * _responses(arm),
                    plain.get(name),
                    labels.get(name),
                    both.get(name),
                    self._retention(name),
                    choice.rate if choice else None,
                    {repr(rate): score for rate, score in choice.tried.items()} if choice else None,
                )
            )
        return found

    def _draw(self, outcomes: Sequence[Outcome], questions: int) -> None:
        rows = {
            one.title: (100 * one.over_plain.gain, *(100 * bound for bound in _widest(one.over_plain)))
            for one in outcomes
            if one.over_plain is not None
        }
        plots.intervals(
            self.folder / "gain.svg",
            rows,  # type: ignore[arg-type]
            title=f"{len(self.seeds)} seeds, {questions:,} questions",
            xlabel="points above plain JSD (wider of the two 95 % intervals)",
        )

    def _untouched_retention(self) -> float | None:
        if self.recipe.data.retention is None:
            return None
        return float(_read_scores(self._run(self.seeds[0], BASELINE), "retention-before").mean())

    def _scores(self, name: str) -> Scores:
        """(seeds, questions)."""
        return np.stack([_read_scores(self._run(seed, name), "after") for seed in self.seeds])

    def _retention(self, name: str) -> tuple[float, float, float] | None:
        """Change of the accuracy on questions about something else, with its interval."""
        if self.recipe.data.retention is None:
            return None
        runs = [self._run(seed, name) for seed in self.seeds]
        after = np.stack([_read_scores(run, "retention-after") for run in runs]).mean(0)
        change = paired(after, _read_scores(runs[0], "retention-before"))
        return change.delta, *change.ci95


def _responses(arm: Recipe) -> int:
    """Of a question, that go through the teacher in a step."""
    objectives = [build(name, arm.objective_settings.get(name, {})) for name in arm.objective]
    used = Used.by(arm, objectives)
    return used.teacher + used.student + any(one.over == "reference" for one in objectives)


def _widest(one: Difference) -> tuple[float, float]:
    bounds = [pair for pair in (one.over_questions, one.over_seeds) if pair is not None]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _read_scores(run: Run, when: str) -> NDArray[np.float64]:
    kept = json.loads((run.reports / f"accuracy-{when}.json").read_text(encoding="utf-8"))
    return np.array(kept["scores"], dtype=np.float64)
