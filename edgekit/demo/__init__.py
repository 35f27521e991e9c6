"""The demo: its recipe, its models' cards and weights."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

ROLES = ("teacher", "mid", "student")


def cards() -> dict[str, dict[str, Any]]:
    """The card of each shipped demo model."""
    folder = Path(str(files("edgekit.demo") / "weights"))
    return {role: json.loads((folder / role / "card.json").read_text(encoding="utf-8")) for role in ROLES}
