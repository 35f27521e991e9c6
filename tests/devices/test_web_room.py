"""Who comes to a bench's page: what they may say, and what becomes of those who leave."""

from __future__ import annotations

import json
from typing import Any

import pytest
from web_guest import AGENT, result

from edgekit.devices import _web_show, web
from edgekit.devices._web_messages import Wanted, browser_of
from edgekit.devices._web_room import CLOSED_S, SILENT_S, Guest, Room
from edgekit.devices._web_site import Refused

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 "
    "Mobile/15E148 Safari/604.1"
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def room(phones: int = 1) -> tuple[Room, Clock]:
    clock = Clock()
    return Room(Wanted(("onnx-fp32", "onnx-int8"), (100, 100), 2, 4), phones, [], clock), clock


def come(one: Room, agent: str = AGENT, key: str = "") -> str:
    return one.join(key, json.dumps({"agent": agent}).encode()).key


def send(one: Room, key: str, value: Any) -> Any:
    return one.result(key, json.dumps(value).encode()).value


def beat(one: Room, key: str, bundle: int, phase: str, done: float = 0, total: float = 0) -> Any:
    said = {"bundle": bundle, "phase": phase, "done": done, "total": total}
    return one.beat(key, json.dumps(said).encode()).value


def problems(one: Room) -> list[str | None]:
    return [visit.problem for visit in one.visits]


def test_a_phone_that_does_all() -> None:
    one, _ = room()
    key = come(one)
    assert beat(one, key, 0, "questions", 1, 2) == {"go": True, "why": ""}
    assert send(one, key, result(0)) == {"bundle": 1} and not one.over()
    extra = {"memory_bytes": 5_000_000, "memory_by": "performance.x", "cpu_pressure": "fair", "battery_percent": 81}
    assert send(one, key, result(1, backend="webgpu", **extra)) == {"bundle": 2} and one.over()
    first, second = one.visits
    assert (first.bundle, first.guest, first.problem) == (0, "Android 14, Chrome 126", None)
    assert first.runtime == "onnxruntime-web (wasm, 1 thread)" and first.self_test == "passed: 4 checks"
    assert len(first.answers) == 2 and first.answers[0]["token_ids"] == [5, 2]
    assert first.figures == {"load_ms": 9.0, "peak_memory_bytes": None} and "not told by this browser" in first.notes[0]
    assert second.figures["peak_memory_bytes"] == 5_000_000 and "performance.x" in second.notes[0]
    assert any("CPU pressure at worst fair" in note for note in second.notes)
    assert any("battery at 81 %" in note for note in second.notes)
    one.end("over")
    assert len(one.visits) == 2


def test_a_phone_that_falls_silent_is_a_failed_row() -> None:
    one, clock = room()
    key = come(one)
    beat(one, key, 0, "questions", 1, 2)
    clock.now = SILENT_S - 1
    one.tick()
    assert not one.visits
    clock.now = SILENT_S + 1
    one.tick()
    assert problems(one) == [
        "nothing was heard of it for 30 s; its screen was locked, or it left, after 1 of 2 questions"
    ]
    assert one.over() and beat(one, key, 1, "download")["go"] is False
    with pytest.raises(Refused, match="out of turn"):
        send(one, key, result(1))
    one.end("the bench was ended")
    assert problems(one)[1] == "nothing was heard of it for 30 s; its screen was locked, or it left, before it"


def test_a_page_that_closes_is_given_up_soon_and_may_come_back() -> None:
    one, clock = room()
    key = come(one)
    beat(one, key, 0, "load")
    one.leave(key, b'{"bundle": 0, "phase": "self-test", "done": 1, "total": 9}')
    with pytest.raises(Refused, match="missing"):
        one.leave(key, b"{}")
    beat(one, key, 0, "self-test", 2, 9)  # was on its way
    clock.now = CLOSED_S + 1
    one.tick()
    assert problems(one) == ["its page was closed, in the self-test"] and one.over()
    assert come(one, key=key) == key and not one.over()  # it goes on with the next bundle
    assert send(one, key, result(1)) == {"bundle": 2} and one.over()


def test_a_page_that_did_not_close_after_all_goes_on() -> None:
    """As one does to which its user came back."""
    one, clock = room()
    key = come(one)
    one.leave(key, b'{"bundle": 0, "phase": "self-test", "done": 1, "total": 9}')
    clock.now = 4.0
    assert beat(one, key, 0, "self-test", 2, 9)["go"]
    clock.now = 4.0 + CLOSED_S + 1
    one.tick()
    assert not one.visits


def test_a_page_that_is_loaded_anew_lost_what_it_was_at() -> None:
    """As iOS does where memory is short: without a word."""
    one, _ = room()
    key = come(one)
    beat(one, key, 0, "load")
    assert one.join(key, json.dumps({"agent": AGENT}).encode()).value["bundle"] == 1
    assert problems(one) == ["the page was loaded anew, or crashed, while loading"]
    assert one.join(key, json.dumps({"agent": AGENT}).encode()).value["bundle"] == 1  # it had not begun it


def test_an_end_fails_what_is_missing() -> None:
    one, _ = room(phones=3)
    first, second = come(one), come(one, IPHONE)
    send(one, first, result(0))
    beat(one, second, 0, "download", 5, 10)
    assert not one.over()
    one.end("the bench was ended")
    assert [(visit.guest, visit.bundle, visit.problem) for visit in one.visits] == [
        ("Android 14, Chrome 126", 0, None),
        ("Android 14, Chrome 126", 1, "the bench was ended, before it"),
        ("iOS 18, Safari 18.1", 0, "the bench was ended, while downloading"),
        ("iOS 18, Safari 18.1", 1, "the bench was ended, before it"),
    ]
    with pytest.raises(Refused, match="over"):
        come(one)


def test_a_failed_self_test_gives_no_figures() -> None:
    one, _ = room()
    key = come(one)
    wrong = [{"name": "answers", "count": 4, "passed": False, "failures": ["conversation 3: \u001b[2Jno"]}]
    send(one, key, result(0, checks=wrong))
    assert problems(one) == ["the self-test failed there on wasm: answers: conversation 3: \\x1b[2Jno"]
    files = [
        {"name": "answers", "count": 4, "passed": True, "failures": []},
        {"name": "files", "count": 10, "passed": False, "failures": ["a.png"]},
    ]
    send(one, key, result(1, checks=files))
    assert one.visits[1].problem is None
    assert one.visits[1].self_test == "passed: 14 checks, but 1 image files read otherwise"


def test_a_phone_gives_a_bundle_up_with_its_reason() -> None:
    one, _ = room()
    key = come(one)
    assert one.failed(key, json.dumps({"bundle": 0, "why": "no memory\n\u0007"}).encode()).value == {"bundle": 1}
    assert problems(one) == ["no memory\\n\\x07"]
    with pytest.raises(Refused, match="out of turn"):
        one.failed(key, json.dumps({"bundle": 0, "why": "again"}).encode())


ANSWER = result()["answers"][0]


def changed(**fields: Any) -> dict[str, Any]:
    return result(answers=[ANSWER, {**ANSWER, **fields}])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (result(questions=1), "1 of 2 questions"),
        (result(questions=3), "3 of 2 questions"),
        (changed(token_ids=[5, 100]), "vocabulary"),
        (changed(token_ids=[-1, 2]), "vocabulary"),
        (changed(token_ids=[], itl_ms=[]), "token_ids: 0"),
        (changed(token_ids=[1, 1, 1, 1, 1], itl_ms=[1, 1, 1, 1]), "token_ids: 5"),
        (changed(itl_ms=[]), "0 times for 2 tokens"),
        (changed(itl_ms=[-1]), "itl_ms: -1"),
        (changed(prefill_ms=-0.5), "prefill_ms"),
        (changed(prefill_ms=1e12), "prefill_ms"),
        (changed(prompt_tokens=0), "prompt_tokens"),
        (changed(prompt_tokens=10**4000), "prompt_tokens"),
        (changed(text="x" * 30_000), "20,000 characters"),
        (changed(prefill_ms="fast"), "expected a number"),
        (changed(score=1.0), "unknown key"),
        (result(checks=[]), "checks: none"),
        (result(checks=[{"name": "a", "count": 0, "passed": True, "failures": []}]), "checks: none"),
        (result(backend="npu"), "not one of"),
        (result(threads=0), "threads"),
        (result(load_ms=-1), "load_ms"),
        (result(memory_bytes=1 << 60), "memory_bytes"),
        (result(why="x" * 500), "why"),
        (result(name="phone"), "unknown key"),
        ([], "expected a mapping"),
    ],
)
def test_a_result_that_none_can_have_is_refused_and_a_failed_row(body: Any, says: str) -> None:
    one, _ = room()
    key = come(one)
    with pytest.raises(Refused) as refusal:
        send(one, key, body)
    assert refusal.value.status == 400
    (problem,) = problems(one)
    assert problem is not None and problem.startswith("what it sent was refused: ") and says in problem, problem


TWICE = b'{"bundle": 0, "bundle": 0, "phase": "load", "done": 0, "total": 0}'


@pytest.mark.parametrize("body", [b"", b"\xff", b"nul", b"NaN", TWICE, b"[" * 100_000, b'{"bundle": NaN}'])
def test_a_body_that_is_no_json(body: bytes) -> None:
    one, _ = room()
    key = come(one)
    for action in (one.beat, one.failed, one.result):
        with pytest.raises(Refused) as refusal:
            action(key, body)
        assert refusal.value.status == 400
    with pytest.raises(Refused):
        one.join("", body)
    assert len(one.guests) == 1


def test_another_bundle_than_its_turn_is_refused() -> None:
    one, _ = room()
    key = come(one)
    for bundle in (1, 2, -1):
        with pytest.raises(Refused, match="out of turn"):
            send(one, key, result(bundle))
    assert not one.visits
    with pytest.raises(Refused, match="malformed"):
        beat(one, key, 0, "questions", 3, 2)
    for key in ("", "x", "ü"):
        with pytest.raises(Refused, match="no key"):
            one.beat(key, b'{"bundle": 0, "phase": "load", "done": 0, "total": 0}')


@pytest.mark.parametrize("wrong", [{"cores": 0}, {"cores": 10**4000}, {"memory_gib": -1.0}, {"touch": -1}])
def test_a_device_that_none_can_be_does_not_come_in(wrong: dict[str, Any]) -> None:
    one, _ = room()
    with pytest.raises(Refused) as refusal:
        one.join("", json.dumps({"agent": AGENT, **wrong}).encode())
    assert refusal.value.status == 400 and next(iter(wrong)) in str(refusal.value) and not one.guests


def test_what_a_device_says_of_itself() -> None:
    one, _ = room()
    one.join("", json.dumps({"agent": AGENT, "cores": 8, "memory_gib": 8, "touch": 5, "secure": True}).encode())
    assert one.guests[0].about == {
        "browser": "Chrome 126", "system": "Android 14", "cores": 8, "memory_gib": 8.0, "touch_points": 5,
        "secure_context": True, "isolated": False, "webgpu": False, "user_agent": AGENT,
    }  # fmt: skip


def test_a_name_cannot_write_to_the_terminal() -> None:
    one, _ = room()
    one.join("", json.dumps({"agent": AGENT, "model": "Pixel\u001b[2J\n9" + "x" * 5000}).encode())
    assert one.guests[0].name.startswith("Pixel\\x1b[2J\\n9x") and len(one.guests[0].name) < 100


@pytest.mark.parametrize(
    ("agent", "found"),
    [
        (AGENT, ("Chrome 126", "Android 14")),
        (IPHONE, ("Safari 18.1", "iOS 18")),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", ("Firefox 140", "Linux")),
        ("Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/156.0.0.0 Safari/537.36", ("Chrome 156", "Linux")),
        ("Mozilla/5.0 (Windows NT 10.0; Win64) Chrome/126.0 Safari/537.36 Edg/126.0", ("Edge 126", "Windows")),
        ("", ("unknown browser", "unknown system")),
    ],
)  # fmt: skip
def test_browsers_by_their_agent(agent: str, found: tuple[str, str]) -> None:
    assert browser_of(agent) == found


def test_what_the_terminal_says_of_a_phone(capsys: pytest.CaptureFixture[str]) -> None:
    guest = Guest("key", "Pixel 8, Chrome 126", {}, 0.0)
    bundles = ("onnx-fp32", "onnx-int8")
    assert _web_show.state(guest, bundles) == "onnx-fp32 (1 of 2): opened"
    guest.phase, guest.done, guest.total = "download", 1e6, 4e6
    assert _web_show.state(guest, bundles) == "onnx-fp32 (1 of 2): downloading 1.0 of 4.0 MB"
    guest.bundle, guest.phase, guest.done, guest.total = 1, "questions", 3, 50
    assert _web_show.state(guest, bundles) == "onnx-int8 (2 of 2): asked 3 of 50"
    one, _ = room()
    one.guests.append(guest)
    lines = _web_show.Lines()
    lines.show(one)
    guest.done = 4  # the same tenth: nothing new
    lines.show(one)
    guest.gone = "its page was closed"
    lines.show(one)
    assert capsys.readouterr().err.splitlines() == [
        "Pixel 8, Chrome 126: onnx-int8 (2 of 2): asked 3 of 50",
        "Pixel 8, Chrome 126: left: its page was closed",
    ]
    guest.gone, guest.bundle = "", 2
    assert _web_show.state(guest, bundles) == "done"


def test_the_code_is_that_of_the_address() -> None:
    """Half blocks read back to the modules that segno makes, in a frame of light."""
    segno = pytest.importorskip("segno", reason="segno is not installed (extra web)")
    url = "http://192.168.1.20:41234/0123456789abcdefABCDEF/"
    lines = _web_show.code(url)
    halves = {" ": (0, 0), "█": (1, 1), "▀": (1, 0), "▄": (0, 1)}
    rows = [[halves[mark][half] for mark in line] for line in lines for half in (0, 1)]
    wanted = [list(row) for row in segno.make(url, error="m", micro=False).matrix]
    size = len(wanted)
    assert [row[2 : 2 + size] for row in rows[2 : 2 + size]] == wanted
    assert not any(rows[0] + rows[1] + rows[-1]) and not any(row[0] or row[1] or row[-1] or row[-2] for row in rows)


def test_own_address_is_one() -> None:
    assert web.own_address().count(".") == 3
