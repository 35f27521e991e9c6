"""The edgekit end on a board: holds a folder, runs what it is told, and takes the folder away when the line goes.

Sent as source and run by the board's own Python (3.8 or newer, standard library only): nothing of edgekit is
imported. Commands come as JSON lines on standard input, answers go out as JSON lines, and files follow as bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GREETING = "edgekit-agent 1 "
PREFIX = "edgekit-"
SILENCE_S = 900  # a client that says nothing for so long is gone, whatever TCP believes
CHUNK = 1 << 16


class Gone(Exception):
    """The other end has closed the line."""


class Child:
    """A program that runs here for the client, its output passed on line by line.

    Args:
        number: What the client calls it.
        argv, env: What to run, and variables on top of this process's own.
        place: Working folder, and where temporary files go; standard error goes to a file in it.
    """

    def __init__(self, number: int, argv: list[str], env: dict[str, str], place: str) -> None:
        self.number, self.log, self.pending = number, Path(place, "stderr-%d.txt" % number), b""  # noqa: UP031
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=place,
                env=dict(os.environ, TMPDIR=place, **env), start_new_session=True,
                preexec_fn=functools.partial(die_with, os.getpid()),
            )  # fmt: skip
        assert self.process.stdout is not None and self.process.stdin is not None
        self.out, self.into = self.process.stdout.fileno(), self.process.stdin

    def write(self, text: str) -> None:
        """A line for its standard input; one that has ended or does not read takes none."""
        with contextlib.suppress(OSError, ValueError):
            self.into.write(text.encode() + b"\n")
            self.into.flush()

    def close_input(self) -> None:
        """Nothing more comes."""
        with contextlib.suppress(OSError):
            self.into.close()

    def pass_on(self) -> bool:
        """Send what it has printed; whether more may come."""
        data = os.read(self.out, CHUNK)
        *whole, self.pending = (self.pending + data).split(b"\n")
        for text in whole:
            say({"id": self.number, "line": text.decode(errors="replace")})
        return bool(data)

    def end(self) -> None:
        """Kill it with all that it started, and tell how it ended."""
        code = self.process.poll()
        if code is None:  # it has closed its output and may be about to end by itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(5)
        self.kill()
        tail = [text.strip() for text in self.log.read_text(errors="replace")[-4000:].splitlines() if text.strip()]
        say({"id": self.number, "exit": self.process.returncode if code is None else code, "tail": tail[-5:]})

    def kill(self) -> None:
        """Kill it with all that it started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Agent:
    """The folder, the children, and the client's line with a buffer of its own, so that select() knows what is left.

    Args:
        place: The folder.
    """

    def __init__(self, place: str) -> None:
        self.place, self.buffer, self.started = place, bytearray(), 0
        self.children: dict[int, Child] = {}

    def fill(self) -> None:
        """Wait for more bytes of the client."""
        if not select.select([0], [], [], SILENCE_S)[0]:
            raise Gone
        data = os.read(0, CHUNK)
        if not data:
            raise Gone
        self.buffer += data

    def command(self) -> Any:
        """The next command; the children's output is passed on meanwhile."""
        while b"\n" not in self.buffer:
            outs = {child.out: child for child in self.children.values()}
            ready = select.select([0, *outs], [], [], SILENCE_S)[0]
            if not ready:
                raise Gone
            for out in ready:
                if out and not outs[out].pass_on():
                    self.children.pop(outs[out].number).end()
            if 0 in ready:
                self.fill()
        raw, _, rest = bytes(self.buffer).partition(b"\n")
        self.buffer = bytearray(rest)
        return json.loads(raw)

    def receive(self, path: Path, size: int) -> None:
        """A file of the client; where it cannot be written, nothing sensible can follow on the line."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                while size:
                    if not self.buffer:
                        self.fill()
                    piece = bytes(self.buffer[:size])
                    del self.buffer[: len(piece)]
                    stream.write(piece)
                    size -= len(piece)
        except OSError as error:
            say({"error": str(error)})
            raise Gone from error
        say({"ok": True})

    def start(self, argv: list[str], env: dict[str, str]) -> None:
        """A new child."""
        child = Child(self.started, argv, env, self.place)
        self.children[self.started] = child
        self.started += 1
        say({"child": child.number, "pid": child.process.pid})

    def serve(self, command: Any) -> None:
        """Do one command."""
        what, path = command["do"], Path(self.place, command.get("name", ""))
        child = self.children.get(command.get("id", -1))
        if what == "put":
            self.receive(path, command["bytes"])
        elif what == "start":
            self.start(command["argv"], command["env"])
        elif what == "write" and child is not None:
            child.write(command["text"])
        elif what == "close" and child is not None:
            child.close_input()
        elif what == "kill" and child is not None:
            child.kill()
        elif what == "list":
            say({"names": sorted(file.name for file in path.iterdir()) if path.is_dir() else []})
        elif what == "get":
            send(path)
        elif what == "drop":
            shutil.rmtree(path, ignore_errors=True)
            say({"ok": True})
        elif what == "describe":
            say(describe())
        elif what == "sweep":
            sweep(command["place"])


def say(value: Any) -> None:
    """One answer."""
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


def die_with(agent: int) -> None:
    """In the child: be killed when the agent is, even by SIGKILL."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != agent:  # it was killed before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)


def send(path: Path) -> None:
    """A file, or that there is none."""
    if not path.is_file():
        say({"bytes": None})
        return
    with path.open("rb") as stream:
        say({"bytes": os.fstat(stream.fileno()).st_size})
        shutil.copyfileobj(stream, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def sweep(place: str) -> None:
    """Take away what an agent left that was itself killed; only a folder of ours in the folder for such things."""
    path = Path(place)
    ours = path.parent == Path(tempfile.gettempdir()) and path.name.startswith(PREFIX)
    if ours and path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid():
        shutil.rmtree(place, ignore_errors=True)
    say({"left": path.exists()})


def first_line(path: str, key: str) -> str:
    """The value of the first `key: value` line of a file of /proc, or ""."""
    with contextlib.suppress(OSError), Path(path).open(errors="replace") as stream:
        for text in stream:
            name, _, value = text.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def word(path: str) -> str:
    """The text of a small file, or ""."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip("\0\n ")
    return ""


def describe() -> dict[str, Any]:
    """Board, processor, cores, memory, system, and how warm it is."""
    board = word("/proc/device-tree/model")
    cpu = first_line("/proc/cpuinfo", "model name") or first_line("/proc/cpuinfo", "Model") or platform.machine()
    memory = first_line("/proc/meminfo", "MemTotal").split()
    zones = map(str, Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    warm = [int(text) for text in map(word, zones) if text.isdigit()]
    found = {
        "board": board,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[0]) / 2**20, 1) if memory else None,
        "system": "%s %s %s" % (platform.system(), platform.release(), platform.machine()),  # noqa: UP031
        "governor": word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "temperature_c": max(warm) / 1000 if warm else None,
    }
    return {name: value for name, value in found.items() if value not in ("", None)}


def main() -> None:
    """Serve one client."""

    def stop(number: int, frame: Any) -> None:
        raise Gone

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    agent = Agent(tempfile.mkdtemp(prefix=PREFIX))
    try:
        about = {"place": agent.place, "home": str(Path.home()), "python": sys.executable}
        sys.stdout.write(GREETING + json.dumps(about) + "\n")
        sys.stdout.flush()
        while True:
            command = agent.command()
            try:
                agent.serve(command)
            except BrokenPipeError:
                raise
            except OSError as error:
                say({"error": str(error)})
    except (Gone, BrokenPipeError):
        pass
    finally:
        for child in agent.children.values():
            child.kill()
        shutil.rmtree(agent.place, ignore_errors=True)


if __name__ == "__main__":
    main()
