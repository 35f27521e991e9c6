"""Reports that lie: `edgekit compare` ends in one message and exit code 1, whichever of the two lies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hostile
import pytest

from edgekit.errors import EdgekitError
from edgekit.report.files import add_rows
from edgekit.report.model import Report, Row
from edgekit.report.write import write_report

ROW = Row(
    "b" * 64, "onnx-int8", "onnxruntime", "onnx", "int8", "host", "ok", n=20, accuracy=0.8, accuracy_ci95=(0.7, 0.9),
    ttft_ms=10.0, ttft_ms_ci95=(9.8, 10.2), ttft_ratio=0.5, ttft_ratio_ci95=(0.4, 0.6), decode_tokens_per_s=100.0,
    decode_ratio=2.0, peak_memory_bytes=100, size_bytes=50,
)  # fmt: skip
Change = Callable[[Path], object]


def samples() -> list[dict[str, Any]]:
    return [
        {
            "bundle": ROW.bundle, "name": ROW.name, "runtime": ROW.runtime, "device": "host", "id": str(n),
            "turn": n // 5, "score": float(n < 16), "ttft_ms": 10.0 + n % 3, "itl_ms": [2.0, 2.1],
        }
        for n in range(20)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    write_report(Report(2, "d", "exact", 1, {"cpu": "x"}, (ROW,)), folder, samples())
    return folder


# --------------------------------------------------------------------------------------------------------------- cases


def field(path: str, value: Any) -> Change:
    """Set a field of report.json: a dotted path, numbers for places in lists."""

    def change(folder: Path) -> None:
        report = json.loads((folder / "report.json").read_text())
        hostile.put(report, path.split("."), value)
        (folder / "report.json").write_text(json.dumps(report))

    return change


def gone(path: str) -> Change:
    """Leave a field of report.json out."""

    def change(folder: Path) -> None:
        report = json.loads((folder / "report.json").read_text())
        *steps, last = path.split(".")
        part = report
        for step in steps:
            part = part[int(step) if isinstance(part, list) else step]
        del part[last]
        (folder / "report.json").write_text(json.dumps(report))

    return change


def sample(key: str, value: Any = ...) -> Change:
    """Set a field of the last raw sample, or leave it out."""

    def change(folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        lines[-1].pop(key, None)
        lines[-1] |= {} if value is ... else {key: value}
        (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return change


def text(name: str, data: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def special(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


WRONG: tuple[tuple[str, Any], ...] = (
    ("negative", -1), ("above 64 bits", 1 << 70), ("of 400 digits", 10**400), ("text", "7x"), ("a list", [1]),
    ("a mapping", {"a": 1}), ("true", True), ("infinite", float("inf")), ("1e308", 1e308),
)  # fmt: skip
NUMBERS = ("accuracy", "n", "ttft_ms", "decode_tokens_per_s", "ttft_ratio", "peak_memory_bytes", "size_bytes")


def cases() -> Iterator[tuple[str, str, Change]]:
    """(name, what the message names, change)."""
    for name in NUMBERS:
        for kind, value in WRONG:
            named = "Infinity" if kind == "infinite" else f"rows[0].{name}"
            yield f"{name} {kind}", named, field(f"rows.0.{name}", value)
    for value in ([9.0], [1, 2, 3], ["a", "b"], [10.2, 9.8], [-1, 2], [1e300, 1e301], {}, 7):
        yield f"interval {value}", "rows[0].ttft_ms_ci95", field("rows.0.ttft_ms_ci95", value)
    for name in ("bundle", "name", "runtime", "device", "target", "precision", "status"):
        for value in (None, 7, ["x"], {}):
            yield f"{name} {value}", f"rows[0].{name}", field(f"rows.0.{name}", value)
        yield f"{name} gone", f"rows[0].{name}", gone(f"rows.0.{name}")
        yield f"{name} long", f"rows[0].{name}", field(f"rows.0.{name}", "x" * 5000)
    for name in ("schema_version", "data", "scoring", "threads", "machine", "rows"):
        yield f"{name} gone", f"{name}: missing", gone(name)
        yield f"{name} wrong", name, field(name, [7])
    yield "threads huge", "threads", field("threads", 1 << 70)
    yield "newer", "reads up to", field("schema_version", 99)
    yield "an unknown key", "acuracy", field("rows.0.acuracy", 1)
    yield "rows a mapping", "rows", field("rows", {"0": {}})
    yield "many rows", "rows", lambda folder: _many(folder, 5000)
    yield "a million empty rows", "rows[0]", text("report.json", '{"rows": [' + "{}," * 1_000_000 + "{}]}")
    yield "deep", "64 deep", text("report.json", hostile.deep(100_000))
    yield "deep mapping", "64 deep", text("report.json", '{"a":' * 100_000 + "1" + "}" * 100_000)
    yield "deep machine", "64 deep", field("machine", {"a": json.loads(hostile.deep(200))})
    yield "100 MB", "bytes", lambda folder: _large(folder / "report.json", 100 << 20)
    yield "16 MB of lists", "top level", text("report.json", "[" + "[]," * 5_000_000 + "[]]")
    yield "NaN", "NaN", text("report.json", '{"schema_version": NaN}')
    yield "1e999", "too large", text("report.json", '{"schema_version": 1e999}')
    yield "a key twice", "twice", text("report.json", '{"schema_version": 2, "schema_version": 2}')
    yield "a million digits", "report.json", text("report.json", '{"schema_version": ' + "9" * 1_000_000 + "}")
    for data in ("", "null", "[]", "7", '"x"', '{"schema_version": 2, "ro', b"\xff\xfe\x00", b"\x1b[2J"):
        yield f"document {data!r:.20}", "report.json", text("report.json", data)
    for name in ("report.json", "results.jsonl"):
        yield f"{name} a FIFO", name, special(name, os.mkfifo)
        yield f"{name} a folder", name, special(name, Path.mkdir)
        yield f"{name} a device", name, special(name, lambda path: path.symlink_to("/dev/zero"))
    yield "no report", "not there", lambda folder: (folder / "report.json").unlink()
    for key in ("name", "runtime", "device", "id", "score", "itl_ms"):
        yield f"sample without {key}", f"line 20: {key} is missing", sample(key)
    for key, values in {
        "score": ("x", None, 2, -0.5, [1], True, 10**400), "ttft_ms": ("x", None, [], 1 << 80),
        "itl_ms": (7, "77", None, ["x"], [[1]], [True], [1 << 80], {"a": 1}), "id": (None, 7, []),
        "name": (7, None, []), "turn": ("x", 1.5, -1, 1 << 40, None, []), "process": ("x", -1, None),
    }.items():  # fmt: skip
        yield from ((f"sample {key} {value!r:.20}", f"line 20: {key} is", sample(key, value)) for value in values)
    yield "a deep sample", "line 1", text("results.jsonl", hostile.deep(100_000))
    yield "a sample cut", "line 1", text("results.jsonl", '{"bundle": "b')
    yield "a sample of 5 MB", "line 1", text("results.jsonl", '"' + "x" * (5 << 20) + '"')
    yield "samples not UTF-8", "line 1", text("results.jsonl", b"\xff\n")
    yield "300 MB of samples", "bytes", lambda folder: _large(folder / "results.jsonl", 300 << 20)


def _many(folder: Path, count: int) -> None:
    report = json.loads((folder / "report.json").read_text())
    report["rows"] = [report["rows"][0] | {"name": str(n)} for n in range(count)]
    (folder / "report.json").write_text(json.dumps(report))


def _large(path: Path, size: int) -> None:
    with path.open("wb") as stream:  # a file with a hole: it takes no room
        stream.truncate(size)


CASES = {name: (named, change) for name, named, change in cases()}
DEFAULT = (
    "accuracy negative", "accuracy of 400 digits", "ttft_ms a list", "peak_memory_bytes above 64 bits",
    "interval [10.2, 9.8]", "name gone", "rows gone", "a million empty rows", "deep", "100 MB", "NaN",
    "report.json a FIFO", "results.jsonl a device", "sample without score", "sample itl_ms {'a': 1}",
    "300 MB of samples",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Everything that a fork would import each time."""
    import scipy.stats  # noqa: F401

    from edgekit.cli import build

    build()


def lying(name: str, honest: Path, place: Path) -> Path:
    folder = place / "inside" / "bundle"
    shutil.copytree(honest, folder)
    CASES[name][1](folder)
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DEFAULT else pytest.mark.slow) for name in CASES]
)
def test_compare_refuses(name: str, honest: Path, tmp_path: Path) -> None:
    folder = lying(name, honest, tmp_path)
    for words in ([folder, honest], [honest, folder]):
        found = hostile.forked_words(["compare", *map(str, words)], folder, tmp_path)
        hostile.check(found, "")
        assert CASES[name][0] in " ".join(found.said.split()), found.said


def test_rows_are_added_to_no_such_report(honest: Path, tmp_path: Path) -> None:
    for name in DEFAULT:
        folder = lying(name, honest, tmp_path)
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(EdgekitError):
            add_rows(folder, [replace(ROW, origin="other.json")])
        assert sorted(path.name for path in folder.iterdir()) == before
        shutil.rmtree(folder)


def test_an_honest_report_and_texts_of_others(honest: Path, tmp_path: Path) -> None:
    """Sequences for a terminal in names, and a reason of a million characters: shown escaped, and cut."""
    same = hostile.forked_words(["compare", str(honest), str(honest)], honest, tmp_path)
    assert (same.code, "PASS" in same.said) == (0, True), same.said
    rows = tuple(replace(ROW, name=f"\x1b[2J\x9b31m{n}") for n in range(3))
    wrong = tuple(replace(row, status="failed", reason="\x1b]0;title\x07" + "x" * 1_000_000) for row in rows)
    for name, given in (("old", rows), ("new", wrong)):
        write_report(Report(2, "d", "exact", 1, {"cpu": "x"}, given), tmp_path / "inside" / name, [])
    words = ["compare", *(str(tmp_path / "inside" / name) for name in ("old", "new"))]
    for more in ([], ["--json"]):
        found = hostile.forked_words([*words, *more], tmp_path / "inside" / "bundle", tmp_path)
        assert found.code == 3 and found.outside == () and len(found.said) < 20_000
        assert not set("\x1b\x9b\x07") & set(found.said) and "x1b" in found.said + "x1b" * ("u001b" in found.said)


@pytest.mark.parametrize("times", [0.0, -5.0, 1e-300])
def test_times_of_a_broken_clock_are_compared_with_nothing(times: float, honest: Path, tmp_path: Path) -> None:
    from edgekit.report.compare import compare
    from edgekit.report.files import read_measured

    folder = tmp_path / "r"
    broken = [{**one, "ttft_ms": times, "itl_ms": [times]} for one in samples()]
    write_report(Report(2, "d", "exact", 1, {"cpu": "x"}, (replace(ROW, ttft_ratio=1e-300),)), folder, broken)
    changes = {change.figure: change for change in compare(read_measured(folder), read_measured(honest))}
    assert changes["TTFT ms"].method == "from the rows' intervals" and "TTFT / PyTorch" not in changes
