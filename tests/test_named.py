"""What texts name exists: imports in scripts that tests start and in the documentation, and files of the project."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IMPORT = re.compile(r"^\s*(?:>>> )?from (edgekit(?:\.\w+)*) import \(?([\w, ]+)|^\s*import (edgekit(?:\.\w+)+)", re.M)
FOLDERS = ("edgekit", "distill", "export", "runtimes", "devices", "tests", "docs", "benchmarks")
FILE = re.compile(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w\.(?:py|md|yaml|sh))(?![\w/])")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    return [ROOT / line for line in listed.stdout.splitlines()]


def texts() -> Iterator[tuple[Path, str]]:
    """Every page, and every text that stands inside a Python file, f-strings with their holes as they stand."""
    for path in tracked("*.md", "Makefile"):
        yield path, path.read_text(encoding="utf-8")
    for path in (path for path in tracked("*.py") if path != Path(__file__)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value


def missing(text: str) -> list[str]:
    """Imports of edgekit in a text that would fail."""
    found = []
    for module, names, alone in IMPORT.findall(text):
        for name in [part.split(" as ")[0].strip() for part in names.split(",")] if module else [""]:
            try:
                loaded = importlib.import_module(module or alone)
                if name and not hasattr(loaded, name):
                    importlib.import_module(f"{module}.{name}")
            except ImportError as error:
                found.append(str(error))
    return found


def test_imports_in_texts_exist() -> None:
    assert {str(path.relative_to(ROOT)): wrong for path, text in texts() if (wrong := missing(text))} == {}


def test_a_module_that_moved_is_found() -> None:
    assert missing("x\nfrom edgekit import cli, interrupts\nimport edgekit.nowhere.at_all\n") == [
        "No module named 'edgekit.interrupts'",
        "No module named 'edgekit.nowhere'",
    ]
    assert missing("from edgekit.system import interrupts\nfrom edgekit.errors import EdgekitError as E\n") == []


def test_files_in_texts_exist() -> None:
    named = {(path.relative_to(ROOT).as_posix(), name) for path, text in texts() for name in FILE.findall(text)}
    assert len(named) > 20
    assert {(path, name) for path, name in named if "NAME" not in name and not (ROOT / name).exists()} == set()
