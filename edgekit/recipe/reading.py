"""Recipes from YAML and to YAML, with `--set`; and what their settings are called and mean."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit import schema
from edgekit.errors import RecipeError
from edgekit.recipe.checks import missing_inputs, problems_of
from edgekit.recipe.model import Recipe
from edgekit.yaml_text import Document, below, read_yaml, read_yaml_file, write_yaml


def demo_recipe_path() -> Path:
    """The built-in demo recipe."""
    return Path(str(files("edgekit.demo") / "demo.yaml"))


def ablation_recipe_path() -> Path:
    """The built-in ablation's recipe."""
    return Path(str(files("edgekit.demo") / "ablation.yaml"))


def load_recipe(
    path: Path, overrides: Mapping[str, str] | None = None, *, base: Path | None = None, kept: bool = False
) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: Dotted key -> YAML text, as `--set trainer.steps=200` gives them.
        base: Look for models and data too; relative names of models start from there.
        kept: It was checked when its run began, perhaps by an older edgekit: only its shape is looked at.

    Raises:
        RecipeError: not there, no YAML, or problems, all of them listed with their lines.
    """
    document = read_yaml_file(path, "the recipe", RecipeError)
    for key, override in (overrides or {}).items():
        _override(document, key, override)
    return _resolved(document, str(path), base, kept)


def read_recipe(value: Any, source: str = "recipe", *, kept: bool = False) -> Recipe:
    """A recipe from the value of its YAML; `kept` as in `load_recipe`.

    Raises:
        RecipeError: listing every problem.
    """
    return _resolved(Document(value), source, kept=kept)


def _resolved(document: Document, source: str, base: Path | None = None, kept: bool = False) -> Recipe:
    problems: list[str] = []
    recipe = schema.read(Recipe, document.value, problems)
    if recipe is not None and not kept:
        problems = problems_of(recipe)
        problems += missing_inputs(recipe, base) if base is not None else []
    problems = document.all_problems(problems)
    if recipe is None or problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise RecipeError(f"{source} has {count}:", why="\n".join(problems))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """YAML of a recipe with every setting spelled out."""
    return write_yaml(schema.to_json(recipe))


def _override(document: Document, key: str, text: str) -> None:
    """Put the value of one `--set` into a document."""
    keys = [name for name in re.split(r"[.\[\]]+", key) if name]
    path = "".join(f"[{name}]" if name.isdigit() else f".{name}" for name in keys).lstrip(".")
    if not keys:
        raise RecipeError(f"--set {key!r} names no setting.", fix="For example:  --set trainer.steps=400")
    given = read_yaml(text, f"--set {key}={text[:60]}", RecipeError, path=path, line="--set")
    if document.value is None:
        document.value = {}
    _set(document.value, keys, key, given.value)
    for old in below(document.lines, path):
        del document.lines[old]
        document.spelled.pop(old, None)
    document.lines |= given.lines
    document.spelled |= given.spelled
    document.problems += given.problems
    document.flawed |= given.flawed


def _set(value: Any, keys: list[str], dotted: str, item: Any) -> None:
    for key in keys[:-1]:
        if isinstance(value, dict):
            if value.get(key) is None:
                value[key] = {}
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise RecipeError(f"--set {dotted}: there is no {key!r} to set something in.")
    if isinstance(value, list) and keys[-1].isdigit() and int(keys[-1]) < len(value):
        value[int(keys[-1])] = item
    elif isinstance(value, dict):
        value[keys[-1]] = item
    else:
        raise RecipeError(f"--set {dotted}: there is no {keys[-1]!r} to set.")


def describe_settings() -> list[tuple[str, str, str]]:
    """(dotted key, default, doc) of every setting, for `edgekit init` and the documentation."""
    return list(_describe(Recipe, ""))


def _describe(cls: type[Any], prefix: str) -> list[tuple[str, str, str]]:
    import typing

    hints, docs = typing.get_type_hints(cls), schema.field_docs(cls)  # type: ignore[arg-type]
    rows: list[tuple[str, str, str]] = []
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            rows += _describe(hint, f"{prefix}{schema.key_of(item)}.")
            continue
        default = item.default if item.default is not dataclasses.MISSING else None
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        shown = "" if default is None else str(schema.to_json(default))
        rows.append((f"{prefix}{schema.key_of(item)}", shown, docs.get(item.name, "")))
    return rows
