"""Ctrl-C and SIGTERM in processes of their own: said at once, obeyed at once the second time, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HEAD = """
import hashlib, subprocess, sys, threading, time
from pathlib import Path
from edgekit import cli, files
from edgekit.system import interrupts
def busy():  # in C, deaf to signals, for minutes; "ready" is said by a thread that can run only once that has begun
    begin = threading.Event()
    threading.Thread(target=lambda: begin.wait() and print("ready", flush=True), daemon=True).start()
    sys.setswitchinterval(1000)
    begin.set()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 300_000_000)
"""
TAIL = """
cli.build = lambda: work
cli.main()
"""


def start(work: str) -> subprocess.Popen[str]:
    """A process whose command does `work`, once it says that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + work + TAIL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n", process.communicate()
    return process


def line(process: subprocess.Popen[str]) -> str:
    """The next line on standard error that is not empty."""
    assert process.stderr is not None
    return next(text for text in process.stderr if text.strip()).strip()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_ends_a_deaf_process_its_children_and_what_it_wrote(tmp_path: Path, first: signal.Signals) -> None:
    process = start(f"""
def work():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
    interrupts.say("the sums")
    interrupts.DEAF_S = 60  # what ends it is the second signal
    with files.new_folder(Path({str(tmp_path / "out")!r})) as folder:
        (folder / "half").touch()
        busy()
""")
    begun = time.monotonic()
    process.send_signal(first)
    said = line(process)
    assert said.startswith({2: "Interrupted", 15: "Asked to end"}[first] + ": leaving the sums. Once more")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - begun < 5  # both; on an idle machine tenths of a second
    assert [path.name for path in tmp_path.iterdir()] == ["child"]
    child = int((tmp_path / "child").read_text())
    # Its SIGKILL is sent by then; on a busy machine it still waits for its turn to die.
    end = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_that_does_not_answer_is_ended_around_its_call() -> None:
    process = start("""
def work():
    interrupts.DEAF_S = 0.3
    busy()
""")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert process.stderr is not None and "does not come to an end by itself" in process.stderr.read()


def test_what_is_being_finished_comes_to_its_end_and_is_named() -> None:
    process = start("""
def work():
    with interrupts.finishing("step 3"):
        print("ready", flush=True)
        while not interrupts.asked():
            time.sleep(0.01)
        time.sleep(0.5)
        print("finished", flush=True)
    try:
        interrupts.check()
    finally:
        print("unwound", flush=True)
""")
    process.send_signal(signal.SIGINT)
    assert line(process).startswith("Interrupted: finishing step 3. Once more")
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("finished\nunwound\n", -signal.SIGINT)  # build() here makes no code of it


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_thread_that_waits_for_a_server_does_not_hold_the_end(number: signal.Signals, code: int) -> None:
    process = start("""
def work():
    threading.Thread(target=time.sleep, args=(600,)).start()
    try:
        print("ready", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        sys.exit(130)
""")
    begun = time.monotonic()
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == code
    assert time.monotonic() - begun < 10
