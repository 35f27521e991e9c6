"""The demo: its recipes, its models' cards and weights."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError

RECIPES = {"demo:scenes": "scenes.yaml"}
"""Built-in recipes that commands take by name; that of the demo itself is taken where there is none."""


def roles() -> list[str]:
    """Names of the shipped models, behind `demo:`."""
    return sorted(path.parent.name for path in (Path(str(files("edgekit.demo"))) / "weights").glob("*/card.json"))


def cards() -> dict[str, dict[str, Any]]:
    """The card of each shipped demo model."""
    folder = Path(str(files("edgekit.demo") / "weights"))
    return {role: json.loads((folder / role / "card.json").read_text(encoding="utf-8")) for role in roles()}


def recipe_named(name: str) -> Path | None:
    """The built-in recipe of that name; None for what is no such name.

    Raises:
        RecipeError: it begins as one and is none.
    """
    if not name.startswith("demo:"):
        return None
    if name not in RECIPES:
        raise RecipeError(f"There is no built-in recipe {name!r}.", fix=f"There are: {', '.join(RECIPES)}.")
    return Path(str(files("edgekit.demo") / RECIPES[name]))
