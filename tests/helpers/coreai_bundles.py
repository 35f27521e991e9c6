"""Core AI bundles of the demo's student, for the tests of their export and of what runs them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from exporting import export_checkpoint
from once import made_once

from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.data import samples
from edgekit.runtimes import RUNTIMES

needs_coreai = pytest.mark.skipif(
    find_spec("coreai") is None or find_spec("coreai_torch") is None or find_spec("coreai_opt") is None,
    reason="Core AI's packages are not installed (wheels for Linux with glibc 2.34 and macOS, Python 3.11 to 3.13): "
    "pip install 'edgekit[coreai]'",
)


def made(precision: str, folder: Path, count: int = 6) -> Bundle:
    """The demo's student: a trained model, so that equal answers prove something."""
    questions = list(samples("easy-vqa:test", limit=count))
    return export_checkpoint(resolve_checkpoint("demo:student"), "coreai", precision, folder, samples=questions)


def shared_twin(factory: pytest.TempPathFactory) -> Bundle:
    """The student in fp32, made once for all files; do not write into it."""
    return Bundle.load(made_once("coreai-fp32", factory, lambda folder: made("fp32", folder)))


def opened(folder: Path, **limits: float) -> Any:
    return RUNTIMES.load("coreai").open_session(folder, 1, **limits)
