"""The learning rate of each arm of an ablation, chosen on train questions that its trainings do not see.

One seed, which is not among the reported ones, and every rate once for each arm; the test questions are never asked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from edgekit.console import note
from edgekit.data import samples
from edgekit.data.convert import writing
from edgekit.distill.judges import check_sample
from edgekit.distill.probe import held_out
from edgekit.distill.questions import write_questions
from edgekit.distill.resuming import drop_damaged, lacking
from edgekit.errors import DataError, EdgekitError, NotFiniteError
from edgekit.files import write_json
from edgekit.recipe.model import Data, Recipe
from edgekit.seal import read_sealed_json, write_sealed_json
from edgekit.workspace import Run

SEED_AFTER = 999
"""The seed of the choice is the recipe's own and so many; recipes leave room for it."""
ASKED, FOLDER, DIVERGED = "learning-rates.json", "tuning", "diverged.json"
SHARE = 5
"""At most one train question in so many is held out."""


def read_rates(text: str) -> list[float]:
    """`5e-4,1e-3` to numbers.

    Raises:
        EdgekitError: one is none.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise EdgekitError(
            f"--learning-rates {text!r} is not a list of numbers.", fix="For example:  --learning-rates 5e-4,1e-3,2e-3"
        ) from error


def check_rates(rates: Sequence[float]) -> tuple[float, ...]:
    """Rates to choose from, ascending, each once.

    Raises:
        EdgekitError: one cannot be a learning rate, or there is no choice.
    """
    if bad := [rate for rate in rates if not (math.isfinite(rate) and rate > 0)]:
        raise EdgekitError(f"A learning rate of {bad[0]!r} cannot be: rates are above 0.")
    found = tuple(sorted({float(rate) for rate in rates}))
    if len(found) < 2:
        raise EdgekitError(
            f"There is nothing to choose among {len(found)} learning rate{'s' if len(found) != 1 else ''}.",
            fix="Name several, or set the only one:  --set trainer.learning_rate=1e-3",
        )
    return found


@dataclass(frozen=True)
class Choice:
    """The rate of one arm.

    Attributes:
        rate: The best one; of equal ones the smallest.
        tried: Rate -> accuracy on the held-out questions, in [0, 1]; None where the loss was no number any more.
    """

    rate: float
    tried: Mapping[float, float | None]

    @classmethod
    def of(cls, tried: Mapping[float, float | None]) -> Choice:
        """The best of what was tried.

        Raises:
            EdgekitError: none of them trained at all.
        """
        scored = {rate: score for rate, score in tried.items() if score is not None}
        if not scored:
            raise EdgekitError(
                f"At every learning rate tried the loss ended as no number: {', '.join(map(str, tried))}.",
                fix="Try lower ones, in another folder (--name).",
            )
        return cls(min(scored, key=lambda rate: (-scored[rate], rate)), tried)


@dataclass(frozen=True)
class Tuning:
    """The choice of an ablation's learning rates.

    Attributes:
        recipe: Full MASTERS.
        folder: The ablation's.
        rates: Ascending.
        questions: Held out at most.
    """

    recipe: Recipe
    folder: Path
    rates: tuple[float, ...]
    questions: int

    @property
    def seed(self) -> int:
        """Of the runs that choose."""
        return self.recipe.trainer.seed + SEED_AFTER

    def choose(self, arms: Mapping[str, Recipe], train: Callable[[Run, Recipe], object]) -> dict[str, Choice]:
        """Run what is missing.

        Args:
            arms: Name -> recipe.
            train: Takes a run from wherever it stands to its end.
        """
        jobs = [(name, rate) for name in arms for rate in self.rates]
        tried: dict[str, dict[float, float | None]] = {name: {} for name in arms}
        hurt = [job for job in jobs if drop_damaged(self._run(*job))]  # they share their shards
        for place, (name, rate) in enumerate(jobs, 1):
            run = self._run(name, rate)
            diverged = (run.folder / DIVERGED).exists()
            if not diverged and (not run.finished or hurt or lacking(run)):
                note(f"Learning rate {place} of {len(jobs)}: {rate:g} for {name}, seed {self.seed}")
                diverged = not self._trained(run, arms[name], rate, train)
            tried[name][rate] = None if diverged else _accuracy(run)
        return {name: Choice.of(scores) for name, scores in tried.items()}

    def _run(self, name: str, rate: float) -> Run:
        return Run(self.folder / FOLDER / f"{name}-{rate!r}", shared=self.folder / FOLDER)

    def _trained(self, run: Run, arm: Recipe, rate: float, train: Callable[[Run, Recipe], object]) -> bool:
        """Whether the loss stayed a number."""
        trainer = dataclasses.replace(arm.trainer, learning_rate=rate, seed=self.seed)
        try:
            train(run, dataclasses.replace(arm, trainer=trainer, data=self._data))
        except NotFiniteError as error:
            note(f"Learning rate {rate:g} of {run.name!r} is out: {error.what}")
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            write_json(run.folder / DIVERGED, {"learning_rate": rate, "why": error.what})
            return False
        return True

    @cached_property
    def _data(self) -> Data:
        """The recipe's train questions without the held-out ones, and these in the place of the test questions."""
        data, place = self.recipe.data, self.folder / FOLDER
        total = sum(1 for _ in samples(data.train))
        count = min(self.questions, total // SHARE)
        if not count:
            raise DataError(
                f"{data.train} has {total} questions, too few to hold some out for the choice of a learning rate.",
                fix="Leave --learning-rates away.",
            )
        if count < self.questions:
            note(f"Of {total:,} train questions {count:,} are held out to choose the learning rate on.")
        data = dataclasses.replace(
            data, train_limit=min(data.train_limit or total, total - count), test_limit=None, retention=None
        )
        shard, path = self.recipe.masters.gen_data.shard_questions, place / "held-out.parquet"
        write_questions(data, place / "questions", shard, self.seed, partial(check_sample, self.recipe))
        if not path.exists():
            taken = {
                ident for file in _shards(place) for ident in pq.read_table(file, columns=["id"])["id"].to_pylist()
            }
            with writing(path) as out:
                for sample in held_out(data.train, count, self.seed, taken):
                    out.add(sample)
        return dataclasses.replace(data, test=str(path.resolve()))

    def record(self) -> dict[str, Any]:
        """For the report."""
        path = self.folder / FOLDER / "held-out.parquet"
        return {
            "rates": list(self.rates),
            "seed": self.seed,
            "questions": pq.ParquetFile(path).metadata.num_rows if path.exists() else 0,
        }


def asked(folder: Path, rates: Sequence[float], questions: int) -> dict[str, Any] | None:
    """What an ablation is to choose from; None for nothing.

    Raises:
        EdgekitError: the folder was begun with something else.
    """
    wanted = {"rates": list(rates), "questions": questions} if rates else None
    kept, begun = folder / ASKED, any(folder.glob("seed-*"))
    known = read_sealed_json(kept) if kept.exists() else None
    before = {key: known[key] for key in ("rates", "questions")} if known else None
    if before != wanted and (before or begun):
        said = "without --learning-rates"
        if before:
            rates_said = ",".join(map(str, before["rates"]))
            said = f"with --learning-rates {rates_said} --tuning-questions {before['questions']}"
        raise EdgekitError(
            f"The ablation {folder.name!r} was started {said}.", fix="Say so again, or give --name another one."
        )
    return wanted


def keep_asked(folder: Path, wanted: Mapping[str, Any] | None) -> None:
    """Write down what the ablation chooses from."""
    if wanted:
        write_sealed_json(folder / ASKED, dict(wanted))


def _shards(place: Path) -> list[Path]:
    return sorted((place / "questions").glob("shard-*.parquet"))


def _accuracy(run: Run) -> float:
    kept = json.loads((run.reports / "accuracy-after.json").read_text(encoding="utf-8"))
    return float(np.mean(kept["scores"]))
