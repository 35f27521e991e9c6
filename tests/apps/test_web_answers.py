"""Whole answers by the web library and onnxruntime-web on Node.js, beside the bundle's own in Python."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_answers import asked, check, wanted
from web_library import ANSWERS, LIBRARY, node, package, run

from edgekit.data import Sample
from edgekit.demo.tiny import NAMES


def answered(bundle: Path, folder: Path, **task: Any) -> Any:
    return run(
        ANSWERS, [str(LIBRARY), str(package("onnxruntime-web") / "dist")], {"bundle": str(bundle), **task}, folder
    )


def test_the_library_is_well_typed() -> None:
    """tsc in strict mode over the library and the page, as they are."""
    command = [node(), str(package("typescript") / "bin" / "tsc"), "-p", str(LIBRARY.parent / "tsconfig.json")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0, checked.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_the_demo_answers_there_as_here(
    precision: str, demo_bundle: Callable[[str], Path], demo_questions: list[Sample], tmp_path: Path
) -> None:
    package("onnxruntime-web")
    bundle = demo_bundle(precision)
    found = answered(bundle, tmp_path, questions=asked(demo_questions))
    assert found["said"] == wanted(bundle, demo_questions)
    assert len({one["text"] for one in found["said"]}) > 8
    check(found["tested"])


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_every_family_gives_its_golden_vectors(
    family: str, family_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    package("onnxruntime-web")
    check(answered(family_bundle(family), tmp_path)["tested"])


@pytest.mark.slow
def test_a_prompt_in_pieces_is_the_same_prompt(
    demo_bundle: Callable[[str], Path], demo_questions: list[Sample], tmp_path: Path
) -> None:
    """As on the GPU, where onnxruntime-web is wrong for longer ones."""
    questions = asked(demo_questions[:10])
    whole, pieces = (
        answered(demo_bundle("fp32"), tmp_path, questions=questions, tests=False, piece=piece)["said"]
        for piece in (0, 24)
    )
    assert whole == pieces
