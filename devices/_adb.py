"""adb's server, spoken to directly: devices, shell commands with exit codes, files to the device.

Protocol: SERVICES.TXT, SYNC.TXT and OVERVIEW.TXT of the Android sources (packages/modules/adb). A request is four
hexadecimal digits of length and a text; the answer starts with OKAY or FAIL. The server is the one that `adb
start-server` runs on port 5037; it keeps the phones, so no key or USB access is needed here.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError

PORT = 5037
TIMEOUT_S = 30.0
CHUNK = 64 * 1024  # the most that a DATA packet may hold
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN, WINDOW = 0, 1, 2, 3, 4, 5
LARGEST = 1 << 26  # bytes of one packet, and of all that a command prints


class AdbError(EdgekitError):
    """adb's server is not there, refuses, or loses the device."""


@dataclass(frozen=True)
class Listed:
    """A device that the server knows."""

    serial: str
    state: str
    """device when it can be used; unauthorized, offline, ..."""


def server_port() -> int:
    """Of the environment's ANDROID_ADB_SERVER_PORT, as for adb itself, or 5037."""
    return port_of(os.environ.get("ANDROID_ADB_SERVER_PORT", str(PORT)), "ANDROID_ADB_SERVER_PORT")


def port_of(text: str, where: str) -> int:
    """A port's number.

    Raises:
        AdbError: it is none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 6) or not 0 < int(text) < 65536:
        raise AdbError(f"{where} is {text!r}, which is no port.")
    return int(text)


class Adb:
    """A server, and one of its devices.

    Args:
        serial: Of the device; "" for requests to the server alone.
        port: Of the server, on the loopback.
    """

    def __init__(self, serial: str, port: int) -> None:
        self.serial, self._port = serial, port

    def _connect(self) -> socket.socket:
        try:
            return socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
        except OSError as error:
            raise AdbError(
                f"adb's server does not answer on port {self._port}.",
                why=str(error),
                fix="Start it:  adb start-server    (adb is in Android's platform tools)",
            ) from error

    def devices(self) -> list[Listed]:
        """Every device that the server knows."""
        with self._connect() as line:
            _request(line, "host:devices")
            text = _counted(line)
        found = [entry.split("\t") for entry in text.splitlines() if "\t" in entry]
        return [Listed(entry[0], entry[1]) for entry in found]

    def _service(self, name: str) -> socket.socket:
        line = self._connect()
        try:
            _request(line, f"host:transport:{self.serial}")
            _request(line, name)
        except BaseException:
            line.close()
            raise
        return line

    def shell(
        self, command: str, on_line: Callable[[str], None] | None = None, timeout_s: float = TIMEOUT_S
    ) -> tuple[int, str, str]:
        """Run a command line of the device's shell.

        Args:
            command: Quoted by the caller.
            on_line: Is given each line of standard output as it comes.
            timeout_s: Of silence.

        Returns:
            Exit code, standard output, standard error.

        Raises:
            AdbError: the device went away, or is silent for too long.
        """
        text: dict[int, bytearray] = {STDOUT: bytearray(), STDERR: bytearray()}
        told = 0
        with self._service(f"shell,v2,raw:{command}") as line:
            line.settimeout(timeout_s)
            while True:
                kind, size = struct.unpack("<BI", _exactly(line, 5))
                if kind > WINDOW or size + sum(map(len, text.values())) > LARGEST:
                    raise _strange(struct.pack("<BI", kind, size))
                data = _exactly(line, size)
                if kind == EXIT and not data:
                    raise _strange(b"an exit without a code")
                if kind == EXIT:
                    out, err = (bytes(text[one]).decode(errors="replace") for one in (STDOUT, STDERR))
                    return data[0], out, err
                if kind in text:
                    text[kind] += data
                while on_line is not None and (end := text[STDOUT].find(b"\n", told)) >= 0:
                    on_line(bytes(text[STDOUT][told:end]).decode(errors="replace"))
                    told = end + 1

    def push(self, source: Path, target: str, mode: int) -> None:
        """Copy a file to the device.

        Raises:
            AdbError: the device refuses it: no space, no permission.
        """
        name = f"{target},{0o100000 | mode}".encode()
        with self._service("sync:") as line, source.open("rb") as stream:
            _send(line, b"SEND" + struct.pack("<I", len(name)) + name)
            while data := stream.read(CHUNK):
                _send(line, b"DATA" + struct.pack("<I", len(data)) + data)
            _send(line, b"DONE" + struct.pack("<I", int(source.stat().st_mtime)))
            answer, size = struct.unpack("<4sI", _exactly(line, 8))
            if answer not in (b"OKAY", b"FAIL") or size > LARGEST:
                raise _strange(answer)
            if answer != b"OKAY":
                said = _exactly(line, size).decode(errors="replace")
                raise AdbError(f"{self.serial} does not take {source.name}.", why=said)
            with suppress(OSError):
                line.sendall(b"QUIT" + struct.pack("<I", 0))


def _request(line: socket.socket, text: str) -> None:
    data = text.encode()
    _send(line, b"%04x" % len(data) + data)
    answer = _exactly(line, 4)
    if answer == b"OKAY":
        return
    if answer != b"FAIL":
        raise _strange(answer)
    raise AdbError("adb refuses.", why=_counted(line))


def _counted(line: socket.socket) -> str:
    """A text behind its length, four hexadecimal digits."""
    digits = _exactly(line, 4)
    if not all(digit in b"0123456789abcdefABCDEF" for digit in digits):
        raise _strange(digits)
    return _exactly(line, int(digits, 16)).decode(errors="replace")


def _strange(answer: bytes) -> AdbError:
    return AdbError(f"What answers there is not adb's server: {answer!r}.", fix="See what has its port:  lsof -i :5037")


def _send(line: socket.socket, data: bytes) -> None:
    try:
        line.sendall(data)
    except OSError as error:
        raise AdbError("The device went away.", why=str(error)) from error


def _exactly(line: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            piece = line.recv(min(size - len(data), 1 << 20))
        except TimeoutError as error:
            raise AdbError("The device says nothing any more.") from error
        except OSError as error:
            raise AdbError("The device went away.", why=str(error)) from error
        if not piece:
            raise AdbError("The device went away.", why="adb closed the connection in the middle of an answer.")
        data += piece
    return bytes(data)
