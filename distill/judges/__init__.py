"""Judges give R_acc: 1 for a right response, 0 for a wrong, irrelevant, repetitive or empty one (MASTERS Eq. 6).

Each file holds `make(scoring, llm, folder, base) -> Judge`: the recipe's metrics and settings of language models, the
run's folder, and the folder relative names start from. It may hold `check(llm, base)`, called before a run begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edgekit.choice import Choice, entries, pick
from edgekit.data import Sample
from edgekit.data.scoring import KEY as SCORING_KEY
from edgekit.recipe import JUDGES, Recipe, Rewards

KEY = "masters.rewards.judge"

# (question with its references, response) of many responses -> 0.0 or 1.0 for each.
Judge = Callable[[Sequence[tuple[Sample, str]]], list[float]]


def make_judge(rewards: Rewards, scoring: Choice, folder: Path, base: Path) -> Judge:
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
    judges: dict[str, Judge] = {name: JUDGES.load(name).make(scoring, rewards.llm, folder, base) for name in names}
    return partial(_by_dataset, rewards.judge, judges)


def _by_dataset(choice: Choice, judges: dict[str, Judge], rows: Sequence[tuple[Sample, str]]) -> list[float]:
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
        check = getattr(JUDGES.load(name), "check", None)
        if check is not None:
            check(rewards.llm, base)


def check_sample(recipe: Recipe, sample: Sample) -> None:
    """Whether a judge and a metric are chosen for a question's data set.

    Raises:
        DataError: not.
    """
    pick(recipe.masters.rewards.judge, sample.dataset, KEY)
    pick(recipe.data.scoring, sample.dataset, SCORING_KEY)
