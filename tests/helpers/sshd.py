"""A real sshd on a high port of the loopback, with keys and a temporary directory of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SSHD = shutil.which("sshd") or next((name for name in ("/usr/sbin/sshd", "/sbin/sshd") if Path(name).exists()), None)
PRIVILEGE_SEPARATION = Path("/run/sshd")


@dataclass
class Server:
    """A running sshd; `temporary` is TMPDIR of whoever logs in."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    temporary: Path

    def spec(self, **options: str) -> str:
        """A device's address with the right key and host key, unless told otherwise."""
        given = {"identity": str(self.folder / "key"), "known_hosts": str(self.folder / "known"), **options}
        text = "&".join(f"{name}={value}" for name, value in given.items())
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}?{text}"

    def below(self) -> list[psutil.Process]:
        """All processes of all sessions."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def running(self, words: str) -> list[psutil.Process]:
        """Those whose command line holds some words."""
        return self._those(lambda process: words in " ".join(process.cmdline()))

    def sessions(self) -> list[psutil.Process]:
        """Those of sshd itself."""
        return self._those(lambda process: process.name().startswith("sshd"))

    def _those(self, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
        found = []
        for process in self.below():
            with suppress(psutil.Error):  # it may have ended since
                if wanted(process):
                    found.append(process)
        return found

    def left(self) -> list[str]:
        """What lies in the temporary directory."""
        return sorted(path.name for path in self.temporary.iterdir())


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Start one; skips where there is no sshd, or where it may not run."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's sshd and ssh (Debian: apt-get install openssh-server)")
    if os.geteuid() == 0 and not PRIVILEGE_SEPARATION.is_dir():
        pytest.skip(f"sshd as root needs {PRIVILEGE_SEPARATION}, which its package's service makes")
    for name in ("host", "key", "stranger"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, capture_output=True
        )
    (folder / "authorized").write_text((folder / "key.pub").read_text())
    (folder / "none").write_text("")
    temporary = folder / "tmp"
    temporary.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kind, key, *_ = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    kind, key, *_ = (folder / "stranger.pub").read_text().split()
    (folder / "changed").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv TMPDIR={temporary}\n"
    )
    assert SSHD is not None
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if b"listening" in line:
                break
        else:
            pytest.skip(f"sshd does not start: exit code {process.wait()}")
        yield Server(process, port, folder, temporary)
    finally:
        process.terminate()
        process.wait()
