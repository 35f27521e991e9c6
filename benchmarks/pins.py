"""What constraints.txt holds back, and whether docs/pins.md says why. Asks the package index.

    python benchmarks/pins.py

Exit code 1 where a package of a target is behind by more than docs/pins.md tells of.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = ("coreml", "onnx", "genai", "executorch", "gguf", "coreai")
"""Of pyproject.toml: the five targets."""
CORE = ("torch", "transformers")
"""Packages that every target needs, of which newer ones cost something."""


@dataclass(frozen=True)
class Row:
    """One line of docs/pins.md."""

    name: str
    pinned: str
    newest: str
    reason: str


def pins() -> dict[str, str]:
    """Versions of constraints.txt by name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def requirements() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks of each package of a target, and of torch and transformers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    found: dict[str, list[Requirement]] = {}
    for one in map(Requirement, [*project["dependencies"], *texts]):
        name = canonicalize_name(one.name)
        if name != "edgekit" and (name in CORE or str(one) in map(str, map(Requirement, texts))):
            found.setdefault(name, []).append(one)
    return found


def documented() -> tuple[str, list[Row]]:
    """The date of docs/pins.md, as it stands there, and its rows."""
    text = (ROOT / "docs" / "pins.md").read_text(encoding="utf-8")
    day = re.search(r"newest on (\d{4}-\d{2}-\d{2})", text)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return day[1] if day else "", [Row(*cells) for cells in lines[2:]]


def unexplained(newest: dict[str, str], rows: list[Row]) -> list[str]:
    """Packages of which there is a newer version than docs/pins.md tells of."""
    told = {canonicalize_name(row.name): row for row in rows}
    return [
        f"{name}: {version} is there, docs/pins.md tells of {told[name].newest if name in told else 'none'}"
        for name, version in newest.items()
        if name not in told or Version(version) > Version(told[name].newest)
    ]


def main() -> None:
    """Ask the index, and print what is behind."""
    command = [sys.executable, "-m", "pip", "list", "--outdated", "--format", "json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    newest = {canonicalize_name(one["name"]): one["latest_version"] for one in json.loads(answer)}
    (day, rows), pinned, wanted = documented(), pins(), requirements()
    reasons = {canonicalize_name(row.name): row.reason for row in rows}
    for name, version in newest.items():
        if name in pinned:
            print(f"{name}: {pinned[name]}, newest {version}  {reasons.get(name, 'of no target')}")
    problems = unexplained({name: version for name, version in newest.items() if name in wanted}, rows)
    print(f"docs/pins.md is of {day}", *problems, sep="\n")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
