"""Calls into another process: answers, errors, and deaths."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DataError, EdgekitError, MissingExtraError
from edgekit.system.isolated import Isolated, ProcessDied, how_it_ended

CALLED = """
import os, signal, sys
from edgekit.errors import DataError, EdgekitError, MissingExtraError

class Own(EdgekitError):
    pass

def twice(value):
    print("a library's own words")
    os.write(1, b"and native ones\\n")
    return {"value": [value, value], "pid": os.getpid()}

def fails(kind):
    if kind == "extra":
        raise MissingExtraError("fly", "wings", "birds")
    if kind == "own":
        raise Own("mine")
    raise DataError("what", why="why", fix="fix")

def sleeps():
    import time
    time.sleep(60)

def dies(how):
    for line in range(30):
        print("line", line, file=sys.stderr, flush=True)
    if how == "bug":
        return {}["nothing"]
    if how == "exit":
        os._exit(0)
    os.kill(os.getpid(), getattr(signal, how))
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "called.py").write_text(CALLED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module("called")
    del sys.modules["called"]


def test_a_limit_of_time_and_a_quiet_one(called: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with Isolated(quiet=True) as isolated:
        isolated.call(called.twice, value=1, limit_s=60)
        with pytest.raises(ProcessDied, match=r"took longer than 0\.5 s, and was ended"):
            isolated.call(called.sleeps, limit_s=0.5)
        with pytest.raises(ProcessDied, match="SIGABRT: line 25 / line 26"):
            isolated.call(called.dies, how="SIGABRT")
    assert capfd.readouterr().err == ""


def test_answers_and_errors(called: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with Isolated() as isolated:
        first, second = (isolated.call(called.twice, value="ü") for _ in range(2))
        assert first == second and first["value"] == ["ü", "ü"] and first["pid"] != os.getpid()
        with pytest.raises(DataError) as caught:
            isolated.call(called.fails, kind="data")
        assert (caught.value.what, caught.value.why, caught.value.fix) == ("what", "why", "fix")
        with pytest.raises(MissingExtraError, match="Cannot fly here: wings is not installed"):
            isolated.call(called.fails, kind="extra")
        with pytest.raises(EdgekitError, match="mine"):
            isolated.call(called.fails, kind="own")
        assert isolated.call(called.twice, value=1)["pid"] == first["pid"]
    out, err = capfd.readouterr()
    assert out == "" and err.count("and native ones") == 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGSEGV", "was ended by SIGSEGV: line 25 / line 26"),
        ("SIGABRT", "was ended by SIGABRT: line 25"),
        ("exit", "ended before its work was done, with exit code 0: line 25"),
        ("bug", "ended with exit code 1: "),
    ],
)
def test_a_death_is_told_and_the_next_call_has_a_new_process(how: str, said: str, called: Any) -> None:
    with Isolated() as isolated:
        before = isolated.call(called.twice, value=1)["pid"]
        with pytest.raises(ProcessDied) as caught:
            isolated.call(called.dies, how=how)
        assert str(caught.value).startswith(f"its process {said}"), caught.value
        assert str(caught.value).endswith("KeyError: 'nothing'" if how == "bug" else "line 29")
        assert isolated.call(called.twice, value=1)["pid"] != before


def test_a_process_that_died_between_calls(called: Any) -> None:
    with Isolated() as isolated:
        os.kill(isolated.call(called.twice, value=1)["pid"], 9)
        with pytest.raises(ProcessDied, match="SIGKILL"):
            isolated.call(called.twice, value=2)


def test_a_function_that_no_name_leads_to() -> None:
    def inner() -> None:
        """Of this test."""

    for function in (inner, lambda: None, Own.method):
        with Isolated() as isolated, pytest.raises(ValueError, match="not found by name"):
            isolated.call(function)


class Own:
    """Whose method has no name of a module's."""

    def method(self) -> None:
        """Nothing."""


def test_how_it_ended() -> None:
    signals: Callable[[int], str] = lambda code: how_it_ended(code, [])  # noqa: E731
    assert signals(-11) == "its process was ended by SIGSEGV" and signals(-63) == "its process was ended by signal 63"
    assert signals(3) == "its process ended with exit code 3"
    assert how_it_ended(1, ["a", " ", "b \n", "c", "d", "e", "f"]).endswith("exit code 1: b / c / d / e / f")
