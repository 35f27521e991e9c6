"""Benches whose processes hang, print, run out of memory, die, or lose their parent; by another package's runtime."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy_runtime import RUNTIME, install, toy_bundle

from edgekit import api
from edgekit.devices import parse_address
from edgekit.errors import EdgekitError
from edgekit.report.files import read_report
from edgekit.report.model import Report, Row
from edgekit.runtimes import RUNTIMES, placement, runtime_for
from edgekit.runtimes.bench import Settings, bench
from edgekit.runtimes.journal import Journal
from edgekit.system.temporary import room
from edgekit.system.timeouts import Timeouts, changed, seconds_of


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy runtime installed, temporary files in a folder of their own, three questions; a folder for bundles."""
    install(monkeypatch, tmp_path / "site")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    parts = [{"type": "image"}, {"type": "text", "text": "q?"}]
    turn = {"messages": [{"role": "user", "content": parts}], "images": ["p.png"], "answer": "yes no"}
    rows = [{"id": str(n), **turn} for n in range(3)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def measured(toys: Path, *bundles: Path, timeouts: Timeouts | None = None, **more: Any) -> Report:
    settings = Settings(
        str(toys / "q.jsonl"), warmup=0, trace=0, timeouts=timeouts or Timeouts(),
        **{"repetitions": 0, "prompt_tokens": (2,), "new_tokens": (2,), **more},
    )  # fmt: skip
    return bench(bundles, None, settings, toys / "out")


def nothing_is_left(toys: Path) -> None:
    assert list((toys / "tmp").iterdir()) == []


HANGS = {
    "load": ({"kind": "sleep", "where": "load", "seconds": 600}, "its load took longer than 2 s"),
    "encode": ({"kind": "sleep", "where": "encode", "seconds": 600}, "its image's encoding took longer than 2 s"),
    "prefill": ({"kind": "sleep", "where": "prefill", "seconds": 600}, "its prefill took longer than 2 s"),
    "decode": ({"kind": "sleep", "where": "decode", "seconds": 600, "after": 2}, "its token took longer than 2 s"),
    "slow": ({"kind": "sleep", "where": "decode", "seconds": 1.5}, "its answer took longer than 2.5 s"),
    # It holds the interpreter, so no beat comes: only the longest of all limits is sure to be over.
    "native": ({"kind": "native", "where": "load", "seconds": 600}, "it was silent for longer than 3 s"),
}


def test_what_hangs_is_a_failed_row(toys: Path) -> None:
    short = Timeouts(start_s=120, load_s=2, encode_s=2, prefill_s=2, decode_s=2, answer_s=2.5)
    held(toys, {name: one for name, one in HANGS.items() if name != "native"}, short)


def test_what_hangs_in_native_code_is_a_failed_row(toys: Path) -> None:
    held(toys, {"native": HANGS["native"]}, Timeouts(120, 3, 3, 3, 3, 3))


WRONG = {
    "line": ({"kind": "channel", "text": "rubbish\n"}, "it sent b'rubbish' where a reply belongs"),
    "half": ({"kind": "channel", "text": "half"}, "it sent b'half"),
    "json": ({"kind": "channel", "text": "{}\n"}, "it sent {} where a reply belongs"),
    "other": ({"kind": "channel", "text": '{"reply": 99, "ok": 1}\n'}, "it sent {'reply': 99, 'ok': 1} where"),
    "deep": ({"kind": "channel", "text": "[" * 100000 + "\n"}, "it sent b'[[["),
    "memory": ({"kind": "memory"}, "The memory ran out: cannot answer. MemoryError: the toy wants more than there is"),
    "recursion": ({"kind": "recursion"}, "The runtime called itself without end: cannot answer. RecursionError: max"),
    "bug": ({"kind": "bug"}, "its process ended with exit code 1: "),
    "segv": ({"kind": "signal", "signal": "SIGSEGV"}, "its process was ended by SIGSEGV"),
    "killed": ({"kind": "signal", "signal": "SIGKILL"}, "its process was ended by SIGKILL"),
    "rows": ({"kind": "shape", "shape": [1, 8]}, "The runtime gives logits of shape (1, 8), not (8,) or longer"),
    "short": ({"kind": "shape", "shape": [7]}, "The runtime gives logits of shape (7,), not (8,) or longer"),
    "scalar": ({"kind": "shape", "shape": []}, "The runtime gives logits of shape (), not (8,) or longer"),
}


def test_what_goes_wrong_is_a_failed_row(toys: Path) -> None:
    faults = {name: ({"where": "prefill", "after": 2, **fault}, said) for name, (fault, said) in WRONG.items()}
    reasons = held(toys, faults, Timeouts())
    assert reasons["bug"].endswith("KeyError: 'a bug of the toy'")


def held(toys: Path, faults: dict[str, tuple[dict[str, Any], str]], timeouts: Timeouts) -> dict[str, str]:
    """Bench one bundle of each fault and a good one behind them; each reason must begin as it should."""
    begun = time.monotonic()
    bundles = [toy_bundle(toys / name, **fault) for name, (fault, _) in faults.items()]
    rows = measured(toys, *bundles, toy_bundle(toys / "good"), timeouts=timeouts).rows
    reasons = {row.name: row.reason or "" for row in rows}
    for name, (_, said) in faults.items():
        assert reasons[name].startswith(said), reasons[name]
    assert [row.status for row in rows] == ["failed"] * len(faults) + ["ok"]
    assert rows[-1].accuracy == 1.0 and rows[-1].n == 3
    assert time.monotonic() - begun < 120
    nothing_is_left(toys)
    return reasons


def test_what_prints_is_borne(toys: Path) -> None:
    """Python's print, a native write to descriptor 1, and a kept sys.__stdout__: none reaches the replies."""
    (row,) = measured(toys, toy_bundle(toys / "loud", kind="print", where="decode")).rows
    assert row.status == "ok" and row.accuracy == 1.0, row.reason


def test_run_all_goes_on_behind_what_hangs(toys: Path) -> None:
    bundles = [toy_bundle(toys / "hangs", kind="sleep", where="prefill", seconds=600), toy_bundle(toys / "good")]
    hangs, good = api.run_all("q?", [toys / "p.png"], list(bundles), timeouts=["prefill=1s"])
    assert hangs.problem.startswith("its prefill took longer than 1 s, and its process was ended")
    assert hangs.problem.count("--timeout prefill=TIME") == 1
    assert good.text == "yes no" and good.runtime == "toy"
    nothing_is_left(toys)


def test_timeouts_are_read_and_refused() -> None:
    assert [seconds_of(text) for text in ("30s", "5m", "1.5h", "90")] == [30, 300, 5400, 90]
    assert [seconds_of(text) for text in ("", "-1s", "5 minutes", "1e3", "nan", "inf", "5d")] == [None] * 7
    assert changed(Timeouts(), ["load=10m", " prefill = 90 "]) == Timeouts(load_s=600, prefill_s=90)
    for bad in ("load", "load=", "load=0", "lode=1m", "=5m", "load=-1"):
        with pytest.raises(EdgekitError, match="not PHASE=TIME"):
            changed(Timeouts(), [bad])


# ------------------------------------------------------------------------------------------------- a killed parent

CODE = """
import sys
from pathlib import Path
from edgekit.runtimes.bench import Settings, bench
from edgekit.system.timeouts import Timeouts
folder = Path(sys.argv[1])
settings = Settings(str(folder / "q.jsonl"), warmup=0, trace=0, repetitions=0, processes=1)
def work():
    bench([folder / "one", folder / "two"], None, settings, folder / "out")
if sys.argv[2] == "thread":
    import threading
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def of_bench(toys: Path) -> list[psutil.Process]:
    """Living processes whose temporary files go to this test's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(toys / "tmp") in process.environ().get("TMPDIR", "") and process.status() != "zombie":
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("thread", "prefill"),
        ("main", "native"),
        pytest.param("main", "prefill", marks=pytest.mark.slow),
        pytest.param("main", "start", marks=pytest.mark.slow),
        pytest.param("thread", "start", marks=pytest.mark.slow),
    ],
)
def test_a_killed_bench_leaves_no_process_and_the_next_one_no_folder(how: str, where: str, toys: Path) -> None:
    """`thread` is the pipe's way alone, as on macOS; `native` holds the interpreter, so only the kernel can end it."""
    kind = "native" if placement == "native" else "sleep"
    for name in ("one", "two"):
        toy_bundle(toys / name, kind=kind, where="prefill", seconds=600)
    running = subprocess.Popen([sys.executable, "-c", CODE, str(toys), how], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(of_bench(toys)) >= (2 if placement == "start" else 3))
        if placement != "start":
            time.sleep(2 + random.random())
    finally:
        running.kill()
        running.wait()
    wait_for(lambda: not of_bench(toys))
    assert len(list((toys / "tmp").glob("edgekit-bench-*.room"))) == 1
    with room("other"):
        assert [path.name.split("-")[1] for path in (toys / "tmp").iterdir()] == ["other"]
    nothing_is_left(toys)


@pytest.mark.parametrize("how", [pytest.param("main", marks=pytest.mark.slow), "thread"])
def test_grandchildren_end_too(how: str, toys: Path) -> None:
    """As llama.cpp's process is started by a worker."""
    (toys / "site" / "toy_sleeper.py").write_text("import time\ntime.sleep(600)\n")
    code = "from edgekit.system.child import launch\nheld = launch('toy_sleeper')\ntime.sleep(600)"
    for name in ("one", "two"):
        toy_bundle(toys / name, kind="code", where="load", code=code)
    running = subprocess.Popen([sys.executable, "-c", CODE, str(toys), how], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(of_bench(toys)) >= 3)  # the second one is not started before the first is loaded
    finally:
        running.kill()
        running.wait()
    wait_for(lambda: not of_bench(toys))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.matrix) for seed in range(4, 16))])
def test_a_bench_killed_at_a_random_time(seed: int, toys: Path) -> None:
    twenty(toys)
    drawn = random.Random(seed)
    for name in ("one", "two"):
        toy_bundle(toys / name, kind="sleep", where="decode", seconds=0.05)
    how = drawn.choice(["main", "thread"])
    running = subprocess.Popen([sys.executable, "-c", CODE, str(toys), how], stderr=subprocess.DEVNULL)
    time.sleep(drawn.uniform(0.5, 12))
    running.kill()
    running.wait()
    wait_for(lambda: not of_bench(toys))
    left = subprocess.run([sys.executable, "-c", CODE, str(toys), "main"], stderr=subprocess.PIPE, text=True)
    assert left.returncode == 0, left.stderr
    report = read_report(json.loads((toys / "out" / "report.json").read_text()))
    assert [(row.status, row.n, row.accuracy) for row in report.rows] == [("ok", 20, 1.0)] * 2
    assert not (toys / "out" / "unfinished.jsonl").exists()
    nothing_is_left(toys)


def wait_for(holds: Any, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_rooms_of_the_living_and_of_others_stay(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("edgekit-mine", "x.room", "edgekit-bench-abc")]
    for other in others:
        other.mkdir()
    (tmp_path / "edgekit-link-1.room").symlink_to(others[0])
    dead = tmp_path / "edgekit-bench-dead.room"
    dead.mkdir()
    (dead / "file").write_text("left")
    with room("one", tmp_path) as first, room("two", tmp_path) as second:
        assert first.is_dir() and second.is_dir() and not dead.exists()
        assert first.stat().st_mode & 0o77 == 0
    assert not first.exists() and all(other.is_dir() for other in others)
    assert (tmp_path / "edgekit-link-1.room").is_symlink()


# --------------------------------------------------------------------------------------- what is replaced meanwhile


def test_a_bundle_replaced_during_a_bench_fails_its_row(toys: Path) -> None:
    """Each way in which a folder can become another: renamed in its place, one file changed, a manifest changed."""
    ways = {
        "replaced": "shutil.rmtree('{0}'); shutil.copytree('{1}', '{0}')",
        "changed": "open('{0}/toy.json', 'r+').write('{{}}  ')",
        "manifest": "p = Path('{0}/manifest.json'); p.write_text(p.read_text().replace('idefics3', 'llava'))",
        "touched": "p = Path('{0}/toy.json'); p.write_text(p.read_text())",
    }
    other = toy_bundle(toys / "other", nothing="here")
    subjects = []
    for name, way in ways.items():
        change = way.format(toys / name, other)
        subjects.append(toy_bundle(toys / name, kind="code", where="decode", after=2, code=f"import shutil; {change}"))
    rows = {row.name: row for row in measured(toys, *subjects, timeouts=Timeouts()).rows}
    for name in ("replaced", "changed", "manifest"):
        reason = rows[name].reason
        assert rows[name].status == "failed" and reason is not None, name
        assert "was replaced or changed while it was being used" in reason, reason
    assert rows["touched"].status == "ok", "the same bytes written again are the same bundle"
    answers = api.run_all(
        "q?",
        [],
        [
            toy_bundle(
                toys / "again",
                kind="code",
                where="decode",
                code="import shutil; " + ways["replaced"].format(toys / "again", other),
            )
        ],
    )
    assert "was replaced or changed" in answers[0].problem


# ------------------------------------------------------------------------------------------------------- clocks

CLOCKS = {
    "still": "time.perf_counter = lambda: 5.0",
    "back": "import itertools; n = itertools.count(); time.perf_counter = lambda: 1e6 - next(n)",
    "jumps": "import itertools; n = itertools.count(); time.perf_counter = lambda: 1e12 * (next(n) % 2)",
    "epoch": "time.time = lambda: 0.0; time.sleep(0)",
}


def test_a_clock_that_stands_still_or_jumps(toys: Path) -> None:
    """Times of such a machine say nothing, and its answers are as right as ever."""
    bundles = [toy_bundle(toys / name, kind="code", where="load", code=code) for name, code in CLOCKS.items()]
    rows = {row.name: row for row in measured(toys, *bundles, repetitions=2, sustain_s=0.01, processes=1).rows}
    for name in ("still", "back", "jumps"):
        row = rows[name]
        assert row.n == 3 and row.accuracy == 1.0 if row.status == "ok" else "clock" in str(row.reason), row
    for row in rows.values():
        json.dumps([row.ttft_ms, row.decode_tokens_per_s, row.load_ms], allow_nan=False)
    assert rows["epoch"].status == "ok" and rows["epoch"].ttft_ms is not None and rows["epoch"].ttft_ms > 0


def test_rows_of_times_that_are_none() -> None:
    """Zero, negative and infinite times: no latency is told, the accuracy is, and nothing is compared with them."""
    from edgekit.runtimes.measure import Measured
    from edgekit.runtimes.rows import fill

    def answers(ms: float) -> Measured:
        one = {"turn": 0, "score": 1.0, "token_ids": [5, 2], "prompt_tokens": 3, "itl_ms": [ms], "ttft_ms": ms}
        one |= dict.fromkeys(("preprocess_ms", "image_encode_ms", "prefill_ms", "first_token_ms"), ms)
        return Measured("x", answers=[one, one])

    row = Row("b", "n", "r", "t", "fp32", "host", "ok")
    good = answers(2.0)
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        found = fill(row, answers(bad), good)
        assert found.accuracy == 1.0 and found.accuracy_delta == 0.0 and found.token_agreement == 1.0
        assert found.ttft_ms is None and found.decode_tokens_per_s is None and found.ttft_ratio is None
        assert found.timing_note is not None and found.timing_note.startswith("6 of its times are not above 0")
        assert fill(row, good, answers(bad)).ttft_ratio is None
    assert fill(row, good, good).ttft_ratio == 1.0 and fill(row, good, good).decode_tokens_per_s == 500


def test_a_meter_that_falls_silent(tmp_path: Path) -> None:
    from edgekit.system.energy import Rapl

    (tmp_path / "intel-rapl:0").mkdir()
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.write_text("1000000")
    meter = Rapl(tmp_path)
    before = meter.look()
    counter.write_text("3000000")
    assert meter.joules(before, meter.look()) == 2.0
    counter.write_text("")
    assert meter.joules(before, meter.look()) is None


# ------------------------------------------------------------------------------------------------- other packages


def test_a_runtime_without_packages_loses_nothing(toys: Path) -> None:
    assert "packages" not in RUNTIME
    report = measured(toys, toy_bundle(toys / "b"), repetitions=1)
    assert report.rows[0].status == "ok" and report.verdict == ""
    assert (toys / "out" / "report.json").exists() and "edgekit" in report.versions
    assert {test.test: test.reason for test in report.rows[0].tests} == {"pp2": None, "tg2": None, "img": None}


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('bad driver')",
        "import no_such_package",
        "import sys; sys.exit(3)",
        "def open_session(: pass",
        "TARGETS = ('toy',)",
        "raise ImportError",
    ],
)
def test_a_broken_plug_in_is_a_row_of_doctor_and_stops_nothing(
    source: str, toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = ("runtimes", "devices", "export", "data", "families", "external_results", "data.scoring", "formats")
    groups = (*groups, "distill.objectives", "distill.judges", "distill.generators")  # all the registries there are
    install(monkeypatch, toys / "more", {(f"edgekit.{group}", "aaa"): source for group in groups}, name="broken")
    assert runtime_for(toy_bundle(toys / "b")) == "toy"
    if source.startswith("raise RuntimeError"):
        assert measured(toys, toys / "b").rows[0].status == "ok"
    rows = [row for row in api.doctor() if row.name.endswith(" aaa")]
    assert len(rows) == len(groups)
    assert all(not row.ready and row.detail and row.fix for row in rows)
    assert "aaa" not in [row.target for row in api.targets()]
    with pytest.raises(EdgekitError, match="'aaa' cannot be loaded"):
        RUNTIMES.load("aaa")


OWN = """
from edgekit.export import Target
from edgekit.precision import FP32, CommonPrecision, TargetPrecision, Tolerances, by_name

def refuse(*a):
    raise AssertionError

FP8 = CommonPrecision("fp8", Tolerances({"top1_agreement": 0.9}, {"mean_kl": 0.3}, 12.0), 1.0, linear=True)
OWN = TargetPrecision(FP8, "e4m3", packages={"no_such_package": "no-such"})
TARGET = Target("own", %s, "", {}, ("Linux", "Darwin"), (), refuse)
"""


def test_another_packages_target_brings_a_precision_of_its_own(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.export.bundling import check_request
    from edgekit.report.tolerances import component_tolerances, random_tolerances_of, tolerances_of

    source = OWN % "by_name(TargetPrecision(FP32, 'f'), OWN)"
    install(monkeypatch, toys / "more", {("edgekit.export", "own"): source}, name="own")
    check_request("own", "fp32")
    with pytest.raises(EdgekitError, match=r"no_such_package is not installed.\n.*pip install no-such$"):
        check_request("own", "fp8")
    assert tolerances_of("fp8", "own") == {"top1_agreement": 0.9} and random_tolerances_of("fp8", "own") == {
        "mean_kl": 0.3
    }
    assert component_tolerances("fp8", "own") == {
        "vision_snr_db": 12.0,
        "embedding_snr_db": 80.0,
        "decoder_snr_db": 12.0,
    }
    with pytest.raises(EdgekitError, match="No tolerances are declared for precision 'fp8' of target 'onnx'"):
        tolerances_of("fp8", "onnx")
    (row,) = [row for row in api.doctor() if row.name == "extra own"]
    assert not row.ready and row.fix == "pip install no-such"
    (status,) = [status for status in api.targets() if status.target == "own"]
    assert status.missing == "pip install no-such" and status.precisions == ["fp32", "fp8"]


@pytest.mark.parametrize(
    ("precisions", "why"),
    [
        ("{'fp8': 'e4m3'}", "precisions: 'fp8' is a str, no TargetPrecision"),
        ("{'fp9': OWN}", "precisions: 'fp9' is the precision 'fp8'"),
        ("by_name(TargetPrecision(CommonPrecision('fp8', Tolerances({}, {'mean_kl': 1.0}, 9.0)), ''))", "hold nothing"),
        ("('fp8',)", "precisions is no mapping"),
    ],
)
def test_a_target_whose_precisions_could_not_be_judged_is_broken(
    precisions: str, why: str, toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.report.tolerances import tolerances_of

    install(monkeypatch, toys / "more", {("edgekit.export", "own"): OWN % precisions}, name="own")
    (row,) = [row for row in api.doctor() if row.name == "target own"]
    assert why in row.detail
    assert tolerances_of("fp16", "own") == tolerances_of("fp16")  # its bundles are held to what the name says
    with pytest.raises(EdgekitError, match="'own' cannot be loaded"):
        tolerances_of("fp8", "own")


# ------------------------------------------------------------------------------------------ what was measured is kept


def twenty(toys: Path) -> None:
    """Twenty questions, so that there are five turns of four."""
    rows = [json.loads(line) for line in (toys / "q.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**rows[0], "id": str(n)}) + "\n" for n in range(20))
    (toys / "q.jsonl").write_text(text)


def test_a_bench_that_is_ended_early_reports_and_goes_on(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, a fault of the parent, and SIGKILL in the third turn; then the same bench again."""
    from edgekit.runtimes import measure as measuring

    twenty(toys)
    bundles = [toy_bundle(toys / "one"), toy_bundle(toys / "two"), toy_bundle(toys / "bad", kind="bug", where="load")]
    real, asked = measuring._turn, []

    def turn(runner: Any, number: int, *rest: Any) -> None:
        asked.append((runner.measured.title, number))
        if stop is not None and number == 2:
            raise stop
        real(runner, number, *rest)

    monkeypatch.setattr(measuring, "_turn", turn)
    for stop in (KeyboardInterrupt(), ValueError("a bug of ours")):
        with pytest.raises(type(stop)):
            measured(toys, *bundles, processes=1)
        report = read_report(json.loads((toys / "out" / "report.json").read_text()))
        assert report.verdict.startswith(f"FAIL: ended early: {type(stop).__name__}")
        assert [(row.status, row.n) for row in report.rows] == [("ok", 8), ("ok", 8), ("failed", None)]
        assert report.rows[0].accuracy == 1.0 and "of 20 questions were answered" in report.notes[0].lower()
        lines = (toys / "out" / "results.jsonl").read_text().splitlines()
        assert len(lines) == 16 and (toys / "out" / "report.html").exists()
        nothing_is_left(toys)
    before = [json.loads(line) for line in lines]
    asked.clear()
    stop = None
    report = measured(toys, *bundles, processes=1)
    assert {number for _, number in asked} == {2, 3, 4} and report.verdict.startswith("FAIL: not measured: bad")
    assert [(row.status, row.n) for row in report.rows] == [("ok", 20), ("ok", 20), ("failed", None)]
    after = [json.loads(line) for line in (toys / "out" / "results.jsonl").read_text().splitlines()]
    assert [one for one in after if one["turn"] < 2] == before, "what was measured before is as it was"
    assert [one["id"] for one in after if one["name"] == "two"] == [str(n) for n in range(20)]
    assert not (toys / "out" / "unfinished.jsonl").exists()


def test_only_the_same_bench_is_gone_on_with(tmp_path: Path) -> None:
    rows = [{"turn": 0, "id": "a"}]
    Journal(tmp_path, {"limit": 1}).add(0, rows)
    assert Journal(tmp_path, {"limit": 1}).answers(0) == rows
    path = tmp_path / "unfinished.jsonl"
    with path.open("a") as stream:  # a kill in the middle of a line
        stream.write('{"subject": 0, "rows": [{"tu')
    assert Journal(tmp_path, {"limit": 1}).answers(0) == rows
    for text in ("", "[]", "\0\0\0", '{"limit": 1}\n[1]\n{"subject": 0, "rows": 5}\n{"subject": 0}\n'):
        path.write_text(text)
        assert Journal(tmp_path, {"limit": 1}).answers(0) == []
    Journal(tmp_path, {"limit": 1}).add(0, rows)
    assert Journal(tmp_path, {"limit": 2}).answers(0) == [] and len(path.read_text().splitlines()) == 1


def test_a_device_of_another_package_that_fails_costs_its_own_rows(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import json, os
from contextlib import contextmanager
from edgekit.devices import Device
def reach(address):
    return True, "a toy"
class Board:
    def describe(self):
        return {"cpu": "toy"}
    def run(self, folder):
        name = json.loads((folder / "job.json").read_text())["folder"].rsplit("/", 1)[1]
        if name == "bug":
            raise KeyError("its own")
        texts = {"rubbish": "rubbish", "list": "[1]", "text": '{"ttft_ms": "fast"}', "nan": '{"ttft_ms": NaN}',
                 "deep": "[" * 100000, "strange": '{"speed": 1}', "good": '{"ttft_ms": 5}'}
        if name in texts:
            (folder / "row.json").write_text(texts[name])
@contextmanager
def connect(address):
    yield Board()
DEVICE = Device(reach, timer=connect)
"""
    install(monkeypatch, toys / "more", {("edgekit.devices", "board"): source}, name="boards")
    names = ("bug", "none", "rubbish", "list", "text", "nan", "deep", "strange", "good")
    bundles = [toy_bundle(toys / name) for name in names]
    with placement.place_at(parse_address("board")) as place:
        assert place.timer is not None
        row = Row("h", "n", "toy", "toy", "fp32", "board", "ok")
        rows = {
            one.name: placement.time_on(place.timer, one, "toy", 1, row, toys / "aside" / one.name)[0]
            for one in bundles
        }
    assert rows["good"].status == "ok" and rows["good"].ttft_ms == 5
    reasons = {name: one.reason or "" for name, one in rows.items() if one.status == "failed"}
    assert set(reasons) == set(names) - {"good"}
    assert reasons["bug"] == "KeyError: 'its own'" and "no field of a report's row" in reasons["strange"]
