"""A report: one row per (bundle, runtime, device), with the reference beside it and raw samples behind it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from edgekit import prediction, schema
from edgekit.errors import EdgekitError
from edgekit.files import write_json, write_text
from edgekit.prediction import Prediction

SCHEMA_VERSION = 2
Interval = tuple[float, float]


@dataclass(frozen=True)
class SpeedTest:
    """One test of a row, as llama-bench names and counts it."""

    test: str
    """pp512, tg128, img."""
    unit: Literal["tokens/s", "images/s"]
    mean: float | None = None
    sd: float | None = None
    """Standard deviation over the repetitions (n - 1)."""
    samples: tuple[float, ...] = ()
    """One per repetition."""
    reason: str | None = None
    """Why it was not measured."""


@dataclass(frozen=True)
class Stretch:
    """A part of a sustained run."""

    seconds: float
    """Since its begin."""
    tokens_per_s: float
    """Of decoding."""
    answers_per_s: float


@dataclass(frozen=True)
class Lineage:
    """Where a bundle comes from."""

    name: str
    bundle: str
    student_sha256: str
    teacher_sha256: str | None = None
    run: str | None = None
    tools: dict[str, str] = field(default_factory=dict)
    """Versions of what exported it."""


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
    verified_by: Literal["device", "runtime", "evaluator", "prediction", "imported"] = "runtime"
    origin: str | None = None
    """Of a row that was measured elsewhere and read from a file: the file, and what wrote it."""
    n: int | None = None
    """Questions scored."""
    accuracy: float | None = None
    accuracy_ci95: Interval | None = None
    accuracy_delta: float | None = None
    """Against the PyTorch reference on the same questions."""
    accuracy_delta_ci95: Interval | None = None
    accuracy_p: float | None = None
    """Of no difference: exact McNemar, or paired permutation for graded scores."""
    accuracy_p_holm: float | None = None
    """The same, adjusted for all rows compared with the reference."""
    token_agreement: float | None = None
    """Share of the reference's greedy tokens equal until the first difference."""
    top1_agreement: float | None = None
    """Share of the places along the reference's answers where the most likely token is the same."""
    margin_at_difference: float | None = None
    """Largest gap of the reference's logits between its token and the other one, where answers first part."""
    mean_kl: float | None = None
    """KL(reference, this) of the next-token distribution along the reference's answers, nats."""
    pixel_max_abs: float | None = None
    """Own preprocessing against the Hugging Face processor, normalised units."""
    load_ms: float | None = None
    """In a fresh process, the model's files out of the page cache where the system allows; imports included."""
    load_warm_ms: float | None = None
    """Again in the same process."""
    prompt_tokens: float | None = None
    """Median over the questions."""
    image_tokens: int | None = None
    """Of the first question."""
    preprocess_ms: float | None = None
    image_encode_ms: float | None = None
    image_encode_ms_ci95: Interval | None = None
    prefill_ms: float | None = None
    first_token_ms: float | None = None
    ttft_ms: float | None = None
    ttft_ms_ci95: Interval | None = None
    ttft_ratio: float | None = None
    """To the PyTorch reference's TTFT, within the turns they took."""
    ttft_ratio_ci95: Interval | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    decode_tokens_per_s_ci95: Interval | None = None
    decode_ratio: float | None = None
    """To the reference's decoding speed, within the turns they took."""
    decode_ratio_ci95: Interval | None = None
    itl_ms_p50: float | None = None
    itl_ms_p95: float | None = None
    itl_ms_p99: float | None = None
    peak_memory_bytes: int | None = None
    size_bytes: int | None = None
    energy_j_per_answer: float | None = None
    """Of the whole processor package by RAPL, idle power included; absent where the machine does not tell."""
    timing_note: str | None = None
    """Why the timings say nothing of the hardware the bundle is for; None where they were measured on its kind."""
    tests: tuple[SpeedTest, ...] = ()
    sustained: tuple[Stretch, ...] = ()


@dataclass(frozen=True)
class Example:
    """A question with what each row said."""

    id: str
    question: str
    expected: str | None
    picture: str | None
    """The first one as a small PNG in a data address."""
    answers: dict[str, str]
    """Number of the row, from 0 -> text; rows that failed are left out."""


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
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each other device said of itself, by the name in its rows."""
    predictions: tuple[Prediction, ...] = ()
    """Of a device that is not at hand; never among the rows."""
    turns: int | None = None
    """Turns that each row took; 1 is one after the other."""
    methods: dict[str, str] = field(default_factory=dict)
    """What each interval and test is."""
    lineage: tuple[Lineage, ...] = ()


def read_report(value: Any, source: str = "report") -> Report:
    """A report from its JSON value.

    Raises:
        EdgekitError: newer, or not valid.
    """
    return schema.read_document(Report, value, newest=SCHEMA_VERSION, what="report", source=source, error=EdgekitError)


def write_report(report: Report, folder: Path, raw: list[dict[str, Any]], examples: Sequence[Example] = ()) -> None:
    """Write the report in every form.

    Args:
        report: Its rows.
        folder: Gets report.json, report.md, report.html, results.csv, results.jsonl (the raw samples, one a line) and
            examples.json.
        raw: Samples.
        examples: Questions for the page.
    """
    from edgekit.page import html

    write_json(folder / "report.json", schema.to_json(report))
    write_text(folder / "report.md", markdown(report))
    write_text(folder / "results.csv", to_csv(report))
    write_text(folder / "results.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in raw))
    write_json(folder / "examples.json", schema.to_json(list(examples)))
    write_text(folder / "report.html", html(report, raw, examples))


def add_rows(folder: Path, rows: Sequence[Row]) -> Report:
    """Add rows that were measured elsewhere to a written report; those of the same file take the place of old ones.

    Args:
        folder: Of the report.
        rows: With an `origin`.
    Raises:
        EdgekitError: no report there.
    """
    try:
        value = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        raw = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        path = folder / "examples.json"
        shown = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except (OSError, ValueError) as error:
        raise EdgekitError(
            f"No report to add to in {folder}.", why=str(error), fix="Make one:  edgekit bench"
        ) from error
    report = read_report(value, str(folder / "report.json"))
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


def to_csv(report: Report) -> str:
    """All row fields as CSV; intervals in two columns, each speed test in one."""
    names = list(dict.fromkeys(test.test for row in report.rows for test in row.tests))
    rows = []
    for row in report.rows:
        flat: dict[str, Any] = {}
        for item in fields(Row):
            value = getattr(row, item.name)
            if item.name == "tests":
                # One column a test; rows that lack one have it empty.
                flat |= {f"{name}_per_s": None for name in names}
                flat |= {f"{test.test}_per_s": test.mean for test in row.tests}
            elif item.name == "sustained":
                flat["sustained_ratio"] = sustained_ratio(row)
            elif item.name.endswith("_ci95"):
                flat[f"{item.name}_low"], flat[f"{item.name}_high"] = value if value is not None else (None, None)
            else:
                flat[item.name] = value
        rows.append(flat)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


NOT_REPRESENTATIVE = "†"
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
    runtime = row.runtime if row.device == "host" else f"{row.runtime} on {row.device}"
    ttft = _spanned(row.ttft_ms, row.ttft_ms_ci95, ".1f")

    def timed(cell: str) -> str:
        return f"{cell} {NOT_REPRESENTATIVE}" if cell and row.timing_note is not None else cell

    return [
        row.name, with_source(runtime, row.verified_by), row.precision, accuracy, delta,
        _number(None if row.token_agreement is None else 100 * row.token_agreement, ".2f", " %"),
        _number(row.mean_kl, ".1e"), _number(row.pixel_max_abs, ".1e"),
        timed(_number(row.image_encode_ms, ".1f")), timed(ttft),
        timed(_number(row.decode_tokens_per_s, ".0f")), timed(_number(row.itl_ms_p95, ".2f")),
        timed(_number(row.load_ms, ".0f")),
        _number(None if row.peak_memory_bytes is None else row.peak_memory_bytes / 1e6, ".0f"),
        _number(None if row.size_bytes is None else row.size_bytes / 1e6, ".2f"),
        row.status if row.reason is None else f"{row.status}: {row.reason}",
    ]  # fmt: skip


SPEED_COLUMNS = (
    "name", "preprocess ms", "image ms", "prefill ms", "first token ms", "TTFT / PyTorch", "ITL p50 ms", "ITL p99 ms",
    "decode / PyTorch", "load cold ms", "load warm ms",
)  # fmt: skip


def speed_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the second table: where the time goes, and the speed tests as llama-bench names them."""
    rows = [row for row in report.rows if row.status == "ok"]
    tests = list(dict.fromkeys((test.test, test.unit) for row in rows for test in row.tests))
    energy = any(row.energy_j_per_answer is not None for row in rows)
    lasting = any(row.sustained for row in rows)
    head = [*SPEED_COLUMNS, *(f"{name} {unit}" for name, unit in tests)]
    head += ["J / answer"] * energy + ["sustained"] * lasting
    cells = []
    for row in rows:
        marked = row.name if row.timing_note is None else f"{row.name} {NOT_REPRESENTATIVE}"
        line = [
            marked, _number(row.preprocess_ms, ".2f"), _spanned(row.image_encode_ms, row.image_encode_ms_ci95, ".2f"),
            _number(row.prefill_ms, ".2f"), _number(row.first_token_ms, ".3f"),
            _spanned(row.ttft_ratio, row.ttft_ratio_ci95, ".3f"), _number(row.itl_ms_p50, ".2f"),
            _number(row.itl_ms_p99, ".2f"), _spanned(row.decode_ratio, row.decode_ratio_ci95, ".2f"),
            _number(row.load_ms, ".0f"), _number(row.load_warm_ms, ".0f"),
        ]  # fmt: skip
        by_name = {test.test: test for test in row.tests}
        line += [_speed(by_name.get(name)) for name, _ in tests]
        line += [_number(row.energy_j_per_answer, ".3g")] * energy
        line += [_number(sustained_ratio(row), ".2f")] * lasting
        cells.append(line)
    return head, cells


def _speed(test: SpeedTest | None) -> str:
    if test is None:
        return ""
    if test.mean is None:
        return f"not measured: {test.reason}"
    return f"{test.mean:.1f}" + ("" if test.sd is None else f" ± {test.sd:.1f}")


def _spanned(value: float | None, interval: Interval | None, form: str) -> str:
    if value is None:
        return ""
    return f"{value:{form}}" + ("" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]")


def sustained_ratio(row: Row) -> float | None:
    """Decoding speed in the last fifth of a sustained run over that in the first fifth; medians of the stretches."""
    speeds = [stretch.tokens_per_s for stretch in row.sustained]
    part = max(1, len(speeds) // 5)
    if len(speeds) < 2 or not median(speeds[:part]):
        return None
    return median(speeds[-part:]) / median(speeds[:part])


def with_source(runtime: str, verified_by: str) -> str:
    """A runtime's name as every line shows it: with `verified_by` where an evaluator ran in its place."""
    return f"{runtime} (verified_by: {verified_by})" if verified_by == "evaluator" else runtime


EVALUATED = (
    "verified_by: evaluator means that edgekit's own evaluator ran the very programs and weights that ship: answers, "
    "accuracy and distances were checked on them, but not Apple's rounding or placement. Times and memory in these "
    "rows are the evaluator's on this machine and say nothing of a phone."
)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def footnotes(report: Report) -> list[str]:
    """How to read the tables."""
    first = [row for row in report.rows if row.n is not None]
    count = f"{first[0].n:,} questions of " if first and first[0].n is not None else ""
    turns = f"all rows in {report.turns} turns on the same questions" if report.turns else "one after the other"
    compared = sum(row.accuracy_p is not None for row in report.rows)
    prompt = ""
    if first and first[0].prompt_tokens is not None:
        prompt = f"; prompts of {first[0].prompt_tokens:g} tokens at the median"
        prompt += f", {first[0].image_tokens} of them the image's" if first[0].image_tokens else ""
    found = [
        f"{count}{report.data}, scored by {report.scoring}; greedy decoding{prompt}; {report.threads} thread(s) per "
        f"runtime; a fresh process for each row, {turns if report.turns != 1 else 'one after the other'}.",
        *(f"{name}: {text}.".replace("..", ".") for name, text in report.methods.items()),
        "TTFT holds preprocessing, image encoding, prefill and the first token; batch 1. Memory is the high-water mark "
        "of the process.",
        *(f"{NOT_REPRESENTATIVE} {text}" for text in dict.fromkeys(row.timing_note for row in report.rows) if text),
    ]
    if compared:
        lower = [row.name for row in report.rows if _below(row)]
        found.append(
            f"{compared} row(s) compared with PyTorch; significantly below it after Holm: {', '.join(lower) or 'none'}."
        )
    if elsewhere := [f"{row.name} ({row.origin})" for row in report.rows if row.origin is not None]:
        found.append(f"Not measured here, read from a file: {'; '.join(elsewhere)}.")
    if any(row.verified_by == "evaluator" for row in report.rows):
        found.append(EVALUATED)
    if any(row.verified_by == "runtime" for row in report.rows):
        found.append("Rows verified_by runtime were run by the runtime they name on this machine.")
    if report.devices:
        found.append(
            "Rows verified_by device were run on the device they name; the reference ran on this machine, so no ratio "
            "of their times is given."
        )
    return [*found, *report.notes]


def _below(row: Row) -> bool:
    return row.accuracy_p_holm is not None and row.accuracy_p_holm < 0.05 and (row.accuracy_delta or 0) < 0


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
    lines += _grid(COLUMNS, table(report))
    head, cells = speed_table(report)
    if cells:
        lines += ["", "Where the time goes:", "", *_grid(head, cells)]
    lines += ["", *(f"- {escape(text)}" for text in footnotes(report)), ""]
    if report.predictions:
        lines += ["## Predicted, not measured", "", *_grid(prediction.COLUMNS, prediction.table(report.predictions))]
        lines += ["", *(f"- {escape(text)}" for text in prediction.footnotes(report.predictions)), ""]
    for name, about in {"Machine": report.machine, **report.devices}.items():
        lines += [f"{escape(name)}: {escape(', '.join(f'{key} {value}' for key, value in about.items()))}.", ""]
    if report.verdict:
        lines += [f"**{escape(report.verdict)}**", ""]
    return "\n".join(lines)


def _grid(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(escape(cell) for cell in head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in cells]
