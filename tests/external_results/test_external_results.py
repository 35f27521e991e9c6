"""Results measured elsewhere: read, marked, refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DataError
from edgekit.external_results import read_results
from edgekit.report.files import add_rows
from edgekit.report.model import Report, Row
from edgekit.report.write import write_report


def llama(**changes: Any) -> dict[str, Any]:
    """An entry with the fields of llama-bench's JSON printer."""
    entry = {
        "build_commit": "8cf427ff", "build_number": 5163, "cpu_info": "some cpu", "gpu_info": "", "backends": "CPU",
        "model_filename": "models/qwen2-1_5b/ggml-model-q4_0.gguf", "model_type": "qwen2 1.5B Q4_0",
        "model_size": 937426944, "model_n_params": 1543714304, "n_batch": 2048, "n_threads": 8, "n_prompt": 512,
        "n_gen": 0, "n_depth": 0, "test_time": "2025-04-24T11:57:09Z", "avg_ns": 70285660, "stddev_ns": 982040,
        "avg_ts": 200.0, "stddev_ts": 10.0, "samples_ns": [1, 2], "samples_ts": [190.0, 210.0],
    }  # fmt: skip
    return {**entry, **changes}


STATS = {
    "prompt_tokens": 50, "generated_tokens": 11, "model_load_start_ms": 1000, "model_load_end_ms": 1400,
    "inference_start_ms": 2000, "inference_end_ms": 3200, "prompt_eval_end_ms": 2100, "first_token_ms": 2200,
    "aggregate_sampling_time_ms": 3, "SCALING_FACTOR_UNITS_PER_SECOND": 1000,
}  # fmt: skip
REAL = (
    'PyTorchObserver {"prefill_token_per_sec":442.857,"prompt_tokens":31,"generated_tokens":1,"model_load_start_ms":'
    '1795266462027,"model_load_end_ms":1795266462070,"inference_start_ms":1795266462104,"inference_end_ms":'
    '1795266462174,"prompt_eval_end_ms":1795266462174,"first_token_ms":1795266462174,"aggregate_sampling_time_ms":0,'
    '"SCALING_FACTOR_UNITS_PER_SECOND":1000}'
)  # printed by MultimodalRunner of ExecuTorch 1.4.1 over a bundle of the demo student
RUN = {
    "preprocess_ms": 1, "image_encode_ms": 20, "prefill_ms": 30, "first_token_ms": 1, "itl_ms": [10, 20, 10],
    "prompt_tokens": 60,
}  # fmt: skip
PHONE = {
    "format": "edgekit-phone", "schema_version": 1, "bundle": "ab" * 32, "name": "onnx-int8", "runtime": "onnxruntime",
    "target": "onnx", "precision": "int8", "device": "iPhone17,1", "os": "iOS 26.1 (23B85)", "runs": [RUN, RUN],
    "thermal_state": "nominal", "battery_percent": 80, "peak_memory_bytes": 123456789,
}  # fmt: skip


def read(tmp_path: Path, text: str) -> list[Row]:
    (tmp_path / "r.json").write_text(text)
    return read_results(tmp_path / "r.json")


def test_llama_bench(tmp_path: Path) -> None:
    entries = [llama(), llama(n_prompt=0, n_gen=128, avg_ts=40.0, samples_ts=[40.0]), llama(n_threads=4)]
    for text in (json.dumps(entries), "\n".join(json.dumps(entry) for entry in entries)):
        both, other = read(tmp_path, text)
        assert both.name == "ggml-model-q4_0.gguf" and both.size_bytes == 937426944
        assert [(test.test, test.mean) for test in both.tests] == [("pp512", 200.0), ("tg128", 40.0)]
        assert (both.prefill_tokens_per_s, both.decode_tokens_per_s) == (200.0, 40.0) and len(other.tests) == 1
        assert both.verified_by == "imported" and "llama-bench 8cf427ff" in (both.origin or "")


def test_executorch_stats(tmp_path: Path) -> None:
    later = {**STATS, "prompt_eval_end_ms": 2300, "first_token_ms": 2400, "inference_end_ms": 4400}
    lines = ["I 00:00 executorch: loading", f"PyTorchObserver {json.dumps(STATS)}", "hello"]
    log = "\n".join([*lines, f"PyTorchObserver {json.dumps(later)}"])
    (row,) = read(tmp_path, log)
    assert row.load_ms == 400 and row.ttft_ms == 300 and row.prefill_ms == 200  # medians of (200, 400), (100, 300)
    assert [test.samples for test in row.tests] == [(500.0, pytest.approx(166.667, abs=1e-3)), (10.0, 5.0)]
    assert row.origin == "r.json, ExecuTorch runner, 2 run(s)"


def test_what_executorch_really_prints(tmp_path: Path) -> None:
    (row,) = read(tmp_path, f"I tokenizers:regex.cpp:27] Registering\n{REAL}\n[stats.h:161] Prompt Tokens: 31\n")
    assert row.prefill_tokens_per_s == pytest.approx(442.857, abs=1e-3) and row.load_ms == 43 and row.ttft_ms == 70
    assert row.decode_tokens_per_s is None  # its one token is the first


def test_a_phone(tmp_path: Path) -> None:
    (row,) = read(tmp_path, json.dumps(PHONE))
    assert row.ttft_ms == 52 and row.decode_tokens_per_s == 100 and row.prefill_tokens_per_s == 2000
    assert row.device == "iPhone17,1" and "iOS 26.1" in (row.origin or "") and "battery 80 %" in (row.origin or "")


def test_a_phone_that_tells_more(tmp_path: Path) -> None:
    """Schema 2, as the web app's Bench tab writes it; what a file of schema 1 says is read as before."""
    more = {
        "schema_version": 2, "browser": "Chrome 126", "threads": 2, "compute_units": "wasm", "cpu_pressure": "serious",
        "memory_by": "performance.measureUserAgentSpecificMemory", "thermal_state_after": "fair",
        "self_test": "passed: 221 checks",
    }  # fmt: skip
    (row,) = read(tmp_path, json.dumps({**PHONE, **more}))
    assert row.origin == (
        "r.json: iOS 26.1 (23B85), Chrome 126, wasm, 2 threads, thermal nominal, thermal fair after, "
        "CPU pressure serious, memory by performance.measureUserAgentSpecificMemory, battery 80 %"
    )
    assert row.self_test == "passed: 221 checks" and row.peak_memory_bytes == 123456789
    (old,) = read(tmp_path, json.dumps(PHONE))
    assert old.self_test is None and old.origin == "r.json: iOS 26.1 (23B85), thermal nominal, battery 80 %"


@pytest.mark.parametrize("told", ["FAILED: 2 of 221 checks", "answer 3: [5, 2] in place of [6, 2]"])
@pytest.mark.parametrize("where", ["own", "extra"])
def test_a_phone_whose_self_test_failed_is_a_failed_row(tmp_path: Path, where: str, told: str) -> None:
    """Its speed is that of wrong answers; apps of schema 1 tell it among what is extra."""
    named = {"self_test": told} if where == "own" else {"extra": {"self_test": told}}
    (row,) = read(tmp_path, json.dumps({**PHONE, "schema_version": 2 if where == "own" else 1, **named}))
    assert row.status == "failed" and row.reason == f"its self-test there: {told}" and row.self_test == told
    for good in ("passed: 221 checks", "passed", "not run"):
        (row,) = read(tmp_path, json.dumps({**PHONE, "extra": {"self_test": good}}))
        assert row.status == "ok" and row.reason is None and row.self_test == good


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no known format"),
        ("[]", "no known format"),
        ('{"a": 1}', "no known format"),
        (json.dumps([llama(avg_ts=300.0)]), "the mean of its samples is 200"),
        (json.dumps([llama(avg_ts="fast")]), "avg_ts is 'fast', not a number"),
        (json.dumps([llama(), {"x": 1}]), "entry 2 is no entry of llama-bench"),
        (json.dumps([llama(avg_ts=float("nan"), samples_ts=[])]), "NaN is no JSON"),
        (json.dumps(llama(avg_ts=float("inf"))) + "\n" + json.dumps(llama()), "line 1(.|\n)*Infinity is no JSON"),
        (json.dumps(llama()).replace("200.0,", "1e999,", 1), "the number 1e999 is too large"),
        (json.dumps(llama())[:-1] + ', "n_gen": 5}', "the key 'n_gen' stands twice"),
        (json.dumps({**STATS, "prompt_tokens": float("nan")}), "NaN is no JSON"),
        (f"PyTorchObserver {json.dumps(STATS)[:-1]}" + ', "first_token_ms": 2}', "'first_token_ms' stands twice"),
        (json.dumps({**PHONE, "load_ms": float("-inf")}), "-Infinity is no JSON"),
        (json.dumps(PHONE)[:-1] + ', "name": "other"}', "the key 'name' stands twice"),
        (json.dumps(PHONE)[:-1] + ', "extra": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested more than 64 deep"),
        (json.dumps(PHONE)[:-1] + ', "battery_percent": ' + "9" * 5000 + "}", "cannot be read"),
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than 64 deep"),
        (f"PyTorchObserver {json.dumps({**STATS, 'x': 0})[:-2]}" + "[" * 100_000 + "}", "no known format"),
        (json.dumps({**STATS, "first_token_ms": 5}), "do not follow one another"),
        (json.dumps({key: STATS[key] for key in STATS if key != "prompt_tokens"}), "lacks prompt_tokens"),
        (json.dumps({**PHONE, "schema_version": 7}), "schema 7; this edgekit reads up to 2"),
        (json.dumps({**PHONE, "bundle": "x"}), "64 hexadecimal digits"),
        (json.dumps({**PHONE, "runs": []}), "expected at least one"),
        (json.dumps({**PHONE, "threads": 0}), "threads: 0 is not from 1 to 1024"),
        (json.dumps({**PHONE, "threads": "two"}), "threads: expected"),
        (json.dumps({**PHONE, "runs": [{**RUN, "prefill_ms": -1}]}), r"runs\[0\].prefill_ms: -1.0 is negative"),
        (json.dumps({**PHONE, "devize": 1}), "devize: unknown key"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read"):
        read_results(tmp_path / "none")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="Cannot read"):
        read_results(tmp_path / "b")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(DataError, match="no regular file"):
            read_results(tmp_path / name)
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(100 << 20)  # a hole: it takes no room
    with pytest.raises(DataError, match="104,857,600 bytes, and no more than 67,108,864 are read"):
        read_results(tmp_path / "large")


def test_rows_are_added_once_and_marked(tmp_path: Path) -> None:
    own = Row("ab" * 32, "onnx-int8", "onnxruntime", "onnx", "int8", "host", "ok")
    write_report(Report(2, "d", "exact", 1, {}, (own,)), tmp_path, [])
    (tmp_path / "phone.json").write_text(json.dumps(PHONE))
    (tmp_path / "llama.json").write_text(json.dumps([llama()]))
    found = [row for name in ("phone", "llama") for row in read_results(tmp_path / f"{name}.json")]
    for _ in range(2):
        report = add_rows(tmp_path, found)
        assert [row.verified_by for row in report.rows] == ["runtime", "imported", "imported"]
        assert report.notes == (
            "Not taken from a bundle of this report, so their accuracy is unknown: ggml-model-q4_0.gguf.",
        )
    assert "Not measured here, read from a file" in (tmp_path / "report.md").read_text()
    assert "(measured elsewhere)" in (tmp_path / "report.html").read_text()
