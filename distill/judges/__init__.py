"""Judges give R_acc: 1 for a right response, 0 for a wrong, irrelevant, repetitive or empty one (MASTERS Eq. 6).

One file each, holding a `JUDGE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgekit.data import Sample
from edgekit.data.scoring import KEY as SCORING_KEY
from edgekit.recipe import model as recipe
from edgekit.recipe.model import LlmJudge, Recipe, Rewards
from edgekit.recipe.per_dataset import Choice, entries, pick
from edgekit.registry import Registry

KEY = "masters.rewards.judge"

Verdicts = Callable[[Sequence[tuple[Sample, str]]], list[float]]
"""(question with its references, response) of many responses -> 0.0 or 1.0 for each."""


@dataclass(frozen=True)
class Judge:
    """Who says which responses are right.

    Attributes:
        make: (`data.scoring`, settings of language models, the run's folder, the folder that relative names start
            from) -> `Verdicts`.
        check: (settings of language models, that folder): an EdgekitError where they cannot do; called before a run
            begins.
    """

    make: Callable[[Choice, LlmJudge, Path, Path], Verdicts]
    check: Callable[[LlmJudge, Path], None] | None = None


JUDGES: Registry[Judge] = recipe.JUDGES


def make_judge(rewards: Rewards, scoring: Choice, folder: Path, base: Path) -> Verdicts:
    """The judge of a run, which gives each response to the judge chosen for its data set.

    Args:
        rewards: Of the recipe.
        scoring: `data.scoring`.
        folder: The run's; verdicts are kept in it.
        base: Where relative names of checkpoints start from.

    Raises:
        EdgekitError: a judge cannot be had.
    """
    names = dict.fromkeys(name for _, name in entries(rewards.judge, KEY))
    judges = {name: JUDGES.load(name).make(scoring, rewards.llm, folder, base) for name in names}
    return partial(_by_dataset, rewards.judge, judges)


def _by_dataset(choice: Choice, judges: dict[str, Verdicts], rows: Sequence[tuple[Sample, str]]) -> list[float]:
    places: dict[str, list[int]] = {name: [] for name in judges}
    for place, (sample, _) in enumerate(rows):
        places[pick(choice, sample.dataset, KEY)].append(place)
    verdicts = [0.0] * len(rows)
    for name, own in places.items():
        if own:
            for place, verdict in zip(own, judges[name]([rows[place] for place in own]), strict=True):
                verdicts[place] = verdict
    return verdicts


def check_judges(rewards: Rewards, base: Path) -> None:
    """Ask each chosen judge whether its settings can do, before anything is written.

    Raises:
        EdgekitError: a setting is missing, a checkpoint or a key is not there.
    """
    for name in dict.fromkeys(name for _, name in entries(rewards.judge, KEY)):
        check = JUDGES.load(name).check
        if check is not None:
            check(rewards.llm, base)


def check_sample(run: Recipe, sample: Sample) -> None:
    """Whether a judge and a metric are chosen for a question's data set.

    Raises:
        DataError: not.
    """
    pick(run.masters.rewards.judge, sample.dataset, KEY)
    pick(run.data.scoring, sample.dataset, SCORING_KEY)
