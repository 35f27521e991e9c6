"""What an ablation says to somebody with these data: one line, and the command that trains the arm it names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit import schema
from edgekit.distill.arms import BASELINE, LABELS
from edgekit.distill.outcomes import Outcome
from edgekit.recipe.model import Recipe
from edgekit.yaml_text import write_yaml

LATER = ("name", "qad", "exports", "bench", "gates")
"""Keys of a recipe that no arm changes, or that the full-precision student does not depend on."""


@dataclass(frozen=True)
class Recommendation:
    """The end of a report.

    Attributes:
        arm: To train with.
        better: Whether it was shown to be better than plain distillation without and with labels.
        text: The sentences.
        settings: Dotted key -> YAML text, what the arm changes in the recipe.
        command: That trains it.
    """

    arm: str
    better: bool
    text: str
    settings: Mapping[str, str]
    command: str


def recommend(outcomes: Sequence[Outcome], recipes: Mapping[str, Recipe], full: Recipe, start: Start) -> Recommendation:
    """The arm shown to be better than plain distillation without and with labels, of several the best; else the latter.

    Args:
        outcomes: Of all arms, plain JSD's first.
        recipes: Arm -> what it was run with.
        full: The ablation's recipe.
        start: How a command comes to that one.
    """
    named = {one.name: one for one in outcomes}
    best = max((one for one in outcomes if one.better_than_both), key=lambda one: one.mean, default=None)
    arm, text = (best.name, _winner(best)) if best else _plain(named)
    settings = settings_between(full, recipes[arm])
    return Recommendation(arm, best is not None, f"On your data: {text}", settings, start.command(settings))


def _winner(one: Outcome) -> str:
    plain, labels = one.over_plain, one.over_labels
    assert plain is not None and labels is not None  # it is better than both
    return (
        f"{one.title}. It is better than plain JSD ({100 * plain.gain:+.2f} points) and than JSD + labels "
        f"({100 * labels.gain:+.2f}), over questions and over seeds, after Holm."
    )


def _plain(named: Mapping[str, Outcome]) -> tuple[str, str]:
    """Arm and text where nothing was shown to be better than plain distillation."""
    default = "plain distillation is the default."
    if len(named[BASELINE].accuracy) < 2:
        return BASELINE, f"{default} One seed does not say what others would give: nothing is shown (--seeds 5)."
    if LABELS not in named:
        return BASELINE, f"{default} To be called better, an arm must beat JSD + labels too, and {LABELS} was not run."
    gain = named[LABELS].over_plain
    text = (
        f"{default} No arm is better than both plain JSD and JSD + labels, over questions and over seeds, after Holm."
    )
    if gain is not None and gain.verdict == "better":
        return LABELS, f"{text} Of these two JSD + labels is the better one ({100 * gain.gain:+.2f} points)."
    return BASELINE, text


@dataclass(frozen=True)
class Start:
    """How a command comes to the recipe of an ablation.

    Attributes:
        recipe: Its file as it was named; None for that of the workspace, or the demo's.
        settings: Dotted key -> YAML text, what is set on top of the file.
    """

    recipe: str | None = None
    settings: Mapping[str, str] | None = None

    def command(self, settings: Mapping[str, str]) -> str:
        """`edgekit distill` with further settings."""
        words = ["edgekit", "distill", *([self.recipe] if self.recipe is not None else [])]
        earlier = {key: text for key, text in (self.settings or {}).items() if key not in settings}
        for key, text in {**earlier, **settings}.items():  # a later one may replace what holds an earlier one
            words += ["--set", f"{key}={text}"]
        return shlex.join(words)


def settings_between(start: Recipe, end: Recipe) -> dict[str, str]:
    """What `--set` must be told to make one recipe's student of another one's: dotted key -> YAML text."""
    one, other = (
        {key: value for key, value in schema.to_json(recipe).items() if key not in LATER} for recipe in (start, end)
    )
    return dict(_changes(one, other, ""))


def _changes(one: Any, other: Any, path: str) -> list[tuple[str, str]]:
    if one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        return [row for key in one for row in _changes(one[key], other[key], f"{path}.{key}" if path else key)]
    text = write_yaml(other, default_flow_style=True, width=1 << 20)
    return [(path, text.removesuffix("...\n").strip())]
