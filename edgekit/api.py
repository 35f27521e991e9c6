"""Every verb as a Python call of the same name; heavy imports happen inside the calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.console import note
from edgekit.errors import EdgekitError, RecipeError


# ------------------------------------------------------------------------------------------------- init, distill, demo


def parse_overrides(items: list[str]) -> dict[str, str]:
    """`KEY=VALUE` texts to a mapping.

    Raises:
        RecipeError: one has no `=`.
    """
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {item!r} is not KEY=VALUE.", fix="For example:  --set trainer.steps=400")
        pairs[key.strip()] = value
    return pairs


def init(
    folder: Path, *, teachers: list[str], student: str | None = None, train: str | None = None, test: str | None = None
) -> Path:
    """Write edgekit.yaml in a folder: the demo's recipe, or one for the given models and data.

    Returns:
        Path of the recipe.
    Raises:
        EdgekitError: one is there already, or only some of the four are given.
    """
    from edgekit.files import write_text
    from edgekit.recipe import Data, Export, Model, Recipe, demo_recipe_path, dump_recipe
    from edgekit.workspace import RECIPE_NAME

    path = folder / RECIPE_NAME
    if path.exists():
        raise EdgekitError(f"{path} exists already.", fix="Edit it, or name another folder.")
    if not (teachers or student or train or test):
        write_text(path, demo_recipe_path().read_text(encoding="utf-8"))
        return path
    if not (teachers and student and train and test):
        raise EdgekitError(
            "An own recipe needs --teacher, --student, --train and --test.", fix="Leave all four out for the demo's recipe."
        )
    exports = tuple(Export("onnx", precision) for precision in ("fp32", "fp16", "int8"))
    models = tuple(Model(teacher) for teacher in teachers)
    write_text(path, dump_recipe(Recipe(models, Model(student), Data(train, test), exports=exports)))
    return path


def distill(
    recipe: Path | None = None,
    *,
    name: str | None = None,
    fresh: bool = False,
    overrides: dict[str, str] | None = None,
    workspace: Path | None = None,
) -> dict[str, Any]:
    """Run MASTERS, or go on with the run this recipe has begun.

    Args:
        recipe: YAML file; the workspace's edgekit.yaml, else the built-in demo's, when None.
        name: Folder name of the run.
        fresh: A new run even where this recipe has one.
        overrides: Dotted key -> YAML text.
        workspace: The folder; found from the current one when None.
    Returns:
        The run's manifest.
    """
    from edgekit.distill.masters import distill_run
    from edgekit.recipe import demo_recipe_path, load_recipe
    from edgekit.workspace import Workspace

    place = Workspace.find(workspace or Path.cwd())
    path = recipe or place.recipe_path
    if recipe is None and not path.exists():
        path = demo_recipe_path()
        note(f"No edgekit.yaml in {place.folder}: using the built-in demo recipe (edgekit init writes it out).")
    resolved = load_recipe(path, overrides)
    run = place.open_run(resolved, name=name, fresh=fresh)
    note(f"Run {run.name!r} in {run.folder}")
    place.name_latest(run)
    return distill_run(run, resolved, place.folder if path == demo_recipe_path() else path.resolve().parent)


def demo_cards() -> dict[str, dict[str, Any]]:
    """The cards of the shipped demo models."""
    from edgekit.demo import cards

    return cards()


def demo_train(role: str, out: Path, work: Path, *, seed: int = 0, threads: int | None = None) -> dict[str, Any]:
    """Train a demo model from scratch; returns its card."""
    from edgekit.distill.demo_models import train

    return train(role, out, work, seed=seed, threads=threads)


def doctor() -> list[dict[str, Any]]:
    """What is ready on this machine, one row per thing."""
    from edgekit.doctor import checks

    return checks()
