"""Questions to show in a report: first those where answers part."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.data import samples
from edgekit.errors import DataError
from edgekit.report.model import Example, Row
from edgekit.runtimes.measure import Measured

if TYPE_CHECKING:
    from edgekit.data import Sample

SHOWN = 12
ALIKE = 4
"""Of them, where all answers are the same."""
SIDE = 192
"""Longest side of an image, pixels: twice what the page shows."""


def choose_examples(
    data: str, limit: int | None, rows: Sequence[Row], measured: Sequence[Measured]
) -> tuple[Example, ...]:
    """Some questions with every row's answer.

    Args:
        data, limit: The questions.
        rows, measured: Of the same subjects.
    """
    well = [n for n, row in enumerate(rows) if row.status == "ok"]
    if not well:
        return ()
    said: list[dict[str, str]] = []
    for items in zip(*(measured[n].answers for n in well), strict=False):  # one that was ended early has fewer
        said.append({str(n): item["answer"] for n, item in zip(well, items, strict=True)})
    if not said:
        return ()
    chosen = _choose(said)
    facts = measured[well[0]].answers
    found = []
    for place, sample in enumerate(samples(data, limit=limit)):
        if place > max(chosen):
            break
        if place in chosen:
            item: dict[str, Any] = facts[place]
            found.append(Example(item["id"], item["question"], item["expected"], _image(sample), said[place]))
    return tuple(sorted(found, key=lambda example: len(set(example.answers.values())) == 1))


def _choose(said: Sequence[dict[str, str]]) -> set[int]:
    parted = [place for place, answers in enumerate(said) if len(set(answers.values())) > 1]
    alike = [place for place, answers in enumerate(said) if len(set(answers.values())) == 1]
    shown = parted[: SHOWN - min(ALIKE, len(alike))]
    return {*shown, *alike[:ALIKE]} or {0}


def _image(sample: Sample) -> str | None:
    if not sample.images:
        return None
    try:
        image = sample.images[0].open()
    except DataError:  # it was there when the runtimes read it
        return None
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
