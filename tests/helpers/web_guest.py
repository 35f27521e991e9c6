"""A browser's side of the bench's page, spoken by hand, so that it can also be spoken wrongly."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from typing import Any

from edgekit.devices._web_server import Server

AGENT = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Mobile Safari/537.36"
)


@dataclass
class Reply:
    """An answer of the server."""

    status: int
    head: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        """Its JSON."""
        return json.loads(self.body)


@dataclass
class Caller:
    """Sends requests, each over a connection of its own.

    Attributes:
        server: Running.
        cookie: As the server set it.
    """

    server: Server
    cookie: str = ""
    more: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.server.port}"

    def ask(self, name: str, method: str = "GET", body: bytes | None = None, **head: str | None) -> Reply:
        """A request below the token; a header of None is left out."""
        return self.raw(f"/{self.server.token}/{name}", method, body, **head)

    def post(self, name: str, value: Any, **head: str | None) -> Reply:
        """An action."""
        reply = self.ask(name, "POST", json.dumps(value).encode(), **{"Origin": self.origin, **head})
        if "set-cookie" in reply.head:
            self.cookie = reply.head["set-cookie"].partition(";")[0]
        return reply

    def raw(self, target: str, method: str = "GET", body: bytes | None = None, **head: str | None) -> Reply:
        """A request of any target; `_` in a header's name stands for `-`."""
        given: dict[str, str | None] = {"Host": f"127.0.0.1:{self.server.port}", "Cookie": self.cookie or None}
        given |= {"Content-Length": None if body is None else str(len(body)), "Connection": "close"}
        given |= {name.replace("_", "-"): value for name, value in head.items()}
        lines = [
            f"{method} {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in given.items() if value is not None),
        ]
        return self.bytes("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    def bytes(self, data: bytes) -> Reply:
        """Whatever is to be sent."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as line:
            line.sendall(data)
            return read_reply(line)

    def join(self, agent: str = AGENT) -> Reply:
        """Begin as a browser."""
        return self.post("join", {"agent": agent, "cores": 8, "secure": False, "isolated": False})


def read_reply(line: socket.socket) -> Reply:
    """All that comes, up to the end of the connection."""
    data = b""
    while part := line.recv(1 << 16):
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    fields = dict(one.lower().split(": ", 1) if ": " in one else (one, "") for one in rest)
    plain = {one.partition(": ")[0].lower(): one.partition(": ")[2] for one in rest}
    assert len(fields) == len(plain)
    return Reply(int(first.split()[1]) if first else 0, plain, body)


def result(bundle: int = 0, questions: int = 2, **changed: Any) -> dict[str, Any]:
    """What a page sends of a bundle that went well."""
    one = {
        "text": "yes", "token_ids": [5, 2], "prompt_tokens": 20, "preprocess_ms": 1.0, "image_encode_ms": 2.0,
        "prefill_ms": 3.0, "first_token_ms": 0.1, "itl_ms": [4.0],
    }  # fmt: skip
    return {
        "bundle": bundle, "backend": "wasm", "threads": 1, "why": "wasm, as asked", "storage": "memory", "load_ms": 9.0,
        "checks": [{"name": "answers", "count": 4, "passed": True, "failures": []}], "answers": [one] * questions,
        **changed,
    }  # fmt: skip
