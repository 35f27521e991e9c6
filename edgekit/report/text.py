"""A report in words: the table, its footnotes, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from statistics import median
from typing import Any

from edgekit.report import prediction
from edgekit.report.model import Interval, Report, Row, SpeedTest
from edgekit.visible import visible


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
                flat[item.name] = visible(value) if isinstance(value, str) else value
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
    """The cells of the table, one list per row, in the order of COLUMNS."""
    return [_cells(row) for row in report.rows]


TABLE_ORDER = (
    "status", "against PyTorch", "accuracy", "tokens equal", "decode tok/s", "TTFT ms", "size MB", "memory MB",
    "precision", "runtime", "mean KL", "ITL p95 ms", "load ms", "image ms", "pixels",
)  # fmt: skip
"""COLUMNS by importance, for a narrow terminal."""


def terminal_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Head and cells of that table for a terminal, where the runtime's column may be missing: a row's name then says
    what else than a runtime on this machine it is of, and only a row that failed has a status.
    """
    cells = []
    for row, (_, *line) in zip(report.rows, table(report), strict=True):
        place = row.name if row.device == "host" else f"{row.name} on {row.device}"
        cells.append([with_source(place, row.verified_by), *line[:-1], "" if row.status == "ok" else row.status])
    return list(COLUMNS), cells


def every_column(report: Report) -> tuple[list[str], list[list[str]]]:
    """Head and cells of both tables in one, each column once; a row that failed has empty ones."""
    head, cells = terminal_table(report)
    more, rest = speed_table(report)
    new = [place for place, name in enumerate(more) if name not in head]
    lines = iter(rest)
    for row, line in zip(report.rows, cells, strict=True):
        other = next(lines) if row.status == "ok" else [""] * len(more)
        line += [other[place] for place in new]
    return [*head, *(more[place] for place in new)], cells


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


SPEED_ORDER = ("TTFT / PyTorch", "decode / PyTorch", "image ms", "prefill ms", "load warm ms", "load cold ms")
"""SPEED_COLUMNS by importance, for a narrow terminal."""


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


def _fresh(processes: int | None) -> str:
    return f"{processes} fresh processes, one after the other," if processes and processes > 1 else "a fresh process"


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
        f"{count}{report.data}, scored by {report.scoring}; plain greedy decoding{prompt}; {report.threads} "
        f"thread(s) per runtime; {_fresh(report.processes)} for each row, "
        f"{turns if report.turns != 1 else 'one after the other'}.",
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
    """Text that Markdown shows as it is, inside a table cell too; controls as backslash escapes."""
    text = " ".join(visible(text).split())
    for char in "\\`*_{}[]<>|#":
        text = text.replace(char, "\\" + char if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return text


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
