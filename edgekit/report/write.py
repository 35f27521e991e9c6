"""A report in every form it is read in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit import schema
from edgekit.files import write_json, write_text
from edgekit.report.html import html
from edgekit.report.model import Example, Report
from edgekit.report.text import markdown, to_csv
from edgekit.visible import json_text


def write_report(report: Report, folder: Path, raw: list[dict[str, Any]], examples: Sequence[Example] = ()) -> None:
    """Write the report in every form.

    Args:
        report: Its rows.
        folder: Gets report.json, report.md, report.html, results.csv, results.jsonl (the raw samples, one a line) and
            examples.json.
        raw: Samples.
        examples: Questions for the page.
    """
    write_json(folder / "report.json", schema.to_json(report))
    write_text(folder / "report.md", markdown(report))
    write_text(folder / "results.csv", to_csv(report))
    write_text(folder / "results.jsonl", "".join(json_text(row) + "\n" for row in raw))
    write_json(folder / "examples.json", schema.to_json(list(examples)))
    write_text(folder / "report.html", html(report, raw, examples))
