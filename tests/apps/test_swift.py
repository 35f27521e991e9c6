"""The library of iPhone apps, built and tested by Swift where there is a toolchain."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests" / "apps" / "swift" / "run"
TOOLCHAIN = RUN.with_name("toolchain")
SKIPS = 77


@pytest.mark.slow
@pytest.mark.matrix  # minutes of exports and of a compiler: `make test-swift`
def test_the_library_and_its_answers(tmp_path: Path) -> None:
    work = os.environ.get("EDGEKIT_SWIFT_WORK", str(tmp_path))
    # Fetching a toolchain is for `make test-swift`: 2.8 GB, and nothing that a test should do by itself.
    given = {**os.environ, "PYTHON": sys.executable, "EDGEKIT_SWIFT_WORK": work, "EDGEKIT_SWIFT_FETCH": "no"}
    done = subprocess.run([str(RUN)], env=given, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == SKIPS:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.count("questions with the same ids") == 4 and "fit the stubs" in done.stdout


def test_without_a_toolchain_it_says_what_to_do(tmp_path: Path) -> None:
    """No swift, nothing fetched: a reason and status 77, which the test above takes for a skip."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("env", "bash", "id", "uname", "unshare", "realpath", "true"):
        if there := shutil.which(name):
            (tools / name).symlink_to(there)
    given = {"PATH": str(tools), "HOME": str(tmp_path), "EDGEKIT_SWIFT_ROOT": str(tmp_path / "root")}
    for more, words in (
        ({"EDGEKIT_SWIFT_FETCH": "no"}, "make test-swift fetches it once"),
        ({}, "apt-get install debootstrap"),
    ):
        done = subprocess.run(
            [str(TOOLCHAIN), "--", "swift", "--version"],
            env={**given, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == SKIPS and not done.stdout
        if sys.platform != "linux" or os.geteuid() != 0:
            words = "needs root" if sys.platform == "linux" else "install Xcode"
        assert words in done.stderr or "no mounts" in done.stderr, done.stderr
    assert not (tmp_path / "root").exists()
