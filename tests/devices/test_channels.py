"""What stands at the other end of a device's channel answers rubbish, half of something, too much, or nothing."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from edgekit import api
from edgekit.devices import WorkerGone, _adb, _apple, _line, android, ssh
from edgekit.devices._adb import Adb, AdbError
from edgekit.devices._line import Line, LineLost
from edgekit.errors import EdgekitError
from edgekit.system.timeouts import Timeouts

# ------------------------------------------------------------------------------------------------------------ adb


@contextmanager
def answering(*answers: bytes, hang: bool = False) -> Iterator[int]:
    """A server on the loopback that reads a request of each connection and sends these bytes; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                line, _ = listener.accept()
                with line, suppress(OSError):
                    for answer in answers:
                        line.recv(1 << 16)
                        line.sendall(answer)
                    if hang:
                        done.wait(20)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        done.set()
        listener.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"OK", b"zzzzzzzz", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"OKAY", b"OKAYzzzz", b"OKAY-001", b"OKAY 1 2",
        b"OKAY0x10", b"OKAY00ffshort", b"FAIL", b"FAIL\xff\xfe\xfd\xfc", b"FAIL0005a", b"\0" * 64,
        b"OKAY" + b"\xc3" * 4,
    ],
)  # fmt: skip
def test_a_server_that_is_not_adbs(answer: bytes) -> None:
    with answering(answer) as port:
        with pytest.raises(AdbError):
            Adb("", port).devices()
        (row,) = api.devices([f"android?port={port}"])
    assert not row.ready and row.detail


@pytest.mark.parametrize(
    "packets",
    [
        b"\x09\x01\0\0\0x", b"\x01\xff\xff\xff\xff", b"\x03\0\0\0\0", b"\x01\x05\0\0\0ab", b"\x01\x05", b"rubbish",
        b"\x01\0\0\0\x03" + b"x" * 70,
    ],
)  # fmt: skip
def test_a_shell_that_answers_rubbish(packets: bytes) -> None:
    with answering(b"OKAY", b"OKAY" + packets) as port, pytest.raises(AdbError):
        Adb("S", port).shell("true")


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adb, "TIMEOUT_S", 0.3)
    for answers in ((), (b"OKA",), (b"OKAY",)):
        with answering(*answers, hang=True) as port, pytest.raises(AdbError, match="says nothing any more"):
            Adb("", port).devices()


@pytest.mark.parametrize("port", ["0", "65536", "-1", "²", "x", "", "99999999999999999999", "1.5"])
def test_ports_that_are_none(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = api.devices([f"android?port={port}"])
    assert not row.ready and "which is no port" in row.detail
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
    with pytest.raises(AdbError, match="which is no port"):
        _adb.server_port()


def test_programs_on_the_phone_that_print_rubbish() -> None:
    speed = {"n_prompt": 8, "n_gen": 0}
    samples: list[list[object]] = [[], [0.0], [float("nan")], ["x"]]
    for text in ("", "x", *(json.dumps({**speed, "samples_ts": one}) for one in samples)):
        with pytest.raises(EdgekitError, match="printed no results"):
            android.llama_bench(text)
    for line in ("{}", "{x}", '{"SCALING_FACTOR_UNITS_PER_SECOND": 0}', '{"prompt_tokens": "many"}'):
        with pytest.raises(EdgekitError, match="says nothing"):
            android.observer(f"PyTorchObserver {line}\n")
    still = "".join(f"P{n} Latency: 0 s\n" for n in (50, 95, 99))
    for text in ("", still, still.replace("0 s", "1.2.3 s")):
        with pytest.raises(EdgekitError, match="no latencies above 0"):
            android.perf_test(text)


# ------------------------------------------------------------------------------------------------- the ssh agent

GREETING = 'edgekit-agent 1 {"place": "/p", "home": "/h", "python": "python3"}\\n'


def agent(says: str) -> list[str]:
    """A command that says something instead of being an agent; `say(text)` writes, `wait()` lasts."""
    return [sys.executable, "-c", f"""
import sys, time
def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()
wait = lambda: time.sleep(30)
{says}
"""]  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_line, "GREETING_S", 5.0)
    monkeypatch.setattr(_line, "SILENCE_S", 1.0)
    monkeypatch.setattr(_line, "LONGEST_LINE", 100_000)


@pytest.mark.parametrize(
    "says",
    [
        "say('edgekit-agent 1 rubbish\\n')", "say('edgekit-agent 1 []\\n')", "say('edgekit-agent 1 {}\\n')",
        "say('x' * 300000); wait()", "say('noise\\n' * 1000)", "say('edgekit-agent 1')", "pass",
        "say('edgekit-agent 1 ' + '[' * 90000 + '\\n')",
    ],
)  # fmt: skip
def test_no_agent_comes_up(says: str, short: None) -> None:
    begun = time.monotonic()
    with pytest.raises(LineLost):
        Line(agent(says), "board")
    assert time.monotonic() - begun < 20


def test_an_agent_that_never_speaks(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_line, "GREETING_S", 0.3)
    with pytest.raises(LineLost) as caught:
        Line(agent("wait()"), "board")
    assert "Nothing came for 0.3 s" in caught.value.why


@pytest.mark.parametrize(
    "answer",
    [
        "5\\n", "[]\\n", "null\\n", "rubbish\\n", '{"id": "x", "line": "a"}\\n', '{"id": 0}\\n',
        '{"id": 0, "line": 5}\\n',
        '{"id": 0, "exit": "x", "tail": []}\\n', '{"half": ', "{}\\n", '{"other": 1}\\n', "\\xff\\n",
    ],
)  # fmt: skip
def test_an_agent_that_answers_rubbish(answer: str, short: None) -> None:
    line = Line(agent(f"say('{GREETING}'); sys.stdin.buffer.read(1); say('{answer}'); time.sleep(0.5)"), "board")
    try:
        with pytest.raises(EdgekitError):
            line.ask("sweep", "left")
    finally:
        line.close()


def test_an_agent_that_falls_silent(short: None) -> None:
    line = Line(agent(f"say('{GREETING}'); wait()"), "board")
    try:
        with pytest.raises(LineLost, match="was lost"):
            line.ask("describe")
        with pytest.raises(TimeoutError):
            line.event(0, 0.2)
    finally:
        line._process.kill()
        line.close()


class Scripted:
    """A program on a board that prints these lines, and then nothing more, or ends."""

    def __init__(self, lines: list[str], ends: bool) -> None:
        self.lines, self.ends, self.code, self.tail, self.alive, self.killed = lines, ends, None, ["last"], True, False

    def write(self, text: str) -> None: ...

    def readline(self, seconds: float) -> str | None:
        if self.lines:
            return self.lines.pop(0)
        if self.ends:
            self.code = -9  # type: ignore[assignment]
            return None
        time.sleep(seconds)
        raise TimeoutError

    def kill(self) -> None:
        self.killed = True

    def finish(self, on_line: object, seconds: float) -> int:
        return 0


@pytest.mark.parametrize(
    ("lines", "ends", "said"),
    [
        ([], True, "its process on pi was ended by SIGKILL: last"),
        ([], False, "on pi: its start took longer than 0.5 s"),
        (["a login's noise", '{"ready": 1}', "rubbish"], False, "on pi: it sent b'rubbish' where a reply belongs"),
        (['{"ready": 1}', '{"reply": 1, "ok": 1, "more": 2}'], False, "on pi: it sent {"),
        (['{"ready": 1}'], False, "on pi: it was silent for longer than 0.5 s"),
    ],
)
def test_a_worker_on_a_board_that_goes_wrong(lines: list[str], ends: bool, said: str) -> None:
    board, process = ssh.Board.__new__(ssh.Board), Scripted(list(lines), ends)
    board.name = "pi"
    limits = Timeouts(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    worker = ssh.BoardWorker(board, None, process, "/p/job-0", limits)  # type: ignore[arg-type]
    with pytest.raises(WorkerGone) as caught:
        worker.call("load")
    assert caught.value.what.startswith(said), caught.value.what
    assert process.killed or ends


# ------------------------------------------------------------------------------------------- coremltools' remote


def test_a_phone_that_says_nothing() -> None:
    import asyncio

    with pytest.raises(EdgekitError, match=r"did not load the program within 0\.1 s"):
        asyncio.run(_apple._within(asyncio.sleep(5), 0.1, "load the program"))
    with pytest.raises(TimeoutError):
        _apple._in_time(lambda: time.sleep(5), 0.1)
    assert _apple._in_time(lambda: 5, 5) == 5
    with pytest.raises(KeyError):
        _apple._in_time(lambda: {}["x"], 5)


@pytest.mark.parametrize("nanoseconds", [None, 0, -1, float("nan"), float("inf"), "12"])
def test_durations_that_are_none(nanoseconds: object) -> None:
    with pytest.raises(EdgekitError, match="did not say how long"):
        _apple._ms(nanoseconds)  # type: ignore[arg-type]
