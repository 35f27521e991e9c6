"""adb's server and a phone behind it, scripted: the wire format is real, the phone is a dictionary."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

GONE = "gone"
"""A command scripted as this ends the connection in the middle of its output."""

PROPERTIES = {
    "ro.product.manufacturer": "Acme", "ro.product.model": "Phone 9", "ro.soc.model": "SM8750",
    "ro.product.cpu.abi": "arm64-v8a", "ro.build.version.release": "16", "ro.build.fingerprint": "acme/p9:16/A1",
}  # fmt: skip
BATTERY = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  level: 83\n  temperature: 312\n"


@dataclass
class FakePhone:
    """What the phone holds, what it answers, and what it was told."""

    listed: str = "SER1\tdevice\n"
    answers: dict[str, tuple[int, str, str] | str] = field(default_factory=dict)
    """Pattern of a command -> (exit code, standard output, standard error), or GONE."""
    files: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    room: int = 10**9
    thermal: int = 0

    def answer(self, command: str) -> tuple[int, str, str] | str:
        """Of a shell command."""
        self.commands.append(command)
        for pattern, scripted in self.answers.items():
            if re.search(pattern, command):
                return scripted
        if found := re.fullmatch(r"getprop (\S+)", command):
            return 0, PROPERTIES.get(found[1], "") + "\n", ""
        if found := re.fullmatch(r"rm -rf (/data/local/tmp/edgekit-[0-9a-f]+)", command):
            self.files = {name: data for name, data in self.files.items() if not name.startswith(found[1])}
            return 0, "", ""
        usual = {
            "dumpsys battery": BATTERY,
            "dumpsys thermalservice": f"IsStatusOverride: false\nThermal Status: {self.thermal}\n",
            "cat /proc/meminfo": "MemTotal:       15728640 kB\n",
        }
        if command in usual:
            return 0, usual[command], ""
        return (0, "", "") if command.startswith(("mkdir", "logcat")) else (127, "", f"sh: {command}: not found")


@contextmanager
def serve(phone: FakePhone) -> Iterator[int]:
    """The server's port, while it runs."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                line, _ = listener.accept()
                threading.Thread(target=talk, args=(line, phone), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def talk(line: socket.socket, phone: FakePhone) -> None:
    """One connection of a client."""
    stream = line.makefile("rb")
    with line, stream, suppress(OSError, ValueError):
        while True:
            request = stream.read(int(stream.read(4), 16)).decode()
            if request == "host:devices":
                text = phone.listed.encode()
                line.sendall(b"OKAY" + b"%04x" % len(text) + text)
                return
            if request.startswith("host:transport:"):
                if f"{request.removeprefix('host:transport:')}\tdevice" not in phone.listed:
                    line.sendall(b"FAIL0010device not found")
                    return
                line.sendall(b"OKAY")
            elif request.startswith("shell,v2,raw:"):
                line.sendall(b"OKAY")
                shell(line, phone.answer(request.removeprefix("shell,v2,raw:")))
                return
            elif request == "sync:":
                line.sendall(b"OKAY")
                receive(line, stream, phone)
                return


def shell(line: socket.socket, scripted: tuple[int, str, str] | str) -> None:
    """A command's output in packets, cut into small ones."""
    if isinstance(scripted, str):
        line.sendall(struct.pack("<BI", 1, 100) + b"half of it")
        return
    code, out, err = scripted
    for kind, text in ((1, out.encode()), (2, err.encode())):
        for start in range(0, len(text), 7):
            piece = text[start : start + 7]
            line.sendall(struct.pack("<BI", kind, len(piece)) + piece)
    line.sendall(struct.pack("<BIB", 3, 1, code))


def receive(line: socket.socket, stream: object, phone: FakePhone) -> None:
    """One file of sync."""
    read = stream.read  # type: ignore[attr-defined]
    _, size = struct.unpack("<4sI", read(8))
    name, _, mode = read(size).decode().rpartition(",")
    data = b""
    while True:
        kind, size = struct.unpack("<4sI", read(8))
        if kind == b"DONE":
            break
        data += read(size)
        assert size <= 65536
    if sum(map(len, phone.files.values())) + len(data) > phone.room:
        text = b"couldn't write: No space left on device"
        line.sendall(struct.pack("<4sI", b"FAIL", len(text)) + text)
        return
    phone.files[name], phone.modes[name] = data, int(mode)
    line.sendall(struct.pack("<4sI", b"OKAY", 0))
