"""`edgekit bench --device web` with real browsers: a desktop and emulated phones in Chromium, several at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from web_library import BROWSER, MODULES, chromium, package, run

from edgekit.devices import web

VISIT = BROWSER.with_name("visit.mjs")
WAIT_S = 300.0
Bundles = Callable[[str], Path]


class Bench:
    """A bench that runs beside this process.

    Args:
        address: Of `--device`.
        bundle: Folder.
        work: For the report and what is printed.
        more: Further arguments.
    """

    def __init__(self, address: str, bundle: Path, work: Path, more: Sequence[str] = ()) -> None:
        self.work, self.log = work, work / "stderr.txt"
        ort = package("onnxruntime-web")
        command = [sys.executable, "-m", "edgekit", "bench", str(bundle), "--data", "easy-vqa:test", "--limit", "8"]
        command += ["-r", "0", "--processes", "1", "--device", f"{address}&ort={ort}", "--out", str(work / "out")]
        with (work / "stdout.txt").open("wb") as out, self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *more, "--json"], stdout=out, stderr=log, cwd=work)

    def url(self) -> str:
        """Of the page, when it is served."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until and self.process.poll() is None:
            if found := re.search(r"https?://\S+/", self.log.read_text()):
                return found[0]
            time.sleep(0.2)
        raise AssertionError(self.log.read_text()[-3000:])

    def visited(self, *guests: dict[str, Any]) -> dict[str, Any]:
        """What the guests' pages showed."""
        task = {"url": self.url(), "chromium": chromium(), "work": str(self.work), "guests": guests}
        found: dict[str, Any] = run(VISIT, [str(MODULES)], task, self.work, timeout_s=WAIT_S)
        assert not any("failed" in one for one in found.values()), found
        return found

    def end(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(WAIT_S)
        finally:
            self.process.kill()


@pytest.fixture
def bench(demo_bundle: Bundles, tmp_path: Path) -> Callable[..., Bench]:
    package("playwright-core")
    chromium()
    return lambda address, *more: Bench(address, demo_bundle("fp32"), tmp_path, more)


@pytest.mark.slow
def test_a_desktop_and_a_phone_answer_at_once_and_another_leaves(bench: Callable[..., Bench]) -> None:
    ran = bench("web://127.0.0.1?phones=3&questions=6&minutes=5", "--reference", "demo:student")
    shown = ran.visited(
        {"name": "desktop"},
        {"name": "phone", "phone": "Pixel 7", "throttle": 2},
        {"name": "leaver", "phone": "iPhone 15", "leaveAt": "Testing"},
    )
    assert ran.end() == 3  # not all was measured
    report = json.loads((ran.work / "stdout.txt").read_text())
    here = [row for row in report["rows"] if row["device"] == "host"]
    came = {row["device"]: row for row in report["rows"] if row["device"] != "host"}
    assert len(here) == 2 and len(came) == 3
    desktop, phone = (next(row for name, row in came.items() if name.startswith(own)) for own in ("Linux", "Android"))
    for row in (desktop, phone):
        assert (row["status"], row["verified_by"], row["n"]) == ("ok", "device", 6)
        assert row["runtime"] == "onnxruntime-web (wasm, 1 thread)"
        assert row["token_agreement"] == 1.0 and row["accuracy_delta"] == 0.0  # token by token as PyTorch here
        assert row["self_test"].startswith("passed: ") and int(row["self_test"].split()[1]) > 200
        assert row["ttft_ms"] > 0 and row["decode_tokens_per_s"] > 0 and row["ttft_ms_ci95"][0] <= row["ttft_ms"]
        assert row["peak_memory_bytes"] > 5_000_000 and row["ttft_ratio"] is None
    gone = next(row for name, row in came.items() if name.startswith("iOS"))
    assert gone["status"] == "failed" and gone["reason"].startswith("its page was closed, ")
    assert report["devices"][phone["device"]]["touch_points"] > 0 and report["devices"][desktop["device"]]["isolated"]
    raw = [json.loads(line) for line in (ran.work / "out" / "results.jsonl").read_text().splitlines()]
    assert sum(one["device"] == phone["device"] for one in raw) == 6
    log = ran.log.read_text()
    assert f"{phone['device']}: done" in log and "left: its page was closed" in log
    for name in ("desktop", "phone"):
        assert shown[name]["state"] == "done" and not shown[name]["errors"] and not shown[name]["wide"]
        assert "tokens/s" in shown[name]["rows"][0]


@pytest.mark.slow
def test_over_plain_http_of_the_network_and_ctrl_c_keeps_what_has_come(bench: Callable[..., Bench]) -> None:
    """There a page has no secure context: no store, no isolation, one thread; the second phone never comes."""
    address = web.own_address()
    if address in web.ALONE:
        pytest.skip("this machine is in no network")
    ran = bench(f"web://{address}?phones=2&questions=4&minutes=5")
    shown = ran.visited({"name": "phone", "phone": "Pixel 7"})["phone"]
    assert shown["state"] == "done" and not shown["isolated"]
    os.kill(ran.process.pid, signal.SIGINT)
    assert ran.end() == 130
    report = json.loads((ran.work / "out" / "report.json").read_text())
    (row,) = [row for row in report["rows"] if row["device"] != "host"]
    assert (row["status"], row["n"], row["runtime"]) == ("ok", 4, "onnxruntime-web (wasm, 1 thread)")
    assert row["peak_memory_bytes"] is None and not report["devices"][row["device"]]["secure_context"]
    assert report["verdict"].startswith("FAIL: ended early")
