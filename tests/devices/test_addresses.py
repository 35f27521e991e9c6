"""Addresses of devices, device files, and devices that other packages bring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import api
from edgekit.devices import Address, parse_address
from edgekit.errors import EdgekitError


@pytest.mark.parametrize(
    ("spec", "device", "place", "options"),
    [
        ("host", "host", "", {}),
        ("ssh://pi@board:2222", "ssh", "pi@board:2222", {}),
        ("ssh://pi@[fe80::1]?python=/opt/a b/python", "ssh", "pi@[fe80::1]", {"python": "/opt/a b/python"}),
        ("android?llama_bench=x%26y&port=1", "android", "", {"llama_bench": "x&y", "port": "1"}),
        ("iphone://iphone-15-pro", "iphone", "iphone-15-pro", {}),
    ],
)
def test_addresses(spec: str, device: str, place: str, options: dict[str, str]) -> None:
    found = parse_address(spec)
    assert (found.device, found.place, dict(found.options)) == (device, place, options)
    assert str(found) == (f"{device}://{place}" if place else device)  # options may hold paths: not in a report


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "is no device"),
        ("a b", "is no device"),
        ("iphon", "Did you mean 'iphone'"),
        ("ssh://h?pyton=x", "Did you mean 'python'"),
        ("host?x=1", "There are: none"),
        ("no-such.yaml", "Cannot read the device file"),
    ],
)
def test_bad_addresses(spec: str, words: str) -> None:
    with pytest.raises(EdgekitError) as caught:
        parse_address(spec)
    assert words in str(caught.value)


def test_device_files(tmp_path: Path) -> None:
    path = tmp_path / "pi.yaml"
    path.write_text("device: ssh\nplace: pi@board:22\npython: /opt/venv/bin/python\n")
    found = parse_address(str(path))
    assert found == Address("ssh", "pi@board:22", {"python": "/opt/venv/bin/python"})
    for text, words in (
        ("- a\n", "is no device file"),
        ("place: x\n", "is no device file"),
        ("device: ssh\npython: [a]\n", "'python' is neither a text nor a number"),
        ("device: ssh\nkey: a\n", "no option 'key'"),
        ("a: [\n", "Cannot read"),
    ):
        path.write_text(text)
        with pytest.raises(EdgekitError, match=words):
            parse_address(str(path))


def test_the_list_names_every_device_and_why() -> None:
    rows = api.devices()
    assert [row.device for row in rows] == ["android", "host", "ipad", "iphone", "mac", "ssh", "web"]
    assert all(row.detail for row in rows)
    assert "ssh://user@host:port" in next(row.detail for row in rows if row.device == "ssh")


PLUGIN = """
import json
from contextlib import contextmanager

from edgekit.devices import Device


def reach(address):
    return True, f"a board of {address.place}"


class Board:
    def __init__(self, address):
        self.address = address

    def describe(self):
        return {"cpu": "toy"}

    def run(self, folder):
        if self.address.place == "broken":
            return "the board caught fire"
        (folder / "row.json").write_text(json.dumps({"decode_tokens_per_s": float(self.address.options["speed"])}))
        (folder / "samples.jsonl").write_text(json.dumps({"test": "tg1", "ms": 1}) + "\\\\n")
        return None


@contextmanager
def connect(address):
    yield Board(address)


DEVICE = Device(reach, timer=connect, options={"speed": "tokens per second"})
"""

USE = """
import sys
from pathlib import Path
from edgekit import api
from edgekit.runtimes import bench

(row,) = api.devices(["toy://mine?speed=7"])
assert (row.device, row.ready, row.detail) == ("toy://mine", True, "a board of mine"), row
assert "toy" in [row.device for row in api.devices()]
settings = bench.Settings(data="easy-vqa:test", limit=2, warmup=0, max_new_tokens=1, trace=1, repetitions=0)
for place, check in (("mine", "ok"), ("broken", "failed")):
    report = bench.bench([Path(sys.argv[1])], None, settings, Path(sys.argv[2]), device=f"toy://{place}?speed=7")
    here, there = report.rows
    assert (here.device, there.device, there.status) == ("host", f"toy://{place}", check), report.rows
    assert there.reason == (None if check == "ok" else "the board caught fire")
    assert there.decode_tokens_per_s == (7.0 if check == "ok" else None)
    assert report.devices == {f"toy://{place}": {"cpu": "toy"}}
"""


def test_another_packages_device(tiny_bundle: Path, tmp_path: Path) -> None:
    """The one of docs/devices.md, found by its entry point as an installed package's would be."""
    site = tmp_path / "site"
    (site / "toy-1.dist-info").mkdir(parents=True)
    (site / "toy_board.py").write_text(PLUGIN.replace("\\\\n", "\\n"))
    (site / "toy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (site / "toy-1.dist-info" / "entry_points.txt").write_text("[edgekit.devices]\ntoy = toy_board\n")
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{USE}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bundle), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
