"""A written report read back: report.json, and the raw samples in results.jsonl beside it, which may be anyone's.

Their sizes, types and ranges are looked at before anything is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import schema, strict_json
from edgekit.errors import DataError, EdgekitError
from edgekit.report.checks import MOST, check
from edgekit.report.model import SCHEMA_VERSION, Example, Report, Row
from edgekit.report.write import write_report

REPORT, SAMPLES = "report.json", "results.jsonl"
MOST_SAMPLE_BYTES = 256 << 20
"""Of all raw samples: half a million questions with their answers and times."""
MOST_LINE = 4 << 20
"""Characters of one."""
MOST_PLACE = 1 << 31


@dataclass(frozen=True)
class Measured:
    """A report and its raw samples, by row."""

    report: Report
    raw: dict[tuple[str, str, str], list[dict[str, Any]]]


def read_measured(path: Path) -> Measured:
    """A report.json, or a folder that holds one, with the results.jsonl beside it where there is one.

    Of a sample what a comparison asks for is kept: id, score, ttft_ms, itl_ms, turn, process.

    Raises:
        DataError: cannot be read, or is not what `bench` writes.
        EdgekitError: as `read_report`.
    """
    path = path / REPORT if path.is_dir() else path
    report = _read(path)
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    known = {row.bundle for row in report.rows}
    for number, sample in _lines(path.with_name(SAMPLES)):
        if _is_answer(sample, known):
            _check(sample, f"{path.with_name(SAMPLES)}, line {number}")
            found.setdefault((sample["name"], sample["runtime"], sample["device"]), []).append(_kept(sample))
    return Measured(report, found)


def _read(path: Path) -> Report:
    try:
        value = strict_json.read(path, exact=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot read the report {path}.", why=str(error), fix="Name a report.json of edgekit bench."
        ) from error
    return read_report(value, str(path))


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file of them, one a line, with the numbers of the lines; none where there is no file.

    Raises:
        DataError: too large, no regular file, or no JSON.
    """
    if not path.exists():
        return
    number = 0
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        if (size := path.stat().st_size) > MOST_SAMPLE_BYTES:
            raise ValueError(f"it has {size:,} bytes, and no more than {MOST_SAMPLE_BYTES:,} are read")
        with path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MOST_LINE + 1), b""), 1):
                if len(line) > MOST_LINE:
                    raise ValueError(f"it has more than {MOST_LINE:,} bytes")
                if line.strip():
                    yield number, strict_json.loads(line)
    except (OSError, ValueError) as error:
        where = f"{path}, line {number}" if number else str(path)
        raise DataError(
            f"Cannot read the samples in {where}.",
            why=str(error),
            fix=f"Without {path.name} beside it a report is compared by its own intervals: move that file away.",
        ) from error


def _is_answer(sample: Any, known: Set[str]) -> bool:
    """Samples of another report prove nothing; those of a device that times parts of a bundle are no answers."""
    if not isinstance(sample, dict) or "ttft_ms" not in sample:
        return False
    return isinstance(sample.get("bundle"), str) and sample["bundle"] in known


def _check(sample: dict[str, Any], where: str) -> None:
    """Whether an answer's sample has what comparisons and pages ask for.

    Raises:
        DataError: a field is missing, or holds what none can.
    """
    names = {key: isinstance(sample.get(key), str) for key in ("bundle", "name", "runtime", "device", "id")}
    times = sample.get("itl_ms")
    right = names | {
        "score": _real(sample.get("score")) and 0 <= sample["score"] <= 1,
        "ttft_ms": _real(sample["ttft_ms"]),
        "itl_ms": isinstance(times, list) and all(map(_real, times)),
        **{key: _place(sample.get(key, 0)) for key in ("turn", "process")},
    }
    if wrong := [key for key, fits in right.items() if not fits]:
        shown = "missing" if wrong[0] not in sample else repr(sample[wrong[0]])[:80]
        raise DataError(
            f"{where}: {wrong[0]} is {shown}, which no sample of edgekit bench has.",
            fix="Take report.json and results.jsonl from the same report.",
        )


def _real(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -MOST <= value <= MOST  # no NaN is


def _place(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_PLACE


def _kept(sample: dict[str, Any]) -> dict[str, Any]:
    return {key: sample[key] for key in ("id", "score", "ttft_ms", "itl_ms", "turn", "process") if key in sample}


def _examples(path: Path) -> list[Any]:
    try:
        found = strict_json.read(path) if path.exists() else []
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}.", why=str(error), fix="Make the report again:  edgekit bench") from error
    return found if isinstance(found, list) else []


def add_rows(folder: Path, rows: Sequence[Row]) -> Report:
    """Add rows that were measured elsewhere to a written report; those of the same file take the place of old ones.

    Args:
        folder: Of the report.
        rows: With an `origin`.

    Raises:
        DataError: no report there, or a file of it cannot be read.
        EdgekitError: as `read_report`.
    """
    if not (folder / REPORT).exists():
        raise DataError(f"No report to add to in {folder}.", fix="Make one:  edgekit bench")
    report = _read(folder / REPORT)
    known = {row.bundle for row in report.rows}
    raw = []
    for number, sample in _lines(folder / SAMPLES):
        if _is_answer(sample, known):
            _check(sample, f"{folder / SAMPLES}, line {number}")
        raw.append(sample)
    shown = _examples(folder / "examples.json")
    problems: list[str] = []
    examples = [example for item in shown if (example := schema.read(Example, item, problems)) is not None]
    identity = {(row.origin, row.name, row.device) for row in rows}
    kept = [row for row in report.rows if (row.origin, row.name, row.device) not in identity]
    measured = {row.bundle for row in kept if row.origin is None}
    strange = [row.name for row in rows if row.bundle not in measured]
    notes = list(report.notes)
    if strange:
        text = f"Not taken from a bundle of this report, so their accuracy is unknown: {', '.join(strange)}."
        notes = [*(note for note in notes if note != text), text]
    report = replace(report, rows=(*kept, *rows), notes=tuple(notes))
    write_report(report, folder, raw, examples)
    return report


def read_report(value: Any, source: str = "report") -> Report:
    """A report from its JSON value.

    Raises:
        EdgekitError: newer, not valid, or a number that none can have.
    """
    report = schema.read_document(
        Report, value, newest=SCHEMA_VERSION, what="report", source=source, error=EdgekitError
    )
    check(report, source)
    return report
