"""The device `web` as a bench uses it, with a phone that is played by hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from web_guest import Caller, result

from edgekit.devices import Errand, Visit, parse_address, web
from edgekit.devices._web_page import Offer
from edgekit.errors import EdgekitError

SHORT = {"phones": 1, "minutes": 0.002, "questions": 2, "backend": "auto"}
Phone = Callable[[Caller], None]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Visit]]:
    """`host(phone, ...)`: the visits of a bench of two bundles, while `phone` plays on its page."""
    servers: list[Any] = []

    def offer(folder: Path, place: int) -> Offer:
        if folder.name == "bad":
            raise EdgekitError("No bundle.", why="It is bad.")
        (tmp_path / "model.onnx").write_bytes(b"weights")
        files = {f"models/{place}/m.onnx": tmp_path / "model.onnx"}
        return Offer(place, folder.name, 100, {"name": folder.name}, files, 7)

    def start(server: Any) -> None:
        begin(server)
        servers.append(server)

    begin = web.Server.start
    monkeypatch.setattr(web.Server, "start", start)
    monkeypatch.setattr(web, "offer", offer)
    monkeypatch.setattr(web, "page_files", lambda ort: {"": b"page"})
    monkeypatch.setattr(web, "TICK_S", 0.01)
    questions = tmp_path / "questions.jsonl"
    rows = [{"id": str(n), "messages": [{"role": "user", "content": f"{n}?"}], "answer": "yes"} for n in range(9)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(phone: Phone, spec: str = "questions=2", bundles: tuple[str, ...] = ("a", "b")) -> list[Visit]:
        before = len(servers)

        def play() -> None:
            while (
                len(servers) < before + 2 and time.monotonic() < until
            ):  # the first one looks whether the place can be had
                time.sleep(0.01)
            phone(Caller(servers[-1]))

        until = time.monotonic() + 20
        thread = threading.Thread(target=play, daemon=True)
        visits: list[Visit] = []
        with web.connect(parse_address(f"web://127.0.0.1?{spec}")) as device:
            thread.start()
            paths = tuple(tmp_path / name for name in bundles)
            device.gather(Errand(paths, str(questions), 5, 1, 4, 1), visits)
        thread.join(20)
        return visits

    return run


def test_a_phone_brings_a_visit_of_each_bundle(host: Callable[..., list[Visit]]) -> None:
    seen: dict[str, Any] = {}

    def phone(caller: Caller) -> None:
        seen["offer"] = caller.ask("offer.json").value
        seen["early"] = caller.ask("task.json").status
        caller.join()
        seen["task"] = caller.ask("task.json").value
        seen["model"] = caller.ask("models/2/m.onnx").body
        for bundle in range(2):
            caller.post("result", result(bundle))

    visits = host(phone, bundles=("a", "bad", "b"))
    assert [(one.bundle, one.problem, len(one.answers)) for one in visits] == [
        (1, "No bundle. It is bad.", 0), (0, None, 2), (2, None, 2),
    ]  # fmt: skip
    bundles = [{"name": "a", "bytes": 7}, {"name": "b", "bytes": 7}]
    assert seen["offer"] == {"bundles": bundles, "questions": 2, "phones": 1}
    assert seen["early"] == 403 and seen["model"] == b"weights"
    asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": "0?"}]}], "pictures": []}
    assert seen["task"]["questions"][0] == asked
    assert "yes" not in json.dumps(seen["task"])  # what the answer should be is no phone's business
    assert (seen["task"]["maxNewTokens"], seen["task"]["warmup"], seen["task"]["threads"]) == (4, 1, 1)


def test_questions_are_those_of_the_bench_and_no_more(host: Callable[..., list[Visit]]) -> None:
    def phone(caller: Caller) -> None:
        caller.join()
        counts.append(len(caller.ask("task.json").value["questions"]))
        for bundle in range(2):
            caller.post("result", result(bundle, counts[-1]))

    for spec, count in (("questions=0", 5), ("questions=9", 5), ("questions=3", 3)):
        counts: list[int] = []
        host(phone, spec)
        assert counts == [count]


def test_where_no_phone_comes_the_rows_say_so(
    host: Callable[..., list[Visit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_settings", lambda address: dict(SHORT))
    visits = host(lambda caller: None)
    assert [(one.bundle, one.guest, one.problem) for one in visits] == [
        (0, "web://127.0.0.1", "no phone came"), (1, "web://127.0.0.1", "no phone came"),
    ]  # fmt: skip


def test_an_interrupt_keeps_what_has_come(host: Callable[..., list[Visit]], monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Visit] = []

    class Kept(list[Visit]):
        def __iadd__(self, more: Any) -> Any:
            kept.extend(more)
            return super().__iadd__(more)

    def sleep(seconds: float) -> None:
        if done.wait(seconds):
            raise KeyboardInterrupt

    def phone(caller: Caller) -> None:
        caller.join()
        caller.post("result", result(0))
        caller.post("beat", {"bundle": 1, "phase": "questions", "done": 1, "total": 2})
        done.set()

    done = threading.Event()
    monkeypatch.setattr(web, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    original = web.Host.gather
    monkeypatch.setattr(web.Host, "gather", lambda self, errand, visits: original(self, errand, Kept(visits)))
    with pytest.raises(KeyboardInterrupt):
        host(phone)
    assert [(one.bundle, one.problem) for one in kept] == [
        (0, None), (1, "the bench was ended, after 1 of 2 questions"),
    ]  # fmt: skip
