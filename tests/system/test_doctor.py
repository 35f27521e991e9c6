"""Extras: what `edgekit doctor` looks for is what pyproject.toml installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from edgekit.export import TARGETS
from edgekit.system import doctor

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", line)[0] for line in requirements}


def test_a_targets_packages_are_its_extras() -> None:
    extras = PROJECT["optional-dependencies"]
    for name, target in TARGETS.working():
        assert names(extras[target.extra]) == set(target.distributions()), name
        assert target.install() == f"pip install 'edgekit[{target.extra}]'"
    for extra, packages in doctor.OTHERS.items():
        assert names(extras[extra]) == set(packages)
    assert set(doctor.CORE) <= names(PROJECT["dependencies"])


def test_what_is_missing_is_named_with_its_command() -> None:
    rows = doctor.checks({"mine": (("numpy", "no-such"), "pip install numpy no-such"), "well": (("numpy",), "")})
    mine, well = (next(row for row in rows if row["name"] == f"extra {name}") for name in ("mine", "well"))
    assert not mine["ready"] and mine["detail"] == "not installed: no-such"
    assert mine["fix"] == "pip install numpy no-such" and well["ready"]


def test_no_target_claims_a_system_that_edgekit_does_not_run_on() -> None:
    """Processes are started with descriptors handed on and folders are locked, which Windows does not know."""
    for name, target in TARGETS.working():
        assert target.hosts == ("Linux", "Darwin"), name
