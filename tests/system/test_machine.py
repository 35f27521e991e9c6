"""Peak memory belongs to the process that asks, not to its parent."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from edgekit.system.machine import describe, peak_memory_bytes


def test_a_child_does_not_inherit_the_peak() -> None:
    big = np.ones(40_000_000)  # 320 MB in the parent
    code = (
        "from edgekit.system.machine import peak_memory_bytes as p; a = p(); b = bytearray(50_000_000); print(a, p())"
    )
    before, after = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert peak_memory_bytes() > big.nbytes > 2 * before
    assert 45_000_000 < after - before < 90_000_000


def test_describe() -> None:
    found = describe()
    assert found["cores"] >= 1 and found["memory_gib"] > 0 and found["cpu"]
