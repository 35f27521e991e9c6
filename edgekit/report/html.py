"""The report as one HTML page: no script, no network, everything of a stranger's escaped."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from edgekit.report import charts, prediction
from edgekit.report.model import Example, Lineage, Report, Row
from edgekit.report.text import COLUMNS, footnotes, speed_table, table
from edgekit.visible import visible

_IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]*")
PALETTE = 8
"""Colours in the style sheet; rows beyond them begin again, and are told apart by their numbers."""


def key(row: Row | dict[str, Any]) -> tuple[str, ...]:
    """What ties a raw sample to its row."""
    if isinstance(row, Row):
        return row.bundle, row.name, row.runtime, row.device
    return str(row["bundle"]), str(row["name"]), str(row["runtime"]), str(row.get("device", "host"))


def html(report: Report, raw: Sequence[dict[str, Any]] = (), examples: Sequence[Example] = ()) -> str:
    """One self-contained page.

    Args:
        report: Rows.
        raw: Samples as results.jsonl holds them, for the distributions.
        examples: Questions to show.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    template = environment.from_string((files("edgekit") / "templates" / "report.html").read_text(encoding="utf-8"))
    rows = report.rows
    head, cells = speed_table(report)
    return template.render(
        report=report,
        rows=list(enumerate(rows)),
        columns=COLUMNS,
        cells=[[*line[:-1], row.status] for row, line in zip(rows, table(report), strict=True)],  # reasons stand below
        speed_head=head,
        speed_cells=cells,
        notes=footnotes(report),
        predicted_columns=prediction.COLUMNS,
        predicted=prediction.table(report.predictions),
        predicted_notes=prediction.footnotes(report.predictions),
        examples=[_shown(example, rows) for example in examples],
        plots=_plots(rows, raw),
        lineage=_families(report.lineage),
        size=charts,
        palette=PALETTE,
    )


def _families(lineage: Sequence[Lineage]) -> list[tuple[str | None, str, str | None, list[Lineage]]]:
    """(teacher, student, run, bundles): bundles of one student together."""
    found: dict[tuple[str | None, str, str | None], list[Lineage]] = {}
    for one in lineage:
        found.setdefault((one.teacher_sha256, one.student_sha256, one.run), []).append(one)
    return [(*key, bundles) for key, bundles in found.items()]


def _plots(rows: Sequence[Row], raw: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ttft: dict[tuple[str, ...], list[float]] = {}
    gaps: dict[tuple[str, ...], list[float]] = {}
    for sample in raw:
        if "ttft_ms" not in sample:  # of a device that times parts of a bundle
            continue
        ttft.setdefault(key(sample), []).append(float(sample["ttft_ms"]))
        gaps.setdefault(key(sample), []).extend(float(gap) for gap in sample["itl_ms"])
    memory = [(n, row.peak_memory_bytes / 1e6) for n, row in enumerate(rows) if row.peak_memory_bytes]
    size = [(n, row.size_bytes / 1e6) for n, row in enumerate(rows) if row.size_bytes]
    return {
        "pareto": [
            ("Accuracy against time to the first token", "TTFT, ms", charts.pareto(rows, "ttft_ms", 1, "ms")),
            ("Accuracy against size", "size, MB", charts.pareto(rows, "size_bytes", 1e-6, "MB")),
        ],
        "lines": [
            ("Time to the first token", "ms", _boxes(rows, ttft)),
            ("Time between tokens", "ms", _boxes(rows, gaps)),
            ("Peak memory", "MB", charts.bars(memory, "MB")),
            ("Size on disk", "MB", charts.bars(size, "MB")),
        ],
        "sustained": charts.sustained(rows),
    }


def _boxes(rows: Sequence[Row], samples: dict[tuple[str, ...], list[float]]) -> charts.Lines | None:
    return charts.distributions([(n, samples.get(key(row), [])) for n, row in enumerate(rows)], "ms")


def _visible(value: Any) -> Any:
    """Text without what could hide or turn other text; anything else as it is."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _shown(example: Example, rows: Sequence[Row]) -> dict[str, Any]:
    said = {int(n): text for n, text in example.answers.items()}
    base = next((n for n, row in enumerate(rows) if row.target == "checkpoint" and n in said), None)
    wanted = said.get(base) if base is not None else None
    answers = [
        {"row": n, "name": rows[n].name, "parts": _parts(text, wanted), "differs": wanted not in (None, text)}
        for n, text in sorted(said.items())
        if n < len(rows)
    ]
    picture = example.picture if example.picture and _IMAGE.fullmatch(example.picture) else None
    return {"example": example, "picture": picture, "answers": answers, "differs": any(a["differs"] for a in answers)}


def _parts(text: str, wanted: str | None) -> list[tuple[str, bool]]:
    """(words, whether the reference says otherwise there), white space kept."""
    if wanted is None or wanted == text:
        return [(text, False)]
    ours, theirs = re.findall(r"\s*\S+", text), re.findall(r"\s*\S+", wanted)
    matcher = difflib.SequenceMatcher(None, theirs, ours, autojunk=False)
    parts = [("".join(ours[c:d]), kind != "equal") for kind, _, _, c, d in matcher.get_opcodes() if c < d]
    return parts or [("(nothing)", True)]
