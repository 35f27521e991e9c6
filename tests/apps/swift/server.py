"""A server for the model store's test: a file of 100,000 bytes that breaks off after 30,000, once, and takes ranges."""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WHOLE = bytes(number * number % 251 for number in range(100_000))
BREAK = 30_000
MODEL = {
    "format": 1,
    "files": [
        {"path": "weights.bin", "url": "../weights.bin", "sha256": hashlib.sha256(WHOLE).hexdigest(),
         "bytes": len(WHOLE), "for": "model"}
    ],
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Gives model.json whole, and the file in parts."""

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path == "/app/model.json":
            self._give(200, json.dumps(MODEL).encode())
        elif self.path == "/weights.bin" and (given := self.headers.get("Range")):
            start = int(given.removeprefix("bytes=").removesuffix("-"))
            self._give(206, WHOLE[start:], f"bytes {start}-{len(WHOLE) - 1}/{len(WHOLE)}")
        elif self.path == "/weights.bin":
            self._give(200, WHOLE, cut=BREAK)
        else:
            self.send_error(404)

    def _give(self, status: int, body: bytes, content_range: str = "", cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        sys.stdout.close()
        server.serve_forever()
