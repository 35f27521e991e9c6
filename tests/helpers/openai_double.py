"""A server for what a real one cannot be asked to do: faults, dropped images, refusals. It answers from a function."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


class Double:
    """What the server saw and how it answers.

    Args:
        answer: Body of a request -> (status, headers, body); may block on `released`.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.lock = threading.Lock()
        self.busy = self.busiest = 0
        self.url = ""


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[Double]:
    """The double on a free port of the loopback."""
    double = Double(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with double.lock:
                double.bodies.append(body)
                double.headers.append(dict(self.headers))
                double.paths.append(self.path)
                double.busy += 1
                double.busiest = max(double.busiest, double.busy)
            status, headers, said = double.answer(body)
            with double.lock:
                double.busy -= 1
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
            except OSError:
                pass  # the client gave up, as some tests want

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    double.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()


def said(*texts: str | None, reason: str = "stop", logp: float | None = None, **message: Any) -> Answer:
    """An answer with these choices."""
    choices = []
    for number, text in enumerate(texts):
        choice = {
            "index": number,
            "finish_reason": reason,
            "message": {"role": "assistant", "content": text, **message},
        }
        if logp is not None:
            choice["logprobs"] = {"content": [{"token": "a", "logprob": logp - 1}, {"token": "b", "logprob": 1.0}]}
        choices.append(choice)
    return 200, {"Content-Type": "application/json"}, json.dumps({"choices": choices}).encode()


def images(body: dict[str, Any]) -> list[bytes]:
    """The images of a request."""
    found = []
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                found.append(base64.b64decode(part["image_url"]["url"].partition(",")[2]))
    return found


def text(body: dict[str, Any]) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else " ".join(p["text"] for p in content if p["type"] == "text")


def share(*parts: bytes) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256(b"|".join(parts)).digest()[:4]) / 2**32
