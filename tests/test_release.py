"""Version, changelog, citation and the files that public tools read say the same. Needs pytest alone."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def version() -> str:
    """`edgekit.__version__`, read and not imported, as the build reads it."""
    tree = ast.parse((ROOT / "edgekit/__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__version__"
        ):
            return str(ast.literal_eval(node.value))
    raise AssertionError("edgekit/__init__.py has no __version__")


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## (\S+) \(([^)]+)\)$", text, re.MULTILINE)
    assert first is not None and first[1] == version()
    tag = os.environ.get("EDGEKIT_TAG")  # of a release
    if tag is not None:
        assert tag == f"v{version()}" and re.fullmatch(r"\d{4}-\d\d-\d\d", first[2]), "a release has a date"


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version()}\n" in text


def test_a_commit_is_held_to_what_make_test_is_held_to() -> None:
    """Each thing that `make test` needs before its tests is a hook, and each hook is one of the Makefile's."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    needed = re.search(r"^test: ((?!export)[a-z ]+)$", makefile, re.MULTILINE)
    hooks = re.findall(r"entry: make -s (\w+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert needed is not None and needed[1].split() == hooks
    assert all(re.search(rf"^{hook}:", makefile, re.MULTILINE) for hook in hooks)


def test_public_checks_run_files_that_are_there() -> None:
    yaml = pytest.importorskip("yaml", reason="the release workflow installs pytest alone")
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        commands = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
        named = re.findall(r"(?:tests/\S+\.py|\.ci/run|constraints\.txt)", commands)
        assert named and all((ROOT / name).exists() for name in named), path.name
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= form.keys() and all("type" in part for part in form["body"])
