"""Bundles of the other targets that lie: each ends in one message and exit code 1, and no native code ends Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hostile
import pytest
from hostile import checkpoint, coreai, coreml, executorch, fits, gguf

PRECISIONS = {"coreai": "fp32", "coreml": "fp16", "executorch": "fp32", "gguf": "fp32"}
OWN = {"coreai": coreai, "coreml": coreml, "executorch": executorch, "gguf": gguf}
CASES = {target: dict([*fits.of(target), *module.cases()]) for target, module in OWN.items()}
CHECKPOINTS = dict(checkpoint.cases())
# What no answer depends on, or what a program does not say of itself; components of one file may be exchanged.
ALL_OF_ONE = ("two components are one", "two components are exchanged")
HARMLESS = {
    "executorch": (
        *ALL_OF_ONE, "heads that are not its own", "heads as wide as can be", "heads and inputs as wide as can be",
        "heads and inputs wider by one", "encoder and decoder are exchanged", "encoder and embedding are exchanged",
        "an unknown family",
    ),
    "gguf": (*ALL_OF_ONE, "a component that nobody asks for", "a grid that no image has"),
    "coreml": ("an unknown family",),
    "coreai": ("an unknown family",),
}  # fmt: skip
DRAWN = 6
"""Cases of a target that CI tries; the others are rows of the matrix."""


@pytest.fixture(scope="session")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A target's bundle of the tiny checkpoint, made once; do not write into it."""
    from exporting import export_checkpoint

    from edgekit.export import TARGETS

    made: dict[str, Path] = {}

    def get(target: str) -> Path:
        if missing := [name for name in TARGETS.load(target).packages if find_spec(name) is None]:
            pytest.skip(f"{missing[0]} is not installed")
        if target not in made:
            place = tmp_path_factory.mktemp(target) / target
            made[target] = export_checkpoint(tiny_checkpoint, target, PRECISIONS[target], place, prompts=1).folder
        return made[target]

    return get


def _rows(verb: str) -> Iterator[Any]:
    for target, cases in CASES.items():
        drawn = set(random.Random(f"{verb} {target}").sample(sorted(cases), min(DRAWN, len(cases))))
        for name in cases:
            marks = [pytest.mark.slow] if name in drawn else [pytest.mark.slow, pytest.mark.matrix]
            yield pytest.param(target, name, marks=marks, id=f"{target}: {name}")


@pytest.mark.parametrize(("target", "name"), _rows("run"))
def test_run_refuses(target: str, name: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """What its own files hold may be harmless, such as a size that nobody asks for; what the manifest says is not."""
    bundle = hostile.changed(CASES[target][name], exported(target), tmp_path)
    harmless = name not in dict(fits.of(target)) or name in HARMLESS[target]
    hostile.check(hostile.forked("run", bundle, tmp_path), codes=(0, 1) if harmless else (1,))


@pytest.mark.parametrize(("target", "name"), _rows("inspect"))
def test_inspect_ends_well(target: str, name: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = hostile.changed(CASES[target][name], exported(target), tmp_path)
    hostile.check(hostile.forked("inspect", bundle, tmp_path), codes=(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("target", PRECISIONS)
def test_an_honest_bundle_is_run_and_looked_into(target: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = hostile.changed(lambda folder: None, exported(target), tmp_path)
    for verb in ("run", "inspect"):
        found = hostile.forked(verb, bundle, tmp_path)
        assert found.code == 0 and found.outside == (), (verb, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_that_claim_what_is_not_there(name: str, tiny_checkpoint: Path) -> None:
    from edgekit.checkpoint.tensors import check_tensors
    from edgekit.errors import CheckpointError

    with TemporaryDirectory() as place:
        folder = hostile.changed(CHECKPOINTS[name], tiny_checkpoint, Path(place))
        with pytest.raises(CheckpointError) as caught:
            check_tensors(folder)
        assert len(str(caught.value)) < 20_000
