"""Rows of a bench from devices that came by themselves: their answers are scored here, beside the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.data import Sample, samples
from edgekit.data.scoring import score_answer
from edgekit.devices import Errand, Guests, Visit
from edgekit.errors import EdgekitError
from edgekit.report.model import Row
from edgekit.runtimes.measure import Measured, Settings, turn_lengths
from edgekit.runtimes.rows import fill

STAGES = ("preprocess_ms", "image_encode_ms", "prefill_ms", "first_token_ms")


@dataclass(frozen=True)
class Guest:
    """One row of a guest.

    Attributes:
        bundle: Its place among the bundles that were offered.
        row: Filled.
        measured: What it was filled from.
    """

    bundle: int
    row: Row
    measured: Measured


def gather(guests: Guests, bundles: Sequence[Path], settings: Settings, visits: list[Visit], name: str) -> None:
    """Have guests run bundles, and keep what comes also where this is ended early.

    Args:
        guests: Ready.
        bundles: Folders; none asks nobody.
        settings: Of the bench.
        visits: Filled.
        name: Of the device, for a row where nobody could come.
    """
    if not bundles:
        return
    errand = Errand(
        tuple(bundles), settings.data, settings.limit, settings.warmup, settings.max_new_tokens, settings.threads
    )
    try:
        guests.gather(errand, visits)
    except EdgekitError as error:
        told = {visit.bundle for visit in visits}
        why = " ".join(str(error).split())
        visits += [Visit(place, name, {}, problem=why) for place in range(len(bundles)) if place not in told]


def rows(visits: Sequence[Visit], named: Sequence[Row], settings: Settings, base: Measured | None) -> list[Guest]:
    """Rows of visits.

    Args:
        visits: As they came.
        named: Of each bundle that was offered: names and size.
        settings: Of the bench.
        base: What was measured of the reference here; None where there is none.
    """
    most = max((len(visit.answers) for visit in visits), default=0)
    asked = list(samples(settings.data, limit=most)) if most else []
    found = []
    for visit in sorted(visits, key=lambda one: one.bundle):
        measured = _measured(visit, asked, settings)
        row = replace(
            named[visit.bundle], device=visit.guest, verified_by="device", self_test=visit.self_test or None,
            runtime=visit.runtime or named[visit.bundle].runtime,
        )  # fmt: skip
        row = fill(row, measured, base)
        # What a phone takes over what this machine takes says nothing of the bundle.
        row = replace(row, ttft_ratio=None, ttft_ratio_ci95=None, decode_ratio=None, decode_ratio_ci95=None)
        found.append(Guest(visit.bundle, row, measured))
    return found


def _measured(visit: Visit, asked: Sequence[Sample], settings: Settings) -> Measured:
    measured = Measured(visit.guest, problem=visit.problem, figures=dict(visit.figures))
    if visit.problem is None and not visit.answers:
        measured.problem = "it answered nothing"
    if measured.problem is None:
        turns = [turn for turn, length in enumerate(turn_lengths(len(visit.answers))) for _ in range(length)]
        trios = zip(visit.answers, asked, turns, strict=False)
        measured.answers = [_answer(dict(said), sample, turn, settings) for said, sample, turn in trios]
    return measured


def _answer(said: dict[str, Any], sample: Sample, turn: int, settings: Settings) -> dict[str, Any]:
    """As `edgekit.runtimes.worker.Worker.ask` gives one."""
    text = str(said.pop("text"))
    return {
        "id": sample.id, "turn": turn, "process": 0, "question": sample.text, "expected": sample.answer, "answer": text,
        "token_ids": said.pop("token_ids"), "score": score_answer(settings.scoring, text, sample),
        "ttft_ms": sum(float(said[stage]) for stage in STAGES), **said,
    }  # fmt: skip
