"""A small web server for the local network: named files and actions behind a token, and nothing else.

It serves a mapping of names, never a folder, so there is no path to be tricked. Each request is read within a fixed
time, connections are bounded for each address and in all, and what is refused is counted by its reason.
"""

from __future__ import annotations

import re
import socket
import threading
from dataclasses import dataclass

from edgekit.devices._web_handler import Handler
from edgekit.devices._web_listener import Listener, Served
from edgekit.errors import EdgekitError

_PLACE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]*))(?::(?P<port>\d{1,5}))?")


@dataclass
class Server(Served):
    """The server, running from `start` to `close`."""

    def start(self) -> None:
        """Listen.

        Raises:
            EdgekitError: the address or port cannot be had, or the certificate is none.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            self._listener = Listener(self, family, Handler)
        except OSError as error:
            raise EdgekitError(
                f"Cannot listen on {self.host} port {self.port}.",
                why=str(error),
                fix="Name an address of this machine and a free port:  --device web://HOST:PORT",
            ) from error
        self.port = self._listener.server_address[1]
        threading.Thread(target=self._listener.serve_forever, args=(0.2,), daemon=True, name="edgekit-web").start()

    def check(self) -> None:
        """Look whether `start` would find what it needs; errors as of it."""
        given = self.port
        self.start()
        self.close()
        self.port = given

    def close(self) -> None:
        """Listen no more; connections end with their request."""
        self._listener.shutdown()
        self._listener.server_close()
        self._listener.end_all()


def parse_place(place: str) -> tuple[str, int]:
    """Host and port of `web://HOST:PORT`; "" and 0 where they are not said.

    Raises:
        EdgekitError: it is no such thing.
    """
    found = _PLACE.fullmatch(place)
    if found is None or int(found["port"] or 0) > 65535:
        raise EdgekitError(f"{place!r} is no place to serve at.", fix="Write  web://HOST:PORT, web://HOST or web.")
    return found["six"] or found["host"] or "", int(found["port"] or 0)
