"""A board behind ssh, played by a real sshd on the loopback: what runs, what is refused, and what is left behind."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from sshd import Server, serve

from edgekit import api
from edgekit.data import samples
from edgekit.devices import _agent, _questions, parse_address, ssh
from edgekit.devices._line import BOOT
from edgekit.errors import EdgekitError
from edgekit.report.files import read_report
from edgekit.report.model import Report
from edgekit.runtimes import bench, measure, worker

SETTINGS = bench.Settings(
    data="easy-vqa:test",
    limit=24,
    warmup=1,
    max_new_tokens=4,
    trace=6,
    prompt_tokens=(16,),
    new_tokens=(8,),
    repetitions=2,
)
LONG = bench.Settings(data="easy-vqa:test", limit=60, warmup=0, max_new_tokens=4, trace=1, repetitions=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: no folder on the board, no process of a session."""
    yield
    if "server" in request.fixturenames:
        server: Server = request.getfixturevalue("server")
        _, alive = psutil.wait_procs(server.below(), timeout=20)
        assert not alive
        assert server.left() == []


def here(server: Server) -> str:
    return server.spec(python=sys.executable)


def test_a_bundle_runs_there_as_here(server: Server, tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    report = bench.bench([tiny_bundle], tiny_checkpoint, SETTINGS, tmp_path / "out", device=here(server))
    reference, board = report.rows
    place = f"ssh://{parse_address(here(server)).place}"
    assert (reference.device, reference.verified_by, board.device, board.verified_by) == (
        "host", "runtime", place, "device",
    )  # fmt: skip
    assert board.status == "ok", board.reason
    assert board.n == 24 and board.accuracy_delta == 0 and board.token_agreement == 1.0
    assert board.mean_kl is not None and board.mean_kl < 1e-9 and board.pixel_max_abs == 0
    assert board.ttft_ms is not None and board.ttft_ms > 0 and board.peak_memory_bytes
    assert board.ttft_ratio is None and board.decode_ratio is None  # two machines
    assert [test.test for test in board.tests] == ["pp16", "tg8", "img"] and all(test.mean for test in board.tests)
    assert report.devices[place]["system"].startswith("Linux") and report.devices[place]["cores"] > 0
    raw = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["device"] for row in raw] == ["host"] * 24 + [place] * 24
    text = (tmp_path / "out" / "report.md").read_text()
    assert "identity" not in text and "127.0.0.1" in text
    assert read_report(json.loads((tmp_path / "out" / "report.json").read_text())) == report


def test_unknown_and_changed_host_keys_are_refused(server: Server, tiny_bundle: Path, tmp_path: Path) -> None:
    for known in ("none", "changed"):
        spec = server.spec(known_hosts=str(server.folder / known))
        with pytest.raises(EdgekitError, match="Host key verification failed") as caught:
            bench.bench([tiny_bundle], None, SETTINGS, tmp_path / "out", device=spec)
        assert "fingerprint" in caught.value.fix
        assert not (tmp_path / "out").exists()
    assert (server.folder / "none").read_text() == ""  # nobody accepted it meanwhile


def test_a_key_that_does_not_open_is_said(server: Server) -> None:
    (row,) = api.devices([server.spec(identity=str(server.folder / "stranger"))])
    assert not row.ready and "Permission denied" in row.detail and "ssh-copy-id" in row.detail
    (row,) = api.devices([here(server)])
    assert row.ready and "Linux" in row.detail


class Trigger:
    """A progress display that does something once, at the first sign of progress."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def add_task(self, description: str, *, total: float, completed: float = 0) -> int:
        return 0

    def update(self, task: int, *, completed: float, description: str | None = None) -> None:
        if self.action is not None:
            action, self.action = self.action, None
            action()


def bench_with(
    action: Callable[[], None], bundles: list[Path], server: Server, out: Path, monkeypatch: pytest.MonkeyPatch
) -> Report:
    trigger = Trigger(action)

    @contextmanager
    def progress() -> Iterator[Trigger]:
        yield trigger

    monkeypatch.setattr(measure, "progress", progress)
    report = bench.bench(bundles, None, LONG, out, device=here(server))
    assert trigger.action is None  # it did happen
    return report


def test_a_killed_worker_is_a_failed_row(
    server: Server, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        server.running("edgekit.runtimes.worker")[0].send_signal(signal.SIGSEGV)

    report = bench_with(kill, [tiny_bundle, tiny_bundle], server, tmp_path / "out", monkeypatch)
    first, second = sorted(report.rows, key=lambda row: row.status)
    assert first.status == "failed" and "was ended by SIGSEGV" in (first.reason or "") and first.accuracy is None
    assert second.status == "ok" and second.n == 60  # the board goes on
    assert report.verdict.startswith("FAIL")


def kill_all(processes: list[psutil.Process]) -> None:
    """The end of one may be the end of the next, before it is its turn."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.parametrize("victim", ["session", "agent", "client"])
def test_a_dropped_connection_is_a_failed_row(
    victim: str, server: Server, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[psutil.Process] = []

    def drop() -> None:
        held.extend(server.running("edgekit.runtimes.worker"))
        if victim == "client":
            ours = [p for p in psutil.Process().children() if p.name() == "ssh"]
            ours[0].kill()
        elif victim == "agent":
            server.running(BOOT)[0].kill()
        else:
            kill_all(server.sessions())

    report = bench_with(drop, [tiny_bundle, tiny_bundle], server, tmp_path / "out", monkeypatch)
    assert [row.status for row in report.rows] == ["failed", "failed"]
    assert all("The connection to" in (row.reason or "") and row.accuracy is None for row in report.rows)
    assert len(held) == 2 and not psutil.wait_procs(held, timeout=20)[1]  # the workers were killed with it


def test_a_board_that_goes_for_good(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sshd").mkdir()
    with serve(tmp_path / "sshd") as server:

        def stop() -> None:
            server.process.kill()
            server.process.wait()
            kill_all(sessions)

        sessions: list[psutil.Process] = []

        def drop() -> None:
            sessions.extend(server.sessions())
            stop()

        report = bench_with(drop, [tiny_bundle, tiny_bundle], server, tmp_path / "out", monkeypatch)
    assert [row.status for row in report.rows] == ["failed", "failed"]
    assert all("The connection to" in (row.reason or "") for row in report.rows)


def test_an_interrupted_bench_leaves_nothing(
    server: Server, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_with(interrupt, [tiny_bundle], server, tmp_path / "out", monkeypatch)


def test_a_python_without_the_packages(server: Server, tiny_bundle: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare" / "bin" / "python"
    import venv

    venv.create(tmp_path / "bare", with_pip=False)
    report = bench.bench([tiny_bundle], None, SETTINGS, tmp_path / "out", device=server.spec(python=str(bare)))
    (row,) = report.rows
    assert row.status == "failed" and "lacks numpy" in (row.reason or "") and "-m pip install" in (row.reason or "")
    with pytest.raises(EdgekitError, match="cannot be reached"):
        bench.bench([tiny_bundle], None, SETTINGS, tmp_path / "out2", device=server.spec(python="/no/such/python"))


def test_a_login_that_talks_is_borne(server: Server, tmp_path: Path) -> None:
    """What ~/.bashrc prints comes before the agent's greeting; too much of it is said."""
    chatty = tmp_path / "python"
    chatty.write_text(f'#!/bin/sh\necho "Welcome to the board!"\nexec {sys.executable} "$@"\n')
    chatty.chmod(0o755)
    assert api.devices([server.spec(python=str(chatty))])[0].ready
    chatty.write_text("#!/bin/sh\nyes Welcome\n")
    found = api.devices([server.spec(python=str(chatty))])[0]
    assert not found.ready and "prints and prints" in found.detail


def test_questions_travel_whole(tmp_path: Path) -> None:
    from dataclasses import replace

    packed = _questions.pack("easy-vqa:test", 12, tmp_path / "packed")
    there = list(samples(str(packed)))
    for ours, theirs in zip(samples("easy-vqa:test", limit=12), there, strict=True):
        assert [a.open().tobytes() for a in ours.images] == [b.open().tobytes() for b in theirs.images]
        assert replace(ours, location="", images=()) == replace(theirs, location="", images=())
    assert len(list((tmp_path / "packed" / "images").iterdir())) < 12  # shared images are stored once


def test_the_sources_that_travel_are_enough_and_few() -> None:
    names = ssh._sources()
    assert {"runtimes/worker.py", "data/jsonl.py", "devices/__init__.py", "errors.py"} <= set(names)
    assert not [name for name in names if name.startswith(("commands/", "distill/", "export/", "demo/"))]


@pytest.mark.parametrize(
    "place", ["-oProxyCommand=touch x", "pi@-oProxyCommand=x", "-l@host", "a b", "host:port", "", "h;touch x@h;y z"]
)
def test_places_that_are_no_hosts(place: str) -> None:
    with pytest.raises(EdgekitError, match="is no place for ssh"):
        ssh.ssh_command(parse_address(f"ssh://{place}"))


def test_the_command_quotes_what_the_board_will_read() -> None:
    command = ssh.ssh_command(parse_address("ssh://pi@[fe80::1]:2222?python=/opt/my py/$(reboot)"))
    assert command[-2] == "fe80::1" and command[command.index("-p") + 1] == "2222"
    assert command[-1].startswith("exec '/opt/my py/$(reboot)' -u -c ")
    assert "StrictHostKeyChecking=yes" in command and "BatchMode=yes" in command


def test_the_agent_needs_only_the_standard_library_and_an_old_python() -> None:
    import ast

    tree = ast.parse(Path(_agent.__file__).read_text(), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    assert b"\0" not in Path(_agent.__file__).read_bytes()
    assert worker.TRACE == ssh.TRACE
