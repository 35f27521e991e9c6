"""Where the marks of a report's plots stand: plain numbers for SVG, no drawing library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.report.model import Row

WIDTH, HEIGHT = 380.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 12.0, 38.0
MARK = 17.0
"""Width of a numbered mark."""
LINE = 30.0
"""Height of one line of a bar or box plot."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """From values to places on an axis.

    Attributes:
        low, high: Values at its ends; above 0 for a logarithmic one.
        start, end: Places of the ends.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; values beyond an end stand at that end."""
        low, high, here = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, here = math.log(low), math.log(high), math.log(here)
        return round(self.start + (here - low) / (high - low) * (self.end - self.start), 2)

    def ticks(self) -> list[Tick]:
        """Round values between the ends: 1, 2 and 5 times powers of ten."""
        return [Tick(self(value), f"{value:g}") for value in (self._log_ticks() if self.log else self._ticks())]

    def _ticks(self) -> list[float]:
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        decades = math.log10(self.high / self.low)
        factors = (1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5)
        found = [round(factor * 10.0**power, 10) for power in powers for factor in factors]
        inside = [value for value in found if self.low <= value <= self.high]
        return inside if len(inside) > 2 else self._ticks()  # a short axis: evenly spaced values serve better


def scale(values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = False) -> Scale:
    """An axis that holds all values with some room; from 0 on where asked."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.12, 1.08)
        return Scale(low / room, high * room, start, end, True)
    if zero:
        return Scale(0.0, (high or 1.0) * 1.05, start, end)
    room = max((high - low) * 0.12, abs(high) * 1e-3, 1e-9)
    return Scale(low - room, high + room, start, end)


@dataclass(frozen=True)
class Point:
    """A row in a plot of accuracy.

    Attributes:
        row: Its number in the report, from 0.
        x, y: Place.
        left, right, low, high: Ends of its intervals; the place itself where there is none.
        text: What it says when pointed at.
        mark: Height of its number; y, or away from it where another one is there.
    """

    row: int
    x: float
    y: float
    left: float
    right: float
    low: float
    high: float
    text: str
    mark: float = 0.0


@dataclass(frozen=True)
class Pareto:
    """Accuracy against something that should be small; `front` is the path of those that nothing else beats.

    Attributes:
        label: Of the upright axis.
        zero: Place of the reference's line where differences to it are shown; None where there are none.
    """

    points: list[Point]
    front: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    label: str
    zero: float | None


def on_front(values: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the (cost, worth) pairs that no other one beats in both, by rising cost."""
    order = sorted(range(len(values)), key=lambda n: (values[n][0], -values[n][1]))
    found: list[int] = []
    for number in order:
        if not found or values[number][1] > values[found[-1]][1]:
            found.append(number)
    return found


LEAST_POINTS = 0.5
"""Points of accuracy that an axis of differences spans at least to both sides: less is not worth a height."""


def pareto(rows: Sequence[Row], cost: str, factor: float, unit: str) -> Pareto | None:
    """Accuracy against a field of the rows; None where less than two rows have both.

    Where rows were compared with the reference question by question, the height is that difference in points with its
    own interval, which is far narrower than that of either accuracy; rows that were not compared, and the reference,
    stand at the plain difference of their accuracies. Else it is the accuracy in percent.

    Args:
        rows: Of a report.
        cost: Name of the field.
        factor, unit: From the field to what is shown.
    """
    known = [(n, row) for n, row in enumerate(rows) if row.accuracy is not None and getattr(row, cost)]
    if len(known) < 2:
        return None
    costs = [_span(getattr(row, cost), getattr(row, f"{cost}_ci95", None), factor) for _, row in known]
    base = _reference([row for _, row in known])
    worths = [_worth(row, base) for _, row in known]
    x = scale([value for span in costs for value in span], LEFT, WIDTH - RIGHT, log=True)
    spread = [value for span in worths for value in span]
    least = LEAST_POINTS if base is not None else 0.0
    y = scale([*spread, -least, least] if least else spread, HEIGHT - BOTTOM, TOP)
    points = [
        Point(n, x(c[1]), y(w[1]), x(c[0]), x(c[2]), y(w[0]), y(w[2]), _told(n, row, f"{c[1]:.3g} {unit}"))
        for (n, row), c, w in zip(known, costs, worths, strict=True)
    ]
    best = [points[k] for k in on_front([(c[1], w[1]) for c, w in zip(costs, worths, strict=True)])]
    label = "accuracy, %" if base is None else "accuracy against PyTorch, points"
    return Pareto(_apart(points), _stairs(best), x.ticks(), y.ticks(), label, None if base is None else y(0.0))


def _reference(rows: Sequence[Row]) -> float | None:
    """The accuracy that the rows were compared with; None where none was."""
    if not any(row.accuracy_delta is not None for row in rows):
        return None
    return next((row.accuracy for row in rows if row.target == "checkpoint"), None)


def _worth(row: Row, base: float | None) -> tuple[float, float, float]:
    accuracy = row.accuracy or 0.0
    if base is None:
        return _span(accuracy, row.accuracy_ci95, 100)
    if row.accuracy_delta is not None:
        return _span(row.accuracy_delta, row.accuracy_delta_ci95, 100)
    return _span(accuracy - base, None, 100)


def _told(number: int, row: Row, cost: str) -> str:
    low, accuracy, high = _span(row.accuracy or 0.0, row.accuracy_ci95, 100)
    text = f"{number + 1} {row.name}: {accuracy:.2f} % [{low:.2f}, {high:.2f}]"
    if row.accuracy_delta is not None:
        low, gap, high = _span(row.accuracy_delta, row.accuracy_delta_ci95, 100)
        text += f", {gap:+.2f} points [{low:+.2f}, {high:+.2f}] against PyTorch"
    return f"{text}, {cost}"


def _apart(points: Sequence[Point]) -> list[Point]:
    """The points with a place for the mark of each: above or below its own where others would hide it."""
    placed: list[Point] = []
    for point in points:
        steps = (sign * MARK * n for n in range(len(points) + 1) for sign in (-1, 1))
        spots = (point.y + step for step in steps if TOP <= point.y + step <= HEIGHT - BOTTOM)
        free = (
            spot
            for spot in spots
            if all(abs(point.x - other.x) >= MARK or abs(spot - other.mark) >= MARK for other in placed)
        )
        placed.append(replace(point, mark=round(next(free, point.y), 2)))
    return placed


def _span(value: float, interval: tuple[float, float] | None, factor: float) -> tuple[float, float, float]:
    low, high = interval or (value, value)
    return low * factor, value * factor, high * factor


def _stairs(points: Sequence[Point]) -> str:
    """A line that keeps the accuracy of one point until the cost of the next."""
    path = ""
    for number, point in enumerate(points):
        path += f"H{point.x}V{point.y}" if number else f"M{point.x} {point.y}"
    return path + (f"H{WIDTH - RIGHT}" if points else "")


@dataclass(frozen=True)
class Box:
    """A distribution on a line: percentiles 5, 25, 50, 75, 95 as places."""

    row: int
    y: float
    places: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar from the axis on."""

    row: int
    y: float
    end: float
    text: str


@dataclass(frozen=True)
class Lines:
    """Boxes or bars below one another."""

    boxes: list[Box]
    bars: list[Bar]
    ticks: list[Tick]
    height: float


def distributions(samples: Sequence[tuple[int, Sequence[float]]], unit: str) -> Lines | None:
    """Boxes of (row number, samples), on a logarithmic axis; None where there are none."""
    found = [(n, _percentiles(values)) for n, values in samples if values and min(values) > 0]
    if not found:
        return None
    x = scale([value for _, places in found for value in places], LEFT, WIDTH - RIGHT, log=True)
    boxes = [
        Box(n, TOP + LINE * (k + 0.5), tuple(x(p) for p in places), f"{n + 1}: median {places[2]:.3g} {unit}, "
            f"5 % below {places[0]:.3g}, 5 % above {places[4]:.3g}")
        for k, (n, places) in enumerate(found)
    ]  # fmt: skip
    return Lines(boxes, [], x.ticks(), TOP + LINE * len(found) + BOTTOM)


def bars(values: Sequence[tuple[int, float]], unit: str) -> Lines | None:
    """Bars of (row number, value) from 0 on; None where there are none."""
    if not values:
        return None
    x = scale([value for _, value in values], LEFT, WIDTH - RIGHT - 44, zero=True)
    made = [Bar(n, TOP + LINE * (k + 0.5), x(value), f"{value:.3g} {unit}") for k, (n, value) in enumerate(values)]
    return Lines([], made, x.ticks(), TOP + LINE * len(values) + BOTTOM)


@dataclass(frozen=True)
class Curves:
    """Speed over time: (row number, SVG points) each."""

    curves: list[tuple[int, str]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def sustained(rows: Sequence[Row]) -> Curves | None:
    """Tokens per second over the seconds of a sustained run; None where no row has one."""
    known = [(n, row.sustained) for n, row in enumerate(rows) if row.sustained]
    if not known:
        return None
    x = scale([point.seconds for _, line in known for point in line], LEFT, WIDTH - RIGHT, zero=True)
    y = scale([point.tokens_per_s for _, line in known for point in line], HEIGHT - BOTTOM, TOP, zero=True)
    curves = [(n, " ".join(f"{x(p.seconds)},{y(p.tokens_per_s)}" for p in line)) for n, line in known]
    return Curves(curves, x.ticks(), y.ticks())


def _percentiles(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    found = []
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        found.append(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
    return found
