"""The arms of an ablation: what each one changes in a recipe of full MASTERS.

An arm keeps the questions, the number of student updates and the batch, so that arms differ in nothing but what their
name says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.console import note
from edgekit.errors import EdgekitError
from edgekit.recipe import Model, Recipe

BASELINE, LABELS = "jsd", "jsd_labels"
"""Plain distillation, without and with the labels: what an arm must be better than."""


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Attributes:
        name: As `--arms` takes it.
        title: What tables call it.
        change: Full MASTERS -> the recipe of this arm.
        rewarded: Whether it has the policy term.
        by_default: Whether it is run when nobody says which.
    """

    name: str
    title: str
    change: Callable[[Recipe], Recipe]
    rewarded: bool = False
    by_default: bool = False


def _large(recipe: Recipe) -> Recipe:
    """The last teacher alone, for as many steps as the whole ladder."""
    total = sum(recipe.steps(number) for number in range(len(recipe.teachers)))
    return dataclasses.replace(recipe, teachers=(dataclasses.replace(recipe.teachers[-1], steps=total),))


def _masters(recipe: Recipe, **settings: Any) -> Recipe:
    return dataclasses.replace(recipe, masters=dataclasses.replace(recipe.masters, **settings))


def _unmasked(recipe: Recipe) -> Recipe:
    teachers = tuple(Model(teacher.checkpoint, steps=teacher.steps) for teacher in recipe.teachers)
    mask = dataclasses.replace(recipe.masters.mask, r_max=0.0)
    return _masters(dataclasses.replace(recipe, teachers=teachers), mask=mask)


def _unrewarded(recipe: Recipe) -> Recipe:
    return _masters(recipe, grpo_weight=0.0)


def _topr(recipe: Recipe) -> Recipe:
    return _masters(recipe, off_policy="topr", clip=None)


def _without_distill(recipe: Recipe) -> Recipe:
    return _masters(recipe, rewards=dataclasses.replace(recipe.masters.rewards, distill=False))


def _plain(recipe: Recipe, name: str, **settings: str) -> Recipe:
    """One objective and the large teacher, no mask, no rewards; `settings` of the objective beside the recipe's own."""
    own = {**recipe.objective_settings.get(name, {}), **settings}
    plain = _unrewarded(_unmasked(_large(recipe)))
    return dataclasses.replace(plain, objective={name: 1.0}, objective_settings={name: own} if own else {})


def _labels(recipe: Recipe) -> Recipe:
    plain = _plain(recipe, BASELINE)
    settings: dict[str, dict[str, int | float | str]] = {**plain.objective_settings, "ce": {"over": "reference"}}
    return dataclasses.replace(plain, objective={**plain.objective, "ce": 1.0}, objective_settings=settings)


def _align_kd(recipe: Recipe) -> Recipe:
    plain = _plain(recipe, "align_kd")
    return dataclasses.replace(plain, trainer=dataclasses.replace(plain.trainer, attention="eager"))


_ALL = (
    Arm("jsd", "plain JSD, large teacher", lambda r: _plain(r, "jsd"), by_default=True),
    Arm("forward_kl", "plain forward KL, large teacher", lambda r: _plain(r, "forward_kl")),
    Arm("jsd_labels", "JSD + labels, large teacher", _labels),
    Arm("jsd_right", "JSD on right responses, large teacher", lambda r: _plain(r, "jsd", over="right")),
    Arm("mid", "+ mid teachers", lambda r: _unrewarded(_unmasked(r)), by_default=True),
    Arm("mask", "+ mid teachers + mask", _unrewarded, by_default=True),
    Arm("rewards", "+ mid teachers + rewards", _unmasked, rewarded=True, by_default=True),
    Arm("rewards_topr", "+ mid teachers + rewards + TOPR", lambda r: _topr(_unmasked(r)), rewarded=True),
    Arm("full", "full MASTERS", lambda r: r, rewarded=True, by_default=True),
    Arm("full_topr", "full MASTERS + TOPR", _topr, rewarded=True),
    Arm("full_without_distill", "full without R_distill", _without_distill, rewarded=True),
    Arm("full_without_mid", "full without mid teachers", _large, rewarded=True, by_default=True),
    Arm("taid", "TAID, large teacher", lambda r: _plain(r, "taid"), by_default=True),
    Arm("align_kd", "Align-KD, large teacher", _align_kd, by_default=True),
    Arm("image_weighted", "JSD weighed by the image, large teacher", lambda r: _plain(r, "image_weighted")),
)
ARMS: dict[str, Arm] = {arm.name: arm for arm in _ALL}
DEFAULT = tuple(arm.name for arm in _ALL if arm.by_default)
"""The paper's table, and two other methods."""


def arms_of(recipe: Recipe, names: Sequence[str] | None = None) -> dict[str, Recipe]:
    """The arms of a recipe; those that would be the same run as another one are left out, with a note if named.

    Args:
        recipe: Full MASTERS.
        names: Which; `DEFAULT` when None. The baseline, plain JSD, is always among them.
    Raises:
        EdgekitError: an unknown arm, or one with rewards of a recipe without them.
    """
    if unknown := sorted(set(names or ()) - set(ARMS)):
        raise EdgekitError(f"There is no arm {unknown[0]!r}.", fix=f"There are: {', '.join(ARMS)}.")
    wanted = {BASELINE, *(DEFAULT if names is None else names)}
    if not recipe.masters.grpo_weight and (rewarded := [n for n in ARMS if n in wanted and ARMS[n].rewarded]):
        if names is not None:
            raise EdgekitError(
                f"The arm {rewarded[0]!r} has rewards, and the recipe's masters.grpo_weight is 0.",
                why="An ablation takes parts away from full MASTERS.",
                fix="Add it:  --set masters.grpo_weight=1",
            )
        note(f"masters.grpo_weight is 0, so these arms are left out: {', '.join(rewarded)}.")
        wanted -= set(rewarded)
    made: dict[str, Recipe] = {}
    for name in (name for name in ARMS if name in wanted):
        arm = ARMS[name].change(recipe)
        same = next((other for other, there in made.items() if there.hash == arm.hash), None)
        if same is None:
            made[name] = arm
        elif names is not None:
            note(f"With this recipe the arm {name!r} is the same run as {same!r}, and is left out.")
    return made
