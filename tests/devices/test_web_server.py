"""The server of a bench's page: what it serves, and what it refuses."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from web_guest import Caller, read_reply, result

from edgekit.devices import _web_handler, _web_listener, parse_address
from edgekit.devices import web as device
from edgekit.devices._web_messages import Wanted
from edgekit.devices._web_room import Room
from edgekit.devices._web_server import Server, parse_place
from edgekit.devices._web_site import Site
from edgekit.errors import EdgekitError

DATA = bytes(range(200)) * 600  # 120,000


@pytest.fixture
def room() -> Room:
    return Room(Wanted(("onnx-fp32", "onnx-int8"), (100, 100), 2, 4), phones=2, visits=[])


@pytest.fixture
def caller(room: Room, tmp_path: Path) -> Iterator[Caller]:
    (tmp_path / "weights.bin").write_bytes(DATA)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "link.bin").symlink_to(tmp_path / "secret.txt")
    closed: dict[str, Path | bytes] = {
        "models/0/weights.bin": tmp_path / "weights.bin",
        "models/0/link.bin": tmp_path / "link.bin",
    }
    actions = {name: getattr(room, name) for name in ("join", "beat", "result", "failed", "leave")}
    server = Server(Site({"": b"<!doctype html>", "visit.js": b"// page"}, closed, actions, room.known))
    server.start()
    yield Caller(server)
    server.close()


def refused(caller: Caller) -> dict[str, int]:
    return dict(caller.server.refused)


def test_the_page_and_its_headers(caller: Caller) -> None:
    page = caller.ask("")
    assert page.status == 200 and page.body == b"<!doctype html>"
    assert page.head["content-type"].startswith("text/html")
    assert page.head["cross-origin-opener-policy"] == "same-origin"
    assert page.head["cross-origin-embedder-policy"] == "require-corp"
    assert "frame-ancestors 'none'" in page.head["content-security-policy"]
    assert caller.ask("visit.js").head["content-type"].startswith("text/javascript")
    head = caller.ask("visit.js", "HEAD")
    assert head.status == 200 and head.body == b"" and head.head["content-length"] == "7"


def test_a_model_needs_token_and_key_and_comes_in_ranges(caller: Caller) -> None:
    name = "models/0/weights.bin"
    assert caller.ask(name).status == 403
    caller.join()
    assert caller.ask(name).body == DATA
    part = caller.ask(name, Range="bytes=1000-1999")
    assert part.status == 206 and part.body == DATA[1000:2000]
    assert part.head["content-range"] == f"bytes 1000-1999/{len(DATA)}"
    assert caller.ask(name, Range="bytes=119990-").body == DATA[-10:]
    assert caller.ask(name, Range="bytes=-7").body == DATA[-7:]
    beyond = caller.ask(name, Range="bytes=119990-999999999")
    assert beyond.body == DATA[-10:] and beyond.head["content-length"] == "10"
    assert beyond.head["content-range"] == "bytes 119990-119999/120000"
    for wrong in ("bytes=120000-", "bytes=9-3", "bytes=-0"):
        assert caller.ask(name, Range=wrong).status == 416, wrong
    for other in ("bytes=0-1,3-4", "items=0-1", "bytes=-", "bytes=a-b"):  # no single range of bytes: all of it
        assert caller.ask(name, Range=other).body == DATA, other


def test_a_wrong_token_opens_nothing(caller: Caller) -> None:
    caller.join()
    token = caller.server.token
    assert len(token) > 20
    for wrong in ("", "x", token[:-1], token + "x", token.swapcase(), "%" + token[1:], token.encode().hex(), "ü"):
        for target in (f"/{wrong}", f"/{wrong}/", f"/{wrong}/visit.js", f"/{wrong}/models/0/weights.bin"):
            found = caller.raw(target)
            assert found.status in (400, 404) and b"weights" not in found.body and b"page" not in found.body
    assert caller.raw(f"/{wrong}/join", "POST", b"{}", Origin=caller.origin).status in (400, 404)
    assert refused(caller)["wrong token"] > 20


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt", "models/0/../../secret.txt", "models/0/%2e%2e/secret.txt", "..%2fsecret.txt",
        "models/0/..%5csecret.txt", "/etc/passwd", "%2fetc/passwd", "//etc/passwd", "models/0/weights.bin%00",
        "models//0/weights.bin", "./visit.js", "models/0/", "models/0", "visit.js/", "MODELS/0/weights.bin",
        "models/0/link.bin", "file:///etc/passwd", "models/0/weights.bin/../link.bin",
    ],
)  # fmt: skip
def test_no_path_leads_elsewhere(caller: Caller, name: str) -> None:
    caller.join()
    found = caller.ask(name)
    assert found.status == 404 and b"secret" not in found.body and b"root" not in found.body


def test_absolute_targets_are_no_paths(caller: Caller) -> None:
    caller.join()
    for target in (f"http://127.0.0.1/{caller.server.token}/", f"http://evil.example/{caller.server.token}/", "*"):
        assert caller.raw(target).status in (400, 404)


def test_a_file_that_became_a_link_is_not_followed(caller: Caller, tmp_path: Path) -> None:
    caller.join()
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "weights.bin").symlink_to("/etc/passwd")
    assert caller.ask("models/0/weights.bin").status == 404


def test_another_host_name_is_refused(caller: Caller) -> None:
    """As of DNS rebinding: a stranger's name that leads here."""
    port = caller.server.port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"127.0.0.1.evil.example:{port}",
        "",
        None,
    ):
        assert caller.ask("", Host=host).status in (400, 403), host
    assert caller.ask("", Host=f"127.0.0.1:{port}\r\nHost: evil.example").status == 403
    assert caller.ask("", Host=f"LOCALHOST:{port}").status == 200


def test_another_origin_is_refused(caller: Caller) -> None:
    """A page of a stranger's that knows the token, in the browser of a guest."""
    port = caller.server.port
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        f"http://evil.example:{port}",
    ):
        assert caller.post("join", {"agent": "x"}, Origin=origin).status == 403, origin
        assert caller.ask("", Origin=origin).status == 403, origin
    assert caller.post("join", {"agent": "x"}, Origin=None).status == 403
    assert caller.ask("visit.js", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="script").status == 403
    assert caller.ask("", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="iframe").status == 403
    assert caller.ask("", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document").status == 200  # a link in a letter
    assert caller.ask("visit.js", Sec_Fetch_Site="same-origin", Sec_Fetch_Dest="script").status == 200
    assert refused(caller)["another origin"] == 12 and "no origin" in refused(caller)


def test_only_so_many_phones(caller: Caller, room: Room) -> None:
    first, second, third = (Caller(caller.server) for _ in range(3))
    assert (first.join().status, second.join().status) == (200, 200)
    late = third.join()
    assert late.status == 409 and late.value == {"error": "too many phones"} and not third.cookie
    assert third.ask("models/0/weights.bin").status == 403
    assert first.join().value["name"] == "Android 14, Chrome 126"  # the same browser again is the same phone
    assert [one.name for one in room.guests] == ["Android 14, Chrome 126", "Android 14, Chrome 126 (2)"]
    stolen = Caller(caller.server, cookie=first.cookie[:-2] + "xx")
    assert stolen.ask("models/0/weights.bin").status == 403 and stolen.post("result", result()).status == 403


def test_the_key_is_a_cookie_that_no_script_and_no_other_site_has(caller: Caller) -> None:
    given = caller.join().head["set-cookie"]
    assert f"Path=/{caller.server.token}/;" in given and "HttpOnly" in given and "SameSite=Strict" in given


def test_results_without_a_key_or_too_large(caller: Caller, room: Room) -> None:
    assert caller.post("result", result()).status == 403
    caller.join()
    large = caller.ask("result", "POST", None, Origin=caller.origin, Content_Length=str(_web_handler.MOST_BODY + 1))
    assert large.status == 413
    for length in (None, "-1", "1e3", "0x10", "9" * 13, "+5"):
        found = caller.ask("result", "POST", None, Origin=caller.origin, Content_Length=length)
        assert found.status == 411, length
    chunked = caller.ask("result", "POST", b"0\r\n\r\n", Origin=caller.origin, Transfer_Encoding="chunked")
    assert chunked.status == 411 and not room.visits


def test_what_is_no_http_ends_the_connection(caller: Caller) -> None:
    for data in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        assert caller.bytes(data + b"\r\n\r\n").status in (0, 400, 403, 404, 505)
    assert caller.bytes(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n").status == 414
    many = "".join(f"X-{n}: 1\r\n" for n in range(90))
    target = f"GET /{caller.server.token}/ HTTP/1.1\r\nHost: 127.0.0.1:{caller.server.port}\r\n"
    assert caller.bytes((target + many + "\r\n").encode()).status == 431
    assert caller.raw(f"/{caller.server.token}/", "PUT", b"x", Origin=caller.origin).status == 501
    assert caller.ask("").status == 200


def test_a_request_that_drips_is_cut_off(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_web_handler, "READ_S", 0.6)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", caller.server.port), timeout=10) as line:
        line.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for _ in range(100):
                line.sendall(b"X")
                time.sleep(0.05)
                line.setblocking(False)
                try:
                    if line.recv(1) == b"":
                        break
                except BlockingIOError:
                    pass
                line.setblocking(True)
        except OSError:
            pass
    assert 0.4 < time.monotonic() - start < 3


def test_connections_are_bounded_and_come_back(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_web_listener, "MOST_OF_ADDRESS", 4)
    held = [socket.create_connection(("127.0.0.1", caller.server.port), timeout=10) for _ in range(4)]
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", caller.server.port), timeout=10) as more:
        assert more.recv(1) == b""  # closed at once
    for one in held:
        one.close()
    until = time.monotonic() + 5
    while caller.server.refused["too many connections"] and time.monotonic() < until:
        try:
            if caller.ask("").status == 200:
                break
        except OSError:
            time.sleep(0.05)
    assert caller.ask("").status == 200


def test_a_connection_is_kept_for_the_next_request(caller: Caller) -> None:
    request = f"GET /{caller.server.token}/visit.js HTTP/1.1\r\nHost: 127.0.0.1:{caller.server.port}\r\n"
    with socket.create_connection(("127.0.0.1", caller.server.port), timeout=10) as line:
        line.sendall(f"{request}\r\n".encode())
        time.sleep(0.1)
        assert line.recv(1 << 16).endswith(b"// page")
        line.sendall(f"{request}Connection: close\r\n\r\n".encode())
        assert read_reply(line).body == b"// page"


@pytest.mark.parametrize(
    ("place", "found"),
    [("", ("", 0)), ("10.0.0.2", ("10.0.0.2", 0)), ("10.0.0.2:8000", ("10.0.0.2", 8000)), ("[::1]:80", ("::1", 80))],
)
def test_a_place_is_host_and_port(place: str, found: tuple[str, int]) -> None:
    assert parse_place(place) == found


@pytest.mark.parametrize("place", ["a b", "x:y", "host:99999", "user@host", "host/path", "::1", ":port", "host:"])
def test_a_place_that_is_none(place: str) -> None:
    with pytest.raises(EdgekitError, match="no place to serve at"):
        parse_place(place)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("web?phones=0", "whole number from 1 to 16"), ("web?phones=two", "whole number"), ("web?minutes=9999", "1440"),
        ("web?questions=-1", "whole number"), ("web?backend=npu", "no back-end"), ("web?key=a.pem", "without a cert"),
        ("web://0.0.0.0", "every address"), ("web://127.0.0.1?cert=none.pem", "cannot be used"),
        ("web://192.0.2.7:8000", "Cannot listen"),
    ],
)  # fmt: skip
def test_options_that_are_none(spec: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "page_files", lambda ort: {})
    with pytest.raises(EdgekitError, match=says), device.connect(parse_address(spec)):
        pass


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(EdgekitError, match="no option 'phone'") as error:
        parse_address("web?phone=2")
    assert "'phones'" in str(error.value)


def test_it_says_where_it_would_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "own_address", lambda: "127.0.0.1")
    ready, what = device.reach(parse_address("web"))
    assert ready and "this machine alone" in what
    assert not device.reach(parse_address("web?phones=99"))[0]


def _certificate(folder: Path) -> Path | None:
    import shutil
    import subprocess

    if shutil.which("openssl") is None:
        return None
    out = folder / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
    ]
    command += ["1", "-subj", "/CN=localhost", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    out.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return out


def test_https_with_a_certificate(tmp_path: Path) -> None:
    import ssl

    certificate = _certificate(tmp_path)
    if certificate is None:
        pytest.skip("openssl is not installed")
    server = Server(Site({"": b"page"}, {}, {}, bool), certificate=certificate)
    server.start()
    try:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with context.wrap_socket(plain) as line:
            line.sendall(
                f"GET /{server.token}/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n".encode()
            )
            assert read_reply(line).body == b"page"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(ConnectionResetError):
                assert not line.recv(100).startswith(b"HTTP")
    finally:
        server.close()
