"""Plots for reports, by matplotlib (extra `report`); without it there are tables only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgekit.errors import MissingExtraError
from edgekit.files import write_bytes

COLORS = ("#1b6ac9", "#d1495b", "#2e8b57", "#8a5fb5", "#c98a1b")  # told apart in grey and by colour-blind eyes


@dataclass(frozen=True)
class Series:
    """Points of one line.

    Attributes:
        x, y: Values.
        low, high: Interval of each y; empty for none.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def available() -> bool:
    """Whether plots can be drawn here."""
    return find_spec("matplotlib") is not None


def lines(
    path: Path, panels: Mapping[str, Mapping[str, Series]], *, title: str, xlabel: str, marks: Mapping[str, float] = {}
) -> None:
    """Line plots under one another, as SVG or PNG by the file's ending.

    Args:
        path: File to write.
        panels: Label of the y axis -> name -> line.
        title, xlabel: Texts.
        marks: Name -> x of a dashed upright line.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure(len(panels), 3.0 * len(panels) + 1)
    for axis, (ylabel, series) in zip(axes, panels.items(), strict=True):
        for number, (name, line) in enumerate(series.items()):
            color = COLORS[number % len(COLORS)]
            axis.plot(line.x, line.y, marker="o", markersize=4, color=color, label=name)
            if line.low:
                axis.fill_between(line.x, line.low, line.high, color=color, alpha=0.18, linewidth=0)
        for name, place in marks.items():
            axis.axvline(place, color="#555555", linestyle="--", linewidth=1, label=name)
        axis.set_ylabel(ylabel)
        axis.grid(alpha=0.3)
        if len(series) + len(marks) > 1:
            axis.legend(frameon=False)
    axes[0].set_title(title)
    axes[-1].set_xlabel(xlabel)
    _save(figure, path)


def intervals(path: Path, rows: Mapping[str, tuple[float, float, float]], *, title: str, xlabel: str) -> None:
    """Points with their intervals, one row each, first row at the top; a dashed line at 0.

    Args:
        path: File to write, SVG or PNG.
        rows: Name -> (value, low, high).
        title, xlabel: Texts.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axis,) = _figure(1, 1.2 + 0.42 * len(rows))
    for place, (value, low, high) in enumerate(rows.values()):
        axis.errorbar(
            [value], [place], xerr=[[value - low], [high - value]], fmt="o", color=COLORS[0], capsize=3, markersize=5
        )
    axis.axvline(0, color="#555555", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set_xlabel(xlabel)
    axis.set_title(title)
    axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def _figure(panels: int, height: float):  # type: ignore[no-untyped-def]
    if not available():
        raise MissingExtraError("draw a plot", "matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)
    return figure, list(axes[:, 0])


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    import io

    import matplotlib

    buffer = io.BytesIO()
    # The same figures make the same file: no date, no random ids.
    with matplotlib.rc_context({"svg.hashsalt": "edgekit"}):
        kind = path.suffix.removeprefix(".")
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    write_bytes(path, buffer.getvalue())
