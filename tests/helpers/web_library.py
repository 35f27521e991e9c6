"""The web library's pure functions on Node.js, called from Python."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "edgekit" / "apps" / "web" / "edgekit"
CALLS = ROOT / "tests" / "apps" / "web" / "call.mjs"
ANSWERS, BROWSER = CALLS.with_name("answer.mjs"), CALLS.with_name("browser.mjs")
MODULES = CALLS.parent / "node_modules"
OLDEST = 20
SETUP = "make setup-web installs it"


def node() -> str:
    """Path of node; a skip with its reason where there is none, or one too old."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node.js is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"Node.js is {version}, and {OLDEST} is needed")
    return found


def package(name: str) -> Path:
    """Folder of an npm package that the tests need; a skip with its reason where it is not installed."""
    if not (MODULES / name / "package.json").is_file():
        pytest.skip(f"{name} is not installed ({SETUP})")
    return MODULES / name


def chromium() -> str:
    """Path of Chromium; a skip with its reason where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip(f"Chromium is not installed ({SETUP})")
    return found


def run(script: Path, arguments: Sequence[str], task: dict[str, Any], folder: Path, timeout_s: float = 600) -> Any:
    """What a script of tests/apps/web prints, of a task in a file that is its last argument."""
    path = folder / "task.json"
    path.write_text(json.dumps(task))
    command = [node(), str(script), *arguments, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=timeout_s)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


def ask(calls: Sequence[dict[str, Any]], folder: Path) -> list[Any]:
    """The results of calls, in order; one that was refused is {"error": name, "message": text}.

    Args:
        calls: Each with `call`, a name in call.mjs, and its arguments.
        folder: For the file that they travel in.
    """
    path = folder / "asked.json"
    path.write_text(json.dumps(calls))
    ran = subprocess.run(
        [node(), str(CALLS), str(LIBRARY), str(path)], capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [one.get("ok", one) for one in json.loads(ran.stdout)]


def base64_of(array: NDArray[Any]) -> str:
    """The bytes of an array, C order."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def array_of(text: str, dtype: Any) -> NDArray[Any]:
    """A flat array from `base64_of`."""
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def image_of(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """uint8 (H, W, 3) as call.mjs takes it."""
    return {"width": pixels.shape[1], "height": pixels.shape[0], "rgb": base64_of(pixels)}
