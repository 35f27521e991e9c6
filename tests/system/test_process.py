"""Processes of edgekit's own: what goes to them and back, limits of time, deaths, and what they printed."""

from __future__ import annotations

import gc
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from edgekit.system import pipes
from edgekit.system.frames import SMALL, filled_from, pack, send, unpack
from edgekit.system.pipes import ROOM, Patience
from edgekit.system.process import Process, how_it_ended

TOY = """
import os, signal, sys, time
from edgekit.system.frames import filled_from, send, unpack

print("up with", os.environ.get("WORD"), sys.argv[1], flush=True)
os.write(2, b"native words\\n")
source, sink = os.fdopen(int(sys.argv[2]), "rb"), os.fdopen(int(sys.argv[3]), "wb")
while True:
    try:
        head, arrays = unpack(filled_from(source))
    except EOFError:
        print("asked to end", flush=True)
        break
    if head["do"] == "sleep":
        time.sleep(60)
    if head["do"] == "die":
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    send(sink, head, arrays)
if sys.argv[1] == "deaf":
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_of_process.py").write_text(TOY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


def ask(process: Process, do: str, seconds: float = 60.0, **arrays: Any) -> dict[str, Any]:
    patience = Patience(seconds)
    for piece in pack({"do": do}, arrays):
        process.write(piece, patience)
    header, found = unpack(lambda place: process.read_into(place, patience))
    assert header == {"do": do}
    return found


def test_there_and_back_and_what_it_prints(tmp_path: Path) -> None:
    process = Process("toy_of_process", "one", env={"WORD": "hello"}, log=tmp_path / "log.txt")
    large = np.random.default_rng(0).standard_normal(1 << 20)  # more than a pipe holds, both ways
    np.testing.assert_array_equal(ask(process, "echo", value=large)["value"], large)
    assert process.all_printed().splitlines() == ["up with hello one", "native words"]
    assert not process.ended() and process.end() == 0 and process.ended()
    assert process.printed() == ["up with hello one", "native words", "asked to end"]  # read after its file is closed
    assert (tmp_path / "log.txt").read_text().count("\n") == 3 and process.end() == 0


def test_a_death_and_its_last_words() -> None:
    heard: list[str] = []
    process = Process("toy_of_process", "two", on_line=heard.append)
    with pytest.raises(EOFError):
        ask(process, "die")
    said = how_it_ended(process.wait_end(), process.printed())
    assert said == "its process was ended by SIGSEGV: up with None two / native words / last words"
    assert [line.strip() for line in heard] == ["up with None two", "native words", "last words"]
    with pytest.raises(BrokenPipeError):
        ask(process, "echo")
    process.tell("nobody")  # says nothing: it is found out where it is read
    assert process.read_line(5) is None and process.end() == -11


def test_limits_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process("toy_of_process", "deaf")
    with pytest.raises(TimeoutError):
        ask(process, "sleep", 0.2)
    with pytest.raises(TimeoutError):  # more than the pipe takes, and nobody reads it
        process.write(bytes(2 * ROOM), Patience(0.2))
    monkeypatch.setattr("edgekit.system.process.PATIENCE_S", 0.1)
    assert process.end() == -9


def open_descriptors() -> int:
    gc.collect()  # what earlier tests left is none of ours
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) if sys.platform == "linux" else 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_one_that_nobody_ended_ends() -> None:
    process = Process("toy_of_process", "one")
    pid = process.pid
    del process
    gc.collect()
    end = time.monotonic() + 20
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # its input was closed with the object
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        Process("toy_of_process", on_line=print)
    assert open_descriptors() <= before


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of waiting, the first of which lasts an hour, since the process was stopped."""
    now = [0.0]
    asked = []

    def select(reading: Any, writing: Any, rest: Any, seconds: float) -> Any:
        asked.append(seconds)
        now[0] += 3600.0 if len(asked) == 1 else seconds
        return [], [], []

    monkeypatch.setattr(pipes.select, "select", select)
    monkeypatch.setattr(pipes.time, "monotonic", lambda: now[0])
    with pytest.raises(TimeoutError):
        pipes.Patience(2.5).wait([0], [])
    assert asked == [1.0, 1.0, 0.5]


def test_frames() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": np.zeros((0, 4), np.int32),
        "c": np.array(2.5),
    }
    arrays["t"] = np.arange(6).reshape(2, 3).T
    assert len(pack({"what": "run"}, arrays)) == 1
    arrays["large"] = np.zeros(SMALL + 1, np.uint8)
    assert len(pack({"what": "run"}, arrays)) == 5  # the header, and each that is not empty
    stream = io.BytesIO()
    send(stream, {"what": "run"}, arrays)
    whole = stream.getvalue()
    header, found = unpack(filled_from(io.BytesIO(whole)))
    assert header == {"what": "run"} and list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    for cut in (0, 3, 10, len(whole) - 1):
        with pytest.raises(EOFError):
            unpack(filled_from(io.BytesIO(whole[:cut])))
