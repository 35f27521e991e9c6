"""A report: one row per (bundle, runtime, device), with the reference beside it and raw samples behind it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from edgekit import schema
from edgekit.errors import EdgekitError
from edgekit.files import write_json, write_text

SCHEMA_VERSION = 1
Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """What was measured of one artefact on one runtime and device; None where it does not apply or was not measured."""

    bundle: str
    """SHA-256 of the bundle, or of the checkpoint for the PyTorch reference."""
    name: str
    runtime: str
    target: str
    precision: str
    device: str
    status: Literal["ok", "failed"]
    reason: str | None = None
    """Why it failed."""
    verified_by: Literal["device", "runtime", "evaluator", "prediction"] = "runtime"
    n: int | None = None
    """Questions scored."""
    accuracy: float | None = None
    accuracy_ci95: Interval | None = None
    accuracy_delta: float | None = None
    """Against the PyTorch reference on the same questions."""
    accuracy_delta_ci95: Interval | None = None
    accuracy_p: float | None = None
    token_agreement: float | None = None
    """Share of the reference's greedy tokens equal until the first difference."""
    mean_kl: float | None = None
    """KL(reference, this) of the next-token distribution along the reference's answers, nats."""
    pixel_max_abs: float | None = None
    """Own preprocessing against the Hugging Face processor, normalised units."""
    load_ms: float | None = None
    preprocess_ms: float | None = None
    image_encode_ms: float | None = None
    ttft_ms: float | None = None
    ttft_ms_ci95: Interval | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    itl_ms_p50: float | None = None
    itl_ms_p95: float | None = None
    itl_ms_p99: float | None = None
    peak_memory_bytes: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class Report:
    """Rows with what they were measured on."""

    schema_version: int
    data: str
    """Data spec."""
    scoring: str
    threads: int
    machine: dict[str, Any]
    rows: tuple[Row, ...]
    gates: dict[str, float] = field(default_factory=dict)
    verdict: str = ""
    run: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_report(value: Any, source: str = "report") -> Report:
    """A report from its JSON value.

    Raises:
        EdgekitError: newer, or not valid.
    """
    return schema.read_document(Report, value, newest=SCHEMA_VERSION, what="report", source=source, error=EdgekitError)


def write_report(report: Report, folder: Path, raw: list[dict[str, Any]]) -> None:
    """Write report.json, report.md, results.csv and results.jsonl (the raw samples, one a line)."""
    write_json(folder / "report.json", schema.to_json(report))
    write_text(folder / "report.md", markdown(report))
    write_text(folder / "results.csv", to_csv(report))
    write_text(folder / "results.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in raw))


def to_csv(report: Report) -> str:
    """All row fields as CSV; intervals in two columns."""
    rows = []
    for row in report.rows:
        flat: dict[str, Any] = {}
        for item in fields(Row):
            value = getattr(row, item.name)
            if item.name.endswith("_ci95"):
                flat[f"{item.name}_low"], flat[f"{item.name}_high"] = value if value is not None else (None, None)
            else:
                flat[item.name] = value
        rows.append(flat)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


COLUMNS = (
    "name", "runtime", "precision", "accuracy", "against PyTorch", "tokens equal", "mean KL", "pixels",
    "image ms", "TTFT ms", "decode tok/s", "ITL p95 ms", "load ms", "memory MB", "size MB", "status",
)  # fmt: skip


def table(report: Report) -> list[list[str]]:
    """The cells of the table of specs/bench.md, one list per row, in the order of COLUMNS."""
    return [_cells(row) for row in report.rows]


def _cells(row: Row) -> list[str]:
    accuracy = ""
    if row.accuracy is not None and row.accuracy_ci95 is not None:
        low, high = row.accuracy_ci95
        accuracy = f"{100 * row.accuracy:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
    delta = ""
    if row.accuracy_delta is not None and row.accuracy_delta_ci95 is not None:
        low, high = row.accuracy_delta_ci95
        delta = f"{100 * row.accuracy_delta:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
    ttft = _number(row.ttft_ms, ".1f")
    if row.ttft_ms_ci95 is not None:
        ttft += f" [{row.ttft_ms_ci95[0]:.1f}, {row.ttft_ms_ci95[1]:.1f}]"
    return [
        row.name, with_source(row.runtime, row.verified_by), row.precision, accuracy, delta,
        _number(None if row.token_agreement is None else 100 * row.token_agreement, ".2f", " %"),
        _number(row.mean_kl, ".1e"), _number(row.pixel_max_abs, ".1e"), _number(row.image_encode_ms, ".1f"), ttft,
        _number(row.decode_tokens_per_s, ".0f"), _number(row.itl_ms_p95, ".2f"), _number(row.load_ms, ".0f"),
        _number(None if row.peak_memory_bytes is None else row.peak_memory_bytes / 1e6, ".0f"),
        _number(None if row.size_bytes is None else row.size_bytes / 1e6, ".2f"),
        row.status if row.reason is None else f"{row.status}: {row.reason}",
    ]  # fmt: skip


def with_source(runtime: str, verified_by: str) -> str:
    """A runtime's name as every line shows it: with `verified_by` where it was not the runtime itself that ran."""
    return runtime if verified_by == "runtime" else f"{runtime} (verified_by: {verified_by})"


EVALUATED = (
    "verified_by: evaluator means that edgekit's own evaluator ran the very programs and weights that ship: answers, "
    "accuracy and distances were checked on them, but not Apple's rounding or placement. Times and memory in these "
    "rows are the evaluator's on this machine and say nothing of a phone."
)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def footnotes(report: Report) -> list[str]:
    """How to read the table."""
    first = [row for row in report.rows if row.n is not None]
    count = f"{first[0].n:,} questions of " if first and first[0].n is not None else ""
    return [
        f"{count}{report.data}, scored by {report.scoring}; greedy decoding; {report.threads} thread(s) per runtime; "
        "a fresh process for each row, one after the other.",
        "Accuracy: 95 % Wilson interval (BCa bootstrap for graded scores). Against PyTorch: difference in points on "
        "the same questions with its 95 % paired bootstrap interval.",
        "Latencies are medians, batch 1, with a 95 % bootstrap interval for TTFT; TTFT holds preprocessing, image "
        "encoding, prefill and the first token. Memory is the high-water mark of the process.",
        *(
            [EVALUATED]
            if any(row.verified_by == "evaluator" for row in report.rows)
            else ["Every row was run by the runtime it names on this machine (verified_by in report.json)."]
        ),
        *report.notes,
    ]


def escape(text: str) -> str:
    """Text that Markdown shows as it is, inside a table cell too."""
    for char in "\\`*_{}[]<>|#":
        text = text.replace(char, "\\" + char if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return " ".join(text.split())


def markdown(report: Report) -> str:
    """The report as Markdown; every cell is escaped."""
    lines = ["# edgekit bench", ""]
    if report.run:
        lines += [f"Run `{report.run}`.", ""]
    lines.append("| " + " | ".join(COLUMNS) + " |")
    lines.append("|" + "---|" * len(COLUMNS))
    lines += ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in table(report)]
    lines += ["", *(f"- {escape(text)}" for text in footnotes(report)), ""]
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    lines += [f"Machine: {escape(machine)}.", ""]
    if report.verdict:
        lines += [f"**{escape(report.verdict)}**", ""]
    return "\n".join(lines)
