"""The arms of an ablation: what each one changes in a recipe of full MASTERS, or in what such a one would be.

An arm keeps the questions, the number of student updates and the batch, so that arms differ in nothing but what their
name says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.console import note
from edgekit.errors import EdgekitError
from edgekit.recipe.model import Model, Recipe

BASELINE, LABELS = "jsd", "jsd_labels"
"""Plain distillation, without and with the labels: what an arm must be better than."""
OWN = "recipe"
"""The arm that changes nothing."""


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Attributes:
        name: As `--arms` takes it.
        title: What tables call it.
        change: The recipe -> that of this arm.
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
    if len(recipe.teachers) == 1:
        return recipe
    total = sum(recipe.steps(number) for number in range(len(recipe.teachers)))
    return dataclasses.replace(recipe, teachers=(dataclasses.replace(recipe.teachers[-1], steps=total),))


def _masters(recipe: Recipe, **settings: Any) -> Recipe:
    return dataclasses.replace(recipe, masters=dataclasses.replace(recipe.masters, **settings))


def full_masters(recipe: Recipe) -> Recipe:
    """The recipe itself; of plain distillation, the same with rewards, and JSD for its objective."""
    if recipe.masters.grpo_weight:
        return recipe
    own = recipe.objective_settings.get(BASELINE)
    paper = dataclasses.replace(
        recipe, objective={BASELINE: 1.0}, objective_settings={BASELINE: own} if own is not None else {}
    )
    return _masters(paper, grpo_weight=1.0)


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
    Arm("jsd_labels", "JSD + labels, large teacher", _labels, by_default=True),
    Arm("jsd_right", "JSD on right responses, large teacher", lambda r: _plain(r, "jsd", over="right")),
    Arm("mid", "+ mid teachers", lambda r: _unrewarded(_unmasked(full_masters(r))), by_default=True),
    Arm("mask", "+ mid teachers + mask", lambda r: _unrewarded(full_masters(r)), by_default=True),
    Arm("rewards", "+ mid teachers + rewards", lambda r: _unmasked(full_masters(r)), rewarded=True, by_default=True),
    Arm("rewards_topr", "+ mid teachers + rewards + TOPR", lambda r: _topr(_unmasked(full_masters(r))), rewarded=True),
    Arm("full", "full MASTERS", full_masters, rewarded=True, by_default=True),
    Arm("full_topr", "full MASTERS + TOPR", lambda r: _topr(full_masters(r)), rewarded=True),
    Arm("full_without_distill", "full without R_distill", lambda r: _without_distill(full_masters(r)), rewarded=True),
    Arm(
        "full_without_mid",
        "full without mid teachers",
        lambda r: _large(full_masters(r)),
        rewarded=True,
        by_default=True,
    ),
    Arm("taid", "TAID, large teacher", lambda r: _plain(r, "taid"), by_default=True),
    Arm("align_kd", "Align-KD, large teacher", _align_kd, by_default=True),
    Arm("image_weighted", "JSD weighed by the image, large teacher", lambda r: _plain(r, "image_weighted")),
    Arm(OWN, "the recipe as it is", lambda r: r, by_default=True),
)
ARMS: dict[str, Arm] = {arm.name: arm for arm in _ALL}
DEFAULT = tuple(arm.name for arm in _ALL if arm.by_default)
"""The paper's table, and two other methods."""


def arms_of(recipe: Recipe, names: Sequence[str] | None = None) -> dict[str, Recipe]:
    """The arms of a recipe; of those that come to the same run the first, with a note.

    Args:
        recipe: Full MASTERS, or plain distillation, whose rewards are turned on for the arms that need them.
        names: Which; `DEFAULT` when None. The baseline, plain JSD, is always among them.

    Raises:
        EdgekitError: an unknown arm.
    """
    if unknown := sorted(set(names or ()) - set(ARMS)):
        raise EdgekitError(f"There is no arm {unknown[0]!r}.", fix=f"There are: {', '.join(ARMS)}.")
    wanted = {BASELINE, *(DEFAULT if names is None else names)}
    made: dict[str, Recipe] = {}
    same: dict[str, str] = {}
    for name in (name for name in ARMS if name in wanted):
        arm = ARMS[name].change(recipe)
        twin = next((other for other, there in made.items() if there.hash == arm.hash), None)
        if twin is None:
            made[name] = arm
        else:
            same[name] = twin
    _tell(recipe, made, same)
    return made


def _tell(recipe: Recipe, made: Mapping[str, Recipe], same: Mapping[str, str]) -> None:
    """Say what the arms of this recipe are that their names do not say."""
    if not recipe.masters.grpo_weight and any(ARMS[name].rewarded for name in made):
        kept = f"; the arm {OWN!r} is it as it stands" if OWN in made else ""
        note(
            "The recipe is one of plain distillation (masters.grpo_weight is 0). Arms of MASTERS have rewards of "
            f"weight 1 and JSD for their objective{kept}."
        )
    if same:
        note("Run once, as they are the same with this recipe: " + ", ".join(f"{a} = {b}" for a, b in same.items()))
    masked = [name for name in (*made, *same) if name == "mask" or name.startswith("full")]
    if masked and not any(recipe.r_max(number) for number in range(len(recipe.teachers))):
        note("No arm has a mask, as r_max is 0: --set masters.mask.r_max=auto probes for one.")
