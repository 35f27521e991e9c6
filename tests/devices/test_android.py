"""A phone over adb: a scripted one behind a server that speaks adb's protocol, and adb's own server without a phone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from adb_double import GONE, FakePhone, serve

from edgekit import api, schema
from edgekit.bundle import Bundle, sealed
from edgekit.devices import android, parse_address
from edgekit.errors import EdgekitError
from edgekit.report import compare
from edgekit.report import files as report_files
from edgekit.runtimes import bench

SETTINGS = bench.Settings(
    data="easy-vqa:test", limit=4, warmup=0, max_new_tokens=2, trace=1, prompt_tokens=(), new_tokens=(), repetitions=0
)

# As onnxruntime_perf_test -s prints it.
PERF = """Session creation time cost: 0.25 s
First inference time cost: 2 ms
Average inference time cost: 4.2 ms
Avg CPU usage: 96 %
Peak working set size: 36696064 bytes
Runs:20
Min Latency: 0.00183404 s
P50 Latency: 0.004 s
P90 Latency: 0.0045 s
P95 Latency: 0.005 s
P99 Latency: 0.008 s
"""
LLAMA = "\n".join(
    [
        "ggml_backend: loaded",
        json.dumps({"n_prompt": 512, "n_gen": 0, "samples_ts": [100.0, 300.0, 200.0], "build_commit": "abc"}),
        json.dumps({"n_prompt": 0, "n_gen": 128, "samples_ts": [10.0, 30.0, 20.0, 25.0], "build_commit": "abc"}),
    ]
)
OBSERVER = (
    'I 00:00:01 executorch:stats.h:130] x\nPyTorchObserver {"prompt_tokens":50,"generated_tokens":20,'
    '"model_load_start_ms":1000,"model_load_end_ms":1400,"inference_start_ms":2000,"inference_end_ms":3100,'
    '"prompt_eval_end_ms":2100,"first_token_ms":2150,"aggregate_sampling_time_ms":3,'
    '"SCALING_FACTOR_UNITS_PER_SECOND":1000}\n'
)


@pytest.fixture
def phone() -> FakePhone:
    return FakePhone()


@pytest.fixture
def port(phone: FakePhone) -> Iterator[int]:
    with serve(phone) as number:
        yield number


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "tool").write_bytes(b"\x7fELF" + bytes(200_000))  # more than one packet
    return tmp_path / "tool"


def run(spec: str, bundle: Path, place: Path) -> str | None:
    place.mkdir(exist_ok=True)
    (place / "job.json").write_text(json.dumps({"folder": str(bundle), "runtime": "x", "threads": 3}))
    address = parse_address(spec)
    with android.connect(address) as machine:
        problem: str | None = machine.run(place)
    return problem


def as_target(bundle: Path, folder: Path, target: str, extra: str) -> Path:
    """A copy of a bundle that says it is of another target, with one more file."""
    shutil.copytree(bundle, folder)
    (folder / extra).write_bytes(b"weights")
    manifest = Bundle.load(bundle).manifest
    entry = replace(next(iter(manifest.files.values())), bytes=7)
    changed = replace(manifest, target=target, files={**manifest.files, extra: entry})
    (folder / "manifest.json").write_bytes(sealed(schema.to_json(changed)))
    return folder


def test_who_is_there(phone: FakePhone, port: int) -> None:
    spec = f"android?port={port}"
    (row,) = api.devices([spec])
    assert (row.device, row.ready, row.detail) == ("android", True, "Acme Phone 9, Android 16, SM8750")
    for listed, words in (
        ("", "adb knows no phone"),
        ("SER1\tunauthorized\n", "Confirm the question that the phone shows"),
        ("SER1\toffline\n", "SER1 is offline"),
        ("SER1\tdevice\nSER2\tdevice\n", "Name one: android://SERIAL"),
    ):
        phone.listed = listed
        (row,) = api.devices([spec])
        assert not row.ready and words in row.detail
    assert api.devices([f"android://SER2?port={port}"])[0].ready
    assert "It lists SER1, SER2" in api.devices([f"android://SER3?port={port}"])[0].detail


def test_graphs_of_an_onnx_bundle(
    phone: FakePhone, port: int, program: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    phone.answers = {
        r"/program .*vision_encoder": (0, PERF.replace("0.004 s", "0.010 s"), ""),
        "/program": (0, PERF, ""),
    }
    report = bench.bench(
        [tiny_bundle], None, SETTINGS, tmp_path / "out", device=f"android?port={port}&onnxruntime={program}"
    )
    here, there = report.rows
    assert (here.device, here.verified_by, there.device, there.verified_by) == ("host", "runtime", "android", "device")
    assert here.accuracy is not None and there.accuracy is None and there.status == "ok"
    assert (there.image_encode_ms, there.itl_ms_p50, there.itl_ms_p99) == pytest.approx((10, 4, 8))
    assert there.decode_tokens_per_s == pytest.approx(250)
    assert there.prefill_tokens_per_s == pytest.approx(1000 * android.PROMPT_TOKENS / 4)
    assert (there.load_ms, there.peak_memory_bytes) == (500, 36696064)  # the decoder's graph is loaded once
    vision, prefill, decode = [command for command in phone.commands if "/program" in command]
    assert "-f sequence_length:64 -f 'past_sequence_length + sequence_length:64'" in prefill
    assert "-f 'past_sequence_length + sequence_length:65'" in decode and "past_sequence_length:64" in decode
    assert "-x 1" in vision and "num_images:1" in vision
    about = report.devices["android"]
    assert (about["battery_percent"], about["battery_c"], about["plugged"], about["thermal_status"]) == (
        83,
        31.2,
        True,
        0,
    )
    raw = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["when"] for row in raw if row.get("test") == "state"] == ["before", "after"]
    assert phone.files == {}  # taken away again
    once = report_files.read_measured(tmp_path / "out")
    assert {change.verdict for change in compare.compare(once, once)} == {"same"}
    assert phone.commands[-1].startswith("rm -rf /data/local/tmp/edgekit-")


def test_files_arrive_whole(phone: FakePhone, port: int, program: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    seen: dict[str, bytes] = {}
    modes: dict[str, int] = {}
    original = phone.answer

    def answer(command: str) -> tuple[int, str, str] | str:
        if "/program" in command:
            seen.update({name.split("/", 5)[5]: data for name, data in phone.files.items()})
            modes.update({name.split("/", 5)[5]: mode for name, mode in phone.modes.items()})
            return 0, PERF, ""
        return original(command)

    phone.answer = answer  # type: ignore[method-assign]
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "libonnxruntime.so").write_bytes(b"so")
    spec = f"android?port={port}&onnxruntime={program}&libs={tmp_path / 'libs'}"
    assert run(spec, tiny_bundle, tmp_path / "job") is None
    for name in Bundle.load(tiny_bundle).manifest.files:
        assert seen[f"bundle/{name}"] == (tiny_bundle / name).read_bytes()
    assert seen["program"] == program.read_bytes() and modes["program"] & 0o777 == 0o755
    assert seen["lib/libonnxruntime.so"] == b"so"


def test_llama_bench_and_executorch(
    phone: FakePhone, port: int, program: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    phone.answers = {"--model_path": (0, "", OBSERVER), "-o jsonl": (0, LLAMA, "")}
    gguf = as_target(tiny_bundle, tmp_path / "gguf", "gguf", "model-Q4_0.gguf")
    assert run(f"android?port={port}&llama_bench={program}", gguf, tmp_path / "a") is None
    row = json.loads((tmp_path / "a" / "row.json").read_text())
    assert row == {"prefill_tokens_per_s": 200.0, "decode_tokens_per_s": 22.5}
    raw = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert [item["tokens_per_s"] for item in raw if item["test"] == "tg128"] == [10, 30, 20, 25]
    assert any("-m /data/local/tmp/edgekit-" in text and "model-Q4_0.gguf -p 512" in text for text in phone.commands)
    pte = as_target(tiny_bundle, tmp_path / "pte", "executorch", "model.pte")
    assert run(f"android?port={port}&executorch={program}", pte, tmp_path / "b") is None
    row = json.loads((tmp_path / "b" / "row.json").read_text())
    assert row == {"load_ms": 400, "ttft_ms": 150, "prefill_tokens_per_s": 500, "decode_tokens_per_s": 20}


def test_own_arguments_are_quoted(
    phone: FakePhone, port: int, program: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    pte = as_target(tiny_bundle, tmp_path / "pte", "executorch", "model.pte")
    phone.answers = {"/program": (0, OBSERVER, "")}
    spec = f"android?port={port}&executorch={program}&args=--m {{model}} --prompt 'a $(reboot); b' --t {{threads}}"
    assert run(spec, pte, tmp_path / "a") is None
    (command,) = [text for text in phone.commands if "/program" in text]
    assert command.endswith("/bundle/model.pte --prompt 'a $(reboot); b' --t 3")


def test_failures_are_reasons(phone: FakePhone, port: int, program: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    spec = f"android?port={port}&onnxruntime={program}"
    phone.answers = {
        "/program": (139, "", "loading\nSegmentation fault\n"),
        "logcat": (0, "E lmkd: kill program\nx", ""),
    }
    problem = run(spec, tiny_bundle, tmp_path / "a")
    assert problem is not None and "was ended by signal 11" in problem and "Segmentation fault" in problem
    assert "lmkd: kill program" in problem and phone.files == {}
    phone.answers = {"/program": GONE}
    assert "The device went away" in (run(spec, tiny_bundle, tmp_path / "a") or "")
    phone.answers = {"/program": (0, "nothing of use", "")}
    assert "printed no latencies" in (run(spec, tiny_bundle, tmp_path / "a") or "")
    phone.answers, phone.room = {}, 1000
    assert "No space left on device" in (run(spec, tiny_bundle, tmp_path / "a") or "")
    assert "No program at" in (run(f"android?port={port}&onnxruntime=/no/such", tiny_bundle, tmp_path / "a") or "")
    assert "android?onnxruntime=PATH" in (run(f"android?port={port}", tiny_bundle, tmp_path / "a") or "")


def test_a_hot_phone_marks_its_samples(
    phone: FakePhone, port: int, program: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    phone.answers, phone.thermal = {"/program": (0, PERF, "")}, 4
    assert run(f"android?port={port}&onnxruntime={program}", tiny_bundle, tmp_path / "a") is None
    raw = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert all(item["throttled"] for item in raw)


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    (row,) = api.devices([f"android?port={free}"])
    assert not row.ready and "adb start-server" in row.detail
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "many")
    assert "is no port" in api.devices(["android"])[0].detail


@pytest.mark.skipif(shutil.which("adb") is None, reason="needs adb (Debian: apt-get install adb)")
def test_the_real_server_without_a_phone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    try:
        subprocess.run(["adb", "-P", str(free), "start-server"], capture_output=True, check=True)
        (row,) = api.devices([f"android?port={free}"])
        assert not row.ready and "adb knows no phone. It lists none." in row.detail
        with pytest.raises(EdgekitError, match="adb refuses"):
            android._adb.Adb("SER1", free).shell("true")
    finally:
        subprocess.run(["adb", "-P", str(free), "kill-server"], capture_output=True, check=False)


def test_free_axes() -> None:
    shapes: list[tuple[int | str, ...]] = [("b", "s", 4), ("b", "p + s"), ("b", 1, "p", 16)]
    assert android.free_axes(shapes, {"s": 3, "p": 5}) == {"b": 1, "s": 3, "p + s": 8, "p": 5}
