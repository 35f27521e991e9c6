"""One connection of `edgekit.devices._web_server`: a request is read, judged and answered."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.devices._web_listener import Listener
from edgekit.devices._web_site import Refused

READ_S = 20.0  # of a whole request, from the answer before it on; an idle connection ends then, too
SEND_S = 30.0  # of each PIECE
PIECE = 1 << 16
MOST_BODY = 8 << 20
MOST_FIELDS = 64  # header lines
KINDS = {
    ".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".json": "application/json", ".mjs": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}  # fmt: skip
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self'; worker-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class _Timely(io.RawIOBase):
    """A socket that is read up to a moment, however slowly it drips."""

    def __init__(self, source: socket.socket) -> None:
        self.source, self.until = source, 0.0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of a socket."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self.source.settimeout(left)
        return self.source.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edgekit", ""
    server: Listener

    def setup(self) -> None:
        """The connection, its handshake done."""
        if self.server.tls is not None:
            self.request.settimeout(READ_S)
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.connection = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._source = _Timely(self.connection)
        self.rfile = io.BufferedReader(self._source)
        self.wfile = _Out(self.connection)  # type: ignore[assignment]

    def finish(self) -> None:
        """Nothing is held back that would have to be sent."""
        self.rfile.close()
        if self.server.tls is not None:
            self.connection.close()

    def handle_one_request(self) -> None:
        """As it is, but within a time of its own."""
        self._source.until = time.monotonic() + READ_S
        super().handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """A file."""
        self._answer(self._file)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """An action."""
        self._answer(self._act)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses: no page, and the connection ends."""
        self.server.own.refused["no proper request"] += 1
        self._say(code, b"", {"Connection": "close"})

    def _answer(self, how: Callable[[str], None]) -> None:
        own = self.server.own
        try:
            self._check_where_from()
            how(self._name())
        except Refused as error:
            own.refused[error.why] += 1
            self.close_connection = True
            body = json.dumps({"error": error.why if error.status not in (403, 404) else ""}).encode()
            self._say(error.status, body, {"Connection": "close", "Content-Type": "application/json"})

    def _check_where_from(self) -> None:
        """Raises `Refused` for what another page, or another name for this machine, sends here."""
        own = self.server.own
        if len(self.headers) > MOST_FIELDS:
            raise Refused(431, "too many header lines")
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in own.hosts():
            raise Refused(403, "another host's name")
        origins = self.headers.get_all("Origin", [])
        if any(origin not in {f"{own.scheme}://{host}" for host in own.hosts()} for origin in origins):
            raise Refused(403, "another origin")
        if self.command == "POST" and not origins:
            raise Refused(403, "no origin")
        site, whole_page = self.headers.get("Sec-Fetch-Site", "none"), self.headers.get("Sec-Fetch-Dest") == "document"
        if site not in ("none", "same-origin") and not whole_page:
            raise Refused(403, "another origin")

    def _name(self) -> str:
        """What is asked for, behind the token."""
        own = self.server.own
        path = self.path.partition("?")[0]
        first, _, name = path.removeprefix("/").partition("/")
        if not path.startswith("/") or not secrets.compare_digest(first.encode(), own.token.encode()):
            raise Refused(404, "wrong token")
        return name

    def _key(self) -> str:
        """The browser's own key; "" where it has none that is known."""
        own = self.server.own
        cookies: SimpleCookie = SimpleCookie()
        with suppress(CookieError):
            cookies.load(self.headers.get("Cookie", "")[:4096])
        found = cookies.get(f"edgekit-{own.port}")
        return found.value if found is not None and own.site.known(found.value) else ""

    def _file(self, name: str) -> None:
        site = self.server.own.site
        if name in site.open:
            self._send(name, site.open[name])
        elif name in site.closed:
            if not self._key():
                raise Refused(403, "no key")
            self._send(name, site.closed[name])
        else:
            raise Refused(404, "no such name")

    def _act(self, name: str) -> None:
        own = self.server.own
        action = own.site.actions.get(name)
        if action is None:
            raise Refused(404, "no such name")
        said = action(self._key(), self._body())
        more = {"Content-Type": "application/json"}
        if said.key:
            secure = "; Secure" if own.scheme == "https" else ""
            more["Set-Cookie"] = f"edgekit-{own.port}={said.key}; Path=/{own.token}/; HttpOnly; SameSite=Strict{secure}"
        self._say(200, json.dumps(said.value).encode(), more)

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if self.headers.get("Transfer-Encoding") or len(lengths) != 1 or not re.fullmatch(r"\d{1,12}", lengths[0]):
            raise Refused(411, "no length")
        if int(lengths[0]) > MOST_BODY:
            raise Refused(413, "too large")
        data = self.rfile.read(int(lengths[0]))
        if len(data) != int(lengths[0]):
            raise Refused(400, "half a request")
        return data

    def _send(self, name: str, source: Path | bytes) -> None:
        if isinstance(source, bytes):
            self._ranged(name, io.BytesIO(source), len(source))
            return
        try:
            # It was a plain file when the list was made; what lies there now may be a link.
            descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise Refused(404, "no such name") from error
        with os.fdopen(descriptor, "rb") as stream:
            self._ranged(name, stream, os.fstat(descriptor).st_size)

    def _ranged(self, name: str, stream: io.BufferedIOBase, size: int) -> None:
        first, last = _range(self.headers.get_all("Range", []), size)
        kind = KINDS.get(PurePosixPath(name or "index.html").suffix, "application/octet-stream")
        head = {"Content-Type": kind, "Accept-Ranges": "bytes", "Content-Length": str(last - first + 1)}
        status = 200
        if self.headers.get("Range") and (first, last) != (0, size - 1):
            status, head["Content-Range"] = 206, f"bytes {first}-{last}/{size}"
        self._head(status, head)
        if self.command == "HEAD":
            return
        stream.seek(first)
        left = last - first + 1
        while left > 0:
            data = stream.read(min(PIECE, left))
            if not data:  # it was cut meanwhile: the browser sees a broken line
                self.close_connection = True
                return
            left -= len(data)
            self.wfile.write(data)

    def _say(self, status: int, body: bytes, more: Mapping[str, str]) -> None:
        self._head(status, {**more, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, fields: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **fields}.items():
            self.send_header(name, value)
        self.end_headers()


class _Out(io.RawIOBase):
    """Writes to a socket, each piece within SEND_S."""

    def __init__(self, to: socket.socket) -> None:
        self.to = to

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """All of it."""
        self.to.settimeout(SEND_S)
        self.to.sendall(data)
        return len(data)


def _range(given: list[str], size: int) -> tuple[int, int]:
    """First and last byte of what is to be sent; all of it where no single range of bytes is asked for."""
    found = _RANGE.fullmatch(given[0].strip()) if len(given) == 1 else None
    if found is None or not (found[1] or found[2]):
        return 0, size - 1
    if not found[1]:
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first, last = int(found[1]), min(size - 1, int(found[2])) if found[2] else size - 1
    if first >= size or last < first:
        raise Refused(416, "no such range")
    return first, last
