"""`edgekit ablate`: what each part of MASTERS brings, at equal compute, over several seeds.

Every arm makes the same number of student updates on the same questions with as many responses each, and so asks its
teachers for as many forward passes; arms of one seed share the questions and the responses. A finished arm is never
run again, and a stopped one goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import figures
from edgekit.console import note
from edgekit.distill.masters import Pipeline
from edgekit.distill.resuming import drop_damaged, lacking
from edgekit.errors import EdgekitError
from edgekit.files import write_json, write_text
from edgekit.recipe import Model, Qad, Recipe, dump_recipe, load_recipe
from edgekit.stats import paired, score_interval, seeds_interval
from edgekit.workspace import Run

BASELINE = "jsd"


def _large(recipe: Recipe) -> Recipe:
    """The last teacher alone, for as many steps as the whole ladder."""
    total = sum(recipe.steps(number) for number in range(len(recipe.teachers)))
    return dataclasses.replace(recipe, teachers=(dataclasses.replace(recipe.teachers[-1], steps=total),))


def _unmasked(recipe: Recipe) -> Recipe:
    teachers = tuple(Model(teacher.checkpoint, steps=teacher.steps) for teacher in recipe.teachers)
    mask = dataclasses.replace(recipe.masters.mask, r_max=0.0)
    return dataclasses.replace(recipe, teachers=teachers, masters=dataclasses.replace(recipe.masters, mask=mask))


def _unrewarded(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, masters=dataclasses.replace(recipe.masters, grpo_weight=0.0))


def _objective(recipe: Recipe, name: str) -> Recipe:
    settings = {key: value for key, value in recipe.objective_settings.items() if key == name}
    return dataclasses.replace(recipe, objective={name: 1.0}, objective_settings=settings)


def _align_kd(recipe: Recipe) -> Recipe:
    plain = _objective(_unrewarded(_unmasked(_large(recipe))), "align_kd")
    return dataclasses.replace(plain, trainer=dataclasses.replace(plain.trainer, attention="eager"))


# Name -> (what the table calls it, the recipe it makes of the full one). The first six are the paper's table.
ARMS: dict[str, tuple[str, Callable[[Recipe], Recipe]]] = {
    "jsd": ("plain JSD, large teacher", lambda r: _objective(_unrewarded(_unmasked(_large(r))), "jsd")),
    "mid": ("+ mid teachers", lambda r: _unrewarded(_unmasked(r))),
    "mask": ("+ mid teachers + mask", lambda r: _unrewarded(r)),
    "rewards": ("+ mid teachers + rewards", lambda r: _unmasked(r)),
    "full": ("full MASTERS", lambda r: r),
    "full_without_mid": ("full without mid teachers", lambda r: _large(r)),
    "taid": ("TAID, large teacher", lambda r: _objective(_unrewarded(_unmasked(_large(r))), "taid")),
    "align_kd": ("Align-KD, large teacher", _align_kd),
}


def arms_of(recipe: Recipe, names: Sequence[str] | None = None) -> dict[str, Recipe]:
    """The arms of a recipe; those that would be the same run as another one are left out.

    Args:
        recipe: Full MASTERS.
        names: Which; all when None. The baseline, plain JSD, is always among them.
    Raises:
        EdgekitError: an unknown arm.
    """
    if unknown := sorted(set(names or ()) - set(ARMS)):
        raise EdgekitError(f"There is no arm {unknown[0]!r}.", fix=f"There are: {', '.join(ARMS)}.")
    made: dict[str, Recipe] = {}
    for name, (_, change) in ARMS.items():
        if names is not None and name not in names and name != BASELINE:
            continue
        arm = change(recipe)
        if all(arm.hash != other.hash for other in made.values()):
            made[name] = arm
    return made


@dataclass(frozen=True)
class Arm:
    """What came out of one arm.

    Attributes:
        name, title: Of the arm.
        accuracy: Per seed, in [0, 1].
        retention: Change of the accuracy on `data.retention`, mean over the seeds, and its 95 % interval over
            questions; None without such questions.
        mean: Over the seeds.
        gain: Mean difference to the baseline of the same seed; None for the baseline.
        over_questions: 95 % paired interval of the gain for these seeds and other questions.
        over_seeds: 95 % t interval of the gain for other seeds and these questions; None with one seed.
        steps: Student updates of one seed.
        teacher_forwards: Responses that went through a teacher during training, of one seed.
    """

    name: str
    title: str
    accuracy: tuple[float, ...]
    mean: float
    gain: float | None
    over_questions: tuple[float, float] | None
    over_seeds: tuple[float, float] | None
    steps: int
    teacher_forwards: int
    retention: tuple[float, float, float] | None = None

    @property
    def verdict(self) -> str:
        """better, worse or open, against the baseline: both intervals must exclude 0."""
        if self.over_questions is None or self.over_seeds is None:
            return ""
        bounds = [self.over_questions, self.over_seeds]
        if all(low > 0 for low, _ in bounds):
            return "better"
        return "worse" if all(high < 0 for _, high in bounds) else "open"


class Ablation:
    """An ablation's folder: seed-<k>/{questions,responses,<arm>}, report.json, report.md, gain.svg.

    Args:
        recipe: Full MASTERS.
        base: Folder that relative checkpoint names start from.
        folder: Where everything is kept.
        names: Arms; all when None.
        seeds: How many; the recipe's own seed and those after it.
    Raises:
        EdgekitError: the folder belongs to another recipe, an arm is unknown, or a model or the data is not usable.
    """

    def __init__(self, recipe: Recipe, base: Path, folder: Path, names: Sequence[str] | None, seeds: int) -> None:
        self.recipe, self.base, self.folder = recipe, base, folder
        self.arms = arms_of(recipe, names)
        self.seeds = [recipe.trainer.seed + number for number in range(seeds)]
        for arm in self.arms.values():
            Pipeline(arm, base)  # everything that can be refused is refused now
        kept = folder / "ablation.yaml"
        if kept.exists() and load_recipe(kept, kept=True).hash != recipe.hash:
            raise EdgekitError(
                f"The ablation {folder.name!r} was started with another recipe.", fix="Give --name another one."
            )
        write_text(kept, dump_recipe(recipe))

    def go(self) -> dict[str, Any]:
        """Run what is missing, and write the report.

        Returns:
            The report, as in report.json.
        """
        with Run(self.folder).lock():
            total = len(self.arms) * len(self.seeds)
            # Arms of a seed share their shards, so what one of them finds damaged may be another's.
            hurt = {seed for seed in self.seeds for name in self.arms if drop_damaged(self._run(seed, name))}
            # Seed by seed, so that a stopped ablation already holds whole comparisons.
            for place, (seed, name) in enumerate(((s, n) for s in self.seeds for n in self.arms), 1):
                run = self._run(seed, name)
                if not run.finished or seed in hurt or lacking(run):
                    note(f"Arm {place} of {total}: {ARMS[name][0]}, seed {seed}")
                    self._one(run, name, seed)
            return self.report()

    def _run(self, seed: int, name: str) -> Run:
        return Run(self.folder / f"seed-{seed}" / name, shared=self.folder / f"seed-{seed}")

    def _one(self, run: Run, name: str, seed: int) -> None:
        arm = self.arms[name]
        # The students compared are the full-precision ones.
        trainer = dataclasses.replace(arm.trainer, seed=seed)
        arm = dataclasses.replace(arm, name=name, trainer=trainer, qad=Qad())
        # The untouched student is the same everywhere, and so is a probe or a check of the same teacher: made once.
        for when in ("before", "retention-before"):
            for path in sorted(self.folder.glob(f"seed-*/*/reports/accuracy-{when}.json"))[:1]:
                self._share(path, run.reports / path.name)
        for kind in ("probe", "teacher-check"):
            for path in sorted(self.folder.glob(f"seed-*/*/reports/{kind}-*.json")):
                self._share(path, run.reports / path.name)
        run.write_recipe(arm)
        Pipeline(arm, self.base).go(run)
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # of a finished arm: only its student is of use

    @staticmethod
    def _share(source: Path, target: Path) -> None:
        if not target.exists():
            write_text(target, source.read_text(encoding="utf-8"))

    # ------------------------------------------------------------------------------------------------------ the report

    def report(self) -> dict[str, Any]:
        """Compare the arms that are finished for every seed; written to report.json, report.md and gain.svg."""
        scores = {name: self._scores(name) for name in self.arms}
        before = _read_scores(self._run(self.seeds[0], BASELINE), "before")
        arms = [self._compare(name, values, scores[BASELINE]) for name, values in scores.items()]
        low, high = score_interval(before)
        result: dict[str, Any] = {
            "schema_version": 1,
            "recipe_sha256": self.recipe.hash,
            "test": self.recipe.data.test,
            "questions": len(before),
            "seeds": self.seeds,
            "untouched": {"accuracy": float(before.mean()), "ci95": [low, high], **self._untouched_retention()},
            "baseline": BASELINE,
            "arms": [{**dataclasses.asdict(arm), "verdict": arm.verdict} for arm in arms],
        }
        write_json(self.folder / "report.json", result)
        write_text(self.folder / "report.md", markdown(result))
        if figures.available() and len(arms) > 1:
            rows = {
                arm.title: (100 * arm.gain, *(100 * bound for bound in _widest(arm)))
                for arm in arms
                if arm.gain is not None
            }
            figures.intervals(
                self.folder / "gain.svg",
                rows,  # type: ignore[arg-type]
                title=f"{len(self.seeds)} seeds, {len(before):,} questions",
                xlabel="points above plain JSD (wider of the two 95 % intervals)",
            )
        return result

    def _untouched_retention(self) -> dict[str, float]:
        if self.recipe.data.retention is None:
            return {}
        return {"retention": float(_read_scores(self._run(self.seeds[0], BASELINE), "retention-before").mean())}

    def _scores(self, name: str) -> NDArray[np.float64]:
        """(seeds, questions)."""
        return np.stack([_read_scores(self._run(seed, name), "after") for seed in self.seeds])

    def _compare(self, name: str, ours: NDArray[np.float64], plain: NDArray[np.float64]) -> Arm:
        arm, per_seed = self.arms[name], (ours - plain).mean(1)
        steps = sum(arm.steps(number) for number in range(len(arm.teachers)))
        data = arm.masters.gen_data
        per_step = arm.trainer.batch_questions * arm.trainer.gradient_accumulation
        same = name == BASELINE
        over_seeds = seeds_interval(per_seed) if len(per_seed) > 1 and not same else None
        return Arm(
            name,
            ARMS[name][0],
            tuple(float(value) for value in ours.mean(1)),
            float(ours.mean()),
            None if same else float(per_seed.mean()),
            None if same else paired(ours.mean(0), plain.mean(0)).ci95,
            over_seeds,
            steps,
            steps * per_step * (data.teacher_responses + data.student_responses),
            self._retention(name),
        )

    def _retention(self, name: str) -> tuple[float, float, float] | None:
        """Change of the accuracy on questions about something else, with its interval."""
        if self.recipe.data.retention is None:
            return None
        runs = [self._run(seed, name) for seed in self.seeds]
        after = np.stack([_read_scores(run, "retention-after") for run in runs]).mean(0)
        change = paired(after, _read_scores(runs[0], "retention-before"))
        return change.delta, *change.ci95


def _widest(arm: Arm) -> tuple[float, float]:
    bounds = [pair for pair in (arm.over_questions, arm.over_seeds) if pair is not None]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _read_scores(run: Run, when: str) -> NDArray[np.float64]:
    kept = json.loads((run.reports / f"accuracy-{when}.json").read_text(encoding="utf-8"))
    return np.array(kept["scores"], dtype=np.float64)


COLUMNS = ("arm", "accuracy, mean (per seed)", "gain", "95 % over questions", "95 % over seeds", "verdict")
ORDER = ("gain", "verdict", "95 % over seeds", "95 % over questions", "accuracy, mean (per seed)")
"""By importance, for a narrow terminal."""
RETENTION = "what else it could"


def columns_of(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Of its table: one more where the recipe names questions about something else."""
    return (*COLUMNS, RETENTION) if report["untouched"].get("retention") is not None else COLUMNS


def table(report: Mapping[str, Any]) -> tuple[str, list[list[str]], str]:
    """What was compared, the cells in the order of `columns_of`, one arm a line, and how to read them."""
    low, high = (100 * bound for bound in report["untouched"]["ci95"])
    seeds = len(report["seeds"])
    before = (
        f"{report['questions']:,} questions of {report['test']}, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{report['arms'][0]['steps']:,} student updates and {report['arms'][0]['teacher_forwards']:,} teacher "
        "forwards per arm and seed. Gains are over plain JSD of the same seed, in points."
    )
    rows = [["untouched student", f"{100 * report['untouched']['accuracy']:.2f} [{low:.2f}, {high:.2f}]", *[""] * 4]]
    if (known := report["untouched"].get("retention")) is not None:
        rows[0].append(f"{100 * known:.2f}")
    for arm in report["arms"]:
        per_seed = ", ".join(f"{100 * value:.2f}" for value in arm["accuracy"])
        gain = "" if arm["gain"] is None else f"{100 * arm['gain']:+.2f}"
        cells = [
            "" if arm[key] is None else f"[{100 * arm[key][0]:+.2f}, {100 * arm[key][1]:+.2f}]"
            for key in ("over_questions", "over_seeds")
        ]
        rows.append([arm["title"], f"{100 * arm['mean']:.2f} ({per_seed})", gain, *cells, arm["verdict"]])
        if (kept := arm.get("retention")) is not None:
            change, least, most = (100 * value for value in kept)
            rows[-1].append(f"{change:+.2f} [{least:+.2f}, {most:+.2f}]")
    after = (
        "Over questions: paired bootstrap of the seed-averaged scores. Over seeds: Student's t on the differences per "
        "seed. A verdict needs both to exclude 0; several arms are compared, each at 95 % on its own."
    )
    return before, rows, after


def markdown(report: Mapping[str, Any]) -> str:
    """The report's table, in the shape of the paper's, one arm a line."""
    before, rows, after = table(report)
    columns = columns_of(report)
    lines = [before, "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += ["| " + "".join(f"{cell} | " if cell else "| " for cell in row).rstrip() for row in rows]
    return "\n".join([*lines, "", after]) + "\n"
