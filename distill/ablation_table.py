"""The table of an ablation's report, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("arm", "accuracy, mean (per seed)", "gain", "95 % over questions", "95 % over seeds", "verdict")
LABELS = ("over JSD + labels", "its 95 % over questions", "its 95 % over seeds", "better than both")
RATE = "learning rate"
RETENTION = "what else it could"
ORDER = (
    "gain",
    "verdict",
    "over JSD + labels",
    "better than both",
    "95 % over seeds",
    "95 % over questions",
    "accuracy, mean (per seed)",
)
"""By importance, for a narrow terminal."""


def _parts(report: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Whether it has differences to JSD + labels, learning rates, and questions about something else."""
    labels = any(arm.get("over_labels") for arm in report["arms"])
    return labels, bool(report.get("tuning")), report["untouched"].get("retention") is not None


def columns_of(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Of its table: more where it has differences to JSD + labels, learning rates, or other questions."""
    labels, rates, retention = _parts(report)
    return COLUMNS + (LABELS if labels else ()) + ((RATE,) if rates else ()) + ((RETENTION,) if retention else ())


def table(report: Mapping[str, Any]) -> tuple[str, list[list[str]], str]:
    """What was compared, the cells in the order of `columns_of`, one arm a line, and how to read them."""
    return _before(report), _rows(report), "\n\n".join(_after(report))


def markdown(report: Mapping[str, Any]) -> str:
    """The report's table, in the shape of the paper's, one arm a line."""
    before, rows, after = table(report)
    columns = columns_of(report)
    lines = [before, "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += ["| " + "".join(f"{cell} | " if cell else "| " for cell in row).rstrip() for row in rows]
    return "\n".join([*lines, "", after]) + "\n"


def _before(report: Mapping[str, Any]) -> str:
    seeds, arms = len(report["seeds"]), report["arms"]
    usual = arms[0]["teacher_forwards"]
    others = [f"{a['title']}: {a['teacher_forwards']:,}" for a in arms if a["teacher_forwards"] != usual]
    return (
        f"{report['questions']:,} questions of {report['test']}, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{arms[0]['steps']:,} student updates and {usual:,} teacher forwards per arm and seed"
        f"{' (' + ', '.join(others) + ')' if others else ''}. Gains are over plain JSD of the same seed, in points."
    )


def _rows(report: Mapping[str, Any]) -> list[list[str]]:
    labels, rates, retention = _parts(report)
    low, high = (100 * bound for bound in report["untouched"]["ci95"])
    first = ["untouched student", f"{100 * report['untouched']['accuracy']:.2f} [{low:.2f}, {high:.2f}]"]
    first += [""] * (4 + labels * len(LABELS) + rates)
    rows = [first + ([f"{100 * report['untouched']['retention']:.2f}"] if retention else [])]
    for arm in report["arms"]:
        per_seed = ", ".join(f"{100 * value:.2f}" for value in arm["accuracy"])
        row = [arm["title"], f"{100 * arm['mean']:.2f} ({per_seed})", *_difference(arm), arm["verdict"]]
        if labels:
            both = arm.get("better_than_both")
            row += [*_difference(arm.get("over_labels") or {}), "" if both is None else "yes" if both else "no"]
        if rates:
            row.append(f"{arm['learning_rate']:g}")
        if retention:
            change, least, most = (100 * value for value in arm["retention"])
            row.append(f"{change:+.2f} [{least:+.2f}, {most:+.2f}]")
        rows.append(row)
    return rows


def _difference(value: Mapping[str, Any]) -> list[str]:
    """Gain and its two intervals, in points."""
    gain = value.get("gain")
    bounds = [value.get(key) for key in ("over_questions", "over_seeds")]
    return [
        "" if gain is None else f"{100 * gain:+.2f}",
        *("" if pair is None else f"[{100 * pair[0]:+.2f}, {100 * pair[1]:+.2f}]" for pair in bounds),
    ]


def _after(report: Mapping[str, Any]) -> list[str]:
    labels, rates, _ = _parts(report)
    found = [
        "Over questions: paired bootstrap of the seed-averaged scores. Over seeds: Student's t on the differences per "
        "seed. A verdict needs both intervals, each at 95 % on its own, to exclude 0, and the larger one of the two "
        "p-values to be below 0.05 after Holm over the arms."
    ]
    if labels:
        found.append(
            "Better than both: better than plain JSD and than JSD + labels, each after Holm over the arms, and so the "
            "larger one of the two p-values."
        )
    if rates:
        found.append(_rates(report))
    if "recommendation" in report:
        found += [report["recommendation"]["text"], f"    {report['recommendation']['command']}"]
    return found


def _rates(report: Mapping[str, Any]) -> str:
    """How the learning rates were chosen, with all scores."""
    tuning = report["tuning"]
    tried = [
        f"{arm['title']}: "
        + ", ".join(f"{float(r):g} {'no number' if s is None else f'{100 * s:.2f}'}" for r, s in arm["tried"].items())
        for arm in report["arms"]
    ]
    ends = {min(tuning["rates"]), max(tuning["rates"])}
    edge = [arm["title"] for arm in report["arms"] if arm["learning_rate"] in ends]
    return (
        f"Learning rates: chosen with seed {tuning['seed']}, which is none of those above, by the accuracy on "
        f"{tuning['questions']:,} train questions held out of its trainings, in %. {'; '.join(tried)}."
        + (f" At an end of what was tried, so that one beyond it may be better: {', '.join(edge)}." if edge else "")
    )
