"""The hub as huggingface_hub sees it, on the loopback: repositories, one commit after the other, files to fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Repositories by name, their files by name.

    Attributes:
        asked: Every request, as `METHOD path`.
        refuse: Status for whoever wants to write; 0 for none.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.refuse = 0
        hub = self

        class Handler(_Handler):
            double = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str) -> str:
        """Of what a repository holds."""
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    double: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        hub, path = self.double, self.path.split("?")[0]
        hub.asked.append(f"POST {path}")
        if hub.refuse:
            return self._say({"error": "no"}, hub.refuse)
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            given = json.loads(body)
            name = "/".join(one for one in (given.get("organization"), given["name"]) if one)
            hub.repositories.setdefault(name, {})
            hub.private.setdefault(name, bool(given.get("private")) or given.get("visibility") == "private")
            return self._say({"url": f"{hub.address}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        name = "/".join(parts[2:4])
        if parts[4:5] == ["preupload"]:
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            return self._say({"files": [{**one, "shouldIgnore": False, "oid": None} for one in files]})
        if parts[4:5] == ["commit"]:
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    hub.repositories[name][one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            oid = hub.commit(name)
            return self._say({"commitUrl": f"{hub.address}/{name}/commit/{oid}", "commitOid": oid, "success": True})
        return self._say({"error": path}, 404)

    def do_HEAD(self) -> None:
        self._file(whole=False)

    def do_GET(self) -> None:
        hub, parts = self.double, self.path.split("?")[0].strip("/").split("/")
        hub.asked.append(f"GET {self.path}")
        name = "/".join(parts[2:4])
        if parts[:2] == ["api", "models"] and name in hub.repositories:
            held = hub.repositories[name]
            if parts[4:5] == ["tree"]:
                return self._say(
                    [{"type": "file", "path": one, "size": len(data), "oid": "0" * 40} for one, data in held.items()]
                )
            siblings = [{"rfilename": one} for one in held]
            return self._say({"id": name, "modelId": name, "sha": hub.commit(name), "siblings": siblings, "tags": []})
        return self._file(whole=True)

    def _file(self, *, whole: bool) -> None:
        hub, parts = self.double, self.path.split("?")[0].strip("/").split("/")
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        data = hub.repositories.get(name, {}).get(file)
        if data is None or parts[2:3] != ["resolve"]:
            return self._say({"error": "not found"}, 404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", hub.commit(name))
        self.end_headers()
        if whole:
            self.wfile.write(data)
        return None

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _say(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
