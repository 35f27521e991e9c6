"""Whether packages can be fetched: tests that install something are skipped where they cannot."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache

import pytest


@cache
def _answers() -> bool:
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", place, "paginate==0.5.7"]
        return subprocess.run(command, capture_output=True, timeout=300).returncode == 0


def need_package_index() -> None:
    """Skip the test where the index does not answer."""
    if not _answers():
        pytest.skip("the package index does not answer")
