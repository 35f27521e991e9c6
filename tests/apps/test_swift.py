"""The library of iPhone apps, built and tested by Swift where there is a toolchain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests" / "apps" / "swift" / "run"
SKIPS = 77


@pytest.mark.slow
@pytest.mark.matrix  # the library is in the making: `make test-swift`
def test_the_library_and_its_answers(tmp_path: Path) -> None:
    work = os.environ.get("EDGEKIT_SWIFT_WORK", str(tmp_path))
    # Fetching a toolchain is for `make test-swift`: 2 GB, and nothing that a test should do by itself.
    given = {**os.environ, "PYTHON": sys.executable, "EDGEKIT_SWIFT_WORK": work, "EDGEKIT_SWIFT_FETCH": "no"}
    done = subprocess.run([str(RUN)], env=given, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == SKIPS:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "same ids" in done.stdout and "fit the stubs" in done.stdout
