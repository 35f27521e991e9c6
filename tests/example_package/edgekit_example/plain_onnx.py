"""A second runtime of a target that edgekit has one for: ONNX Runtime, by edgekit's own session."""

from __future__ import annotations

from pathlib import Path

from edgekit.runtimes import RUNTIMES, Runtime
from edgekit.runtimes.session import Session


def open_session(folder: Path, threads: int) -> Session:
    """edgekit's session, marked."""
    session = RUNTIMES.load("onnxruntime").open(folder, threads)
    session.notes = [*session.notes, "by the example package"]
    return session


RUNTIME = Runtime(targets=("onnx",), open_session=open_session, packages=("onnxruntime",))
