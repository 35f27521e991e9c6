"""Judging by tolerances: each stands on its precision (`edgekit.precision`, or a target's), declared before anything
is measured (Olive's habit, and the Core AI zoo's)."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import TypeVar

from edgekit.console import Bar, progress
from edgekit.errors import EdgekitError
from edgekit.precision import COMMON, CommonPrecision, TargetPrecision, Tolerances, by_part, is_mixed
from edgekit.precision import UPPER as UPPER_TOKENS
from edgekit.recipe.model import TARGETS
from edgekit.registry import BrokenPlugInError

T = TypeVar("T")
COMPONENTS = ("vision", "embedding", "decoder")
# Whatever the precision: the runtime must see the image and the words that PyTorch sees.
ALWAYS = {"pixel_max_abs": 1e-5, "prompt_ids_equal": 1.0, "parameters_equal": 1.0}
# Prompts of a comparison, unless the caller says how many. One token of 64 cannot tell 98 % from 99 %, so short answers
# need more of them: without a miss in 300 tokens the true share is above 99 % with 95 % confidence (the rule of three).
PROMPTS, MOST_PROMPTS, TOKENS = 32, 160, 300
UPPER = frozenset({*UPPER_TOKENS, "pixel_max_abs"})


def tolerances_of(precision: str, target: str = "") -> Mapping[str, float]:
    """The tolerances of a precision, by its common name; of a mixture the loosest of its parts'.

    Args:
        precision: Common name, or a mixture.
        target: Whose precision it is; its own tolerances go before the common ones.

    Raises:
        EdgekitError: none are declared, so nothing could be judged.
    """
    named = sorted(set(by_part(precision).values())) if is_mixed(precision) else [precision]
    held = [_of(one, target).trained for one in named]
    # Without a tolerance on single tokens every answer must be the same: nothing is stricter.
    return min(held, key=lambda tolerances: tolerances.get("top1_agreement", 1.0))


def random_tolerances_of(precision: str, target: str = "") -> Mapping[str, float]:
    """The tolerances of a precision for a model with random weights.

    Args:
        precision: Common name.
        target: As for `tolerances_of`.

    Raises:
        EdgekitError: none are declared.
    """
    return _of(precision, target).random


def component_tolerances(precision: str, target: str = "", parts: Mapping[str, str] | None = None) -> dict[str, float]:
    """The tolerances of each module: its output's signal over error, dB.

    Args:
        precision: Common name; of a mixture each module is held to its own part's.
        target: As for `tolerances_of`.
        parts: What a bundle says of vision, embedding and text itself, for a target that means another by it.
    """
    commons = {name: one.common for name, one in _known_to(target).items()} if precision not in COMMON else {}
    given = {**by_part(precision, {**COMMON, **commons}), **(parts or {})}
    named = {name: given["text" if name == "decoder" else name] for name in COMPONENTS}
    own = {name: _find(one, target) for name, one in named.items()}
    return {f"{name}_snr_db": held.snr_db for name, held in own.items() if held is not None}


def _of(precision: str, target: str) -> Tolerances:
    held = _find(precision, target)
    if held is None:
        raise EdgekitError(
            f"No tolerances are declared for precision {precision!r}" + (f" of target {target!r}." if target else "."),
            fix=f"There are: {', '.join({**COMMON, **_known_to(target)})}.",
        )
    return held


def _find(precision: str, target: str) -> Tolerances | None:
    """What a precision of a target is held to: as the target declares it, else, or where that is broken, as its name
    says."""
    try:
        found: TargetPrecision | CommonPrecision | None = _known_to(target).get(precision)
    except BrokenPlugInError:
        found = None
    found = found or COMMON.get(precision)
    return None if found is None else found.tolerances


def _known_to(target: str) -> dict[str, TargetPrecision]:
    """Every precision that a target declares, by name; none of a target that is not there."""
    if target not in TARGETS.names():
        return {}
    found = TARGETS.load(target)
    parts = [one for part in (found.parts or {}).values() for one in part.items()]
    return {**dict(parts), **found.precisions}


def judge(
    figures: Mapping[str, float | None], tolerances: Mapping[str, float]
) -> dict[str, dict[str, float | bool | None]]:
    """Each tolerance with the figure it is for, and whether it holds; None, a figure that is not finite, holds none."""
    return {
        name: {"value": figures[name], "bar": tolerance, "held": _held(name, figures[name], tolerance)}
        for name, tolerance in tolerances.items()
    }


def settling(prompts: Iterable[T], tokens: Sized, label: str, *, count: int | None = None) -> Iterator[T]:
    """The prompts of a comparison, with progress.

    Without a count it is known after the first `PROMPTS`, from the length of the reference's answers alone, whatever
    the other side said: enough for `TOKENS` tokens, at most `MOST_PROMPTS`.

    Args:
        prompts: Lazy is fine.
        tokens: Grows by one for each token of the reference's answers.
        label: Of the progress.
        count: Exactly so many, where there are.
    """
    left = iter(prompts)
    with progress() as bar:
        done = yield from _shown(left, count or PROMPTS, bar, label)
        wanted = min(MOST_PROMPTS, math.ceil(TOKENS * done / max(len(tokens), 1))) - done
        if count is None and done == PROMPTS and wanted > 0:
            yield from _shown(left, wanted, bar, f"{label}, more for short answers")


def _shown(prompts: Iterator[T], count: int, bar: Bar, label: str) -> Generator[T, None, int]:
    task, number = bar.add_task(label, total=count), 0
    for number, prompt in enumerate(islice(prompts, count), 1):
        yield prompt
        bar.update(task, completed=number)
    return number


def _held(name: str, value: float | None, tolerance: float) -> bool:
    if value is None:
        return False
    return value <= tolerance if name in UPPER else value >= tolerance
