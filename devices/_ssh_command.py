"""The ssh command that reaches a board, and what to do where it does not."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from edgekit.devices import Address
from edgekit.devices._line import BOOT
from edgekit.errors import EdgekitError

_PLACE = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^@:\s\[\]]+))(?::(?P<port>\d+))?"
)


def ssh_command(address: Address) -> list[str]:
    """The ssh command that starts the agent, as an argument list.

    Raises:
        EdgekitError: no ssh here, or the place is not `[user@]host[:port]`.
    """
    program = shutil.which("ssh")
    if program is None:
        raise EdgekitError("The program ssh is not here.", fix="Install the OpenSSH client.")
    found = _PLACE.fullmatch(address.place)
    if found is None or any((found[part] or "").startswith("-") for part in ("user", "host")):
        raise EdgekitError(
            f"{address.place!r} is no place for ssh.", fix="Write ssh://user@host or ssh://user@host:port."
        )
    settings = {
        "BatchMode": "yes", "StrictHostKeyChecking": "yes", "PasswordAuthentication": "no", "ConnectTimeout": "15",
        "ServerAliveInterval": "15", "ServerAliveCountMax": "4", "ForwardAgent": "no", "ClearAllForwardings": "yes",
        "ControlMaster": "no", "ControlPath": "none", "EscapeChar": "none", "LogLevel": "ERROR",
    }  # fmt: skip
    if known := address.options.get("known_hosts"):
        settings["UserKnownHostsFile"] = _quoted(known)
        settings["GlobalKnownHostsFile"] = "none"
    if identity := address.options.get("identity"):
        settings["IdentityFile"] = _quoted(identity)
        settings["IdentitiesOnly"] = "yes"
    command = [program, "-T"]
    for name, value in settings.items():
        command += ["-o", f"{name}={value}"]
    for flag, part in (("-l", "user"), ("-p", "port")):
        if found[part]:
            command += [flag, found[part]]
    python = address.options.get("python", "python3")
    return [*command, "--", found["six"] or found["host"], f"exec {shlex.quote(python)} -u -c {shlex.quote(BOOT)}"]


def _quoted(path: str) -> str:
    """A file name in an option of ssh, which reads quotes, ~ and % signs."""
    full = str(Path(path).expanduser().absolute())
    if '"' in full:
        raise EdgekitError(f"ssh takes no file name with a quote: {full}")
    return '"' + full.replace("%", "%%") + '"'


def advice(said: str) -> str:
    """What to do about what ssh said."""
    known = (
        ("Host key verification failed", "its key is not known here, or has changed. Connect once by hand, compare the "
         "fingerprint with the board's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), and accept it."),
        ("Permission denied", "Install a key there:  ssh-copy-id"),
        ("Connection refused", "Is sshd running there, on that port?"),
        ("timed out", "Is it switched on, and in this network?"),
        ("Could not resolve", "Check the name."),
        ("not found", "The board needs Python 3; name it with the option python."),
    )  # fmt: skip
    text = next((advice for words, advice in known if words in said), "Try the same with ssh -v.")
    return text[0].upper() + text[1:]
