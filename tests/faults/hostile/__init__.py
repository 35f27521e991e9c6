"""Bundles that lie, as data: what is changed (a field, a file), into what, and what a verb must make of it.

    @pytest.mark.parametrize("name", hostile.CASES)
    def test_it(name, tiny_bundle, tmp_path):
        bundle = hostile.made(name, tiny_bundle, tmp_path)
        hostile.check(hostile.forked("run", bundle, tmp_path))

Every case ends in one message that names the field or file, exit code 1, no traceback, within bounds of time and
memory, and nothing is written outside of the bundle's folder. `forked` runs a verb in a fork of this process, where
everything is imported already; `apart` in a process of its own, as a user does. Manifests are sealed after the change:
a seal shows what went wrong on the way, and keeps nobody from writing another manifest.

The rooms: `running` runs a verb, `changes` are the tools of a case, `manifest`, `fits` and `files` hold the cases.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hostile import files, fits, manifest
from hostile.changes import Change, deep, put, setting
from hostile.manifest import HOLDERS, NUMBERS, TEXTS
from hostile.running import Outcome, apart, check, forked, forked_words

__all__ = [
    "CASES", "HOLDERS", "NUMBERS", "TEXTS", "Change", "Outcome", "apart", "changed", "check", "deep", "forked",
    "forked_words", "made", "put", "setting",
]  # fmt: skip

CASES: dict[str, Change] = dict([*manifest.cases(), *fits.cases(), *files.cases()])


def made(name: str, bundle: Path, place: Path) -> Path:
    """A copy of a bundle with a case's change, alone in a folder of its own."""
    return changed(CASES[name], bundle, place)


def changed(change: Change, bundle: Path, place: Path) -> Path:
    """As `made`, of a change that has no name."""
    folder = place / "inside" / "bundle"
    shutil.copytree(bundle, folder)
    change(folder)
    return folder
