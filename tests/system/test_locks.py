"""Locks: between processes, and freed with them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgekit.system.locks import lock

HOLD = """
import os, sys
from edgekit.system.locks import lock
assert lock(os.open(sys.argv[1], os.O_RDONLY))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_another_process_holds_it_until_it_ends(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "here"
    place.touch() if kind == "file" else place.mkdir()
    descriptor = os.open(place, os.O_RDONLY)
    command = [sys.executable, "-c", HOLD, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert not lock(descriptor)
        waited: list[bool] = []
        thread = threading.Thread(target=lambda: waited.append(lock(descriptor, wait=True)))
        thread.start()
        thread.join(0.1)
        assert not waited  # it waits for as long as the other lives
        other.kill()
        thread.join(10)
    assert waited == [True]
    os.close(descriptor)


def test_what_is_no_open_file(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock(descriptor)
