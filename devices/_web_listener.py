"""A small web server for the local network: named files and actions behind a token, and nothing else.

It serves a mapping of names, never a folder, so there is no path to be tricked. Each request is read within a fixed
time, connections are bounded for each address and in all, and what is refused is counted by its reason.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgekit.devices._web_site import Site
from edgekit.errors import EdgekitError

MOST_CONNECTIONS, MOST_OF_ADDRESS = 96, 32


@dataclass
class Served:
    """What is served, and where.

    Attributes:
        site: What it serves.
        host: Address of this machine that it listens on.
        port: 0 for a free one.
        certificate, key: PEM files for https; without them it is http.
        token: In the path of everything.
        refused: How often what was refused.
    """

    site: Site
    host: str = "127.0.0.1"
    port: int = 0
    certificate: Path | None = None
    key: Path | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def scheme(self) -> str:
        """http or https."""
        return "http" if self.certificate is None else "https"

    @property
    def url(self) -> str:
        """Address of the page, the token in it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.token}/"

    def hosts(self) -> set[str]:
        """What a browser that came here by our address may name as its host: a name of a stranger's is never in it."""
        names = {f"[{self.host}]" if ":" in self.host else self.host}
        if self.host in ("127.0.0.1", "::1", "localhost"):
            names |= {"localhost", "127.0.0.1", "[::1]"}
        usual = {"http": 80, "https": 443}[self.scheme]
        return {f"{name}:{self.port}" for name in names} | (names if self.port == usual else set())


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, server: Served, family: socket.AddressFamily, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = family
        self.own = server
        self.tls = _tls(server)
        self.count: Counter[str] = Counter()
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()
        super().__init__((server.host, server.port), handler)

    def server_bind(self) -> None:
        """Without the look-up of this machine's name that the standard library does, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for another connection."""
        with self.lock:
            room = self.count[client_address[0]] < MOST_OF_ADDRESS and len(self.open) < MOST_CONNECTIONS
            if room:
                self.count[client_address[0]] += 1
                self.open.add(request)
            else:
                self.own.refused["too many connections"] += 1
        return room

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.lock:
                self.open.discard(request)
                self.count[client_address[0]] -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What breaks off is no news: browsers do that."""

    def end_all(self) -> None:
        """Cut off what is still being sent."""
        with self.lock:
            for one in self.open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


def _tls(server: Served) -> ssl.SSLContext | None:
    if server.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(server.certificate, server.key)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise EdgekitError(
            f"{server.certificate} and its key cannot be used.",
            why=str(error),
            fix="Both are PEM files:  --device 'web?cert=cert.pem&key=key.pem'",
        ) from error
    return context
