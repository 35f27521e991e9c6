"""Speeds that others published of phones, and what `edgekit.devices.predict` says of the same models there.

A row is llama.cpp on the phone's CPU. Two rows, marked `fitted` in published.yaml, give the shares of the peaks
(`predict.CPU_SHARES`); all the others are held out, and show how far off the sums are.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekit.devices._catalogue import catalog
from edgekit.devices.predict import CPU_SHARES, Shares, cpu_tops, milliseconds, per_second
from edgekit.errors import EdgekitError
from edgekit.formats.counting import Heads, Load
from edgekit.report.prediction import Estimate

FILE = Path(__file__).parent / "published.yaml"
CONTEXT = 512
"""Tokens of the prompt and in the cache, as the rows are for that context."""
BITS = {"q8_0": (8.5, 8.5), "q4_0": (4.5, 6.5625)}
"""Of a weight in a matrix, and in the head: llama-quantize leaves the head of q4_0 in q6_K. The files were not seen."""
COLUMNS = ("model", "phone", "test", "predicted", "range", "published", "predicted / published", "row")


@dataclass(frozen=True)
class Model:
    """What a decoder multiplies and keeps; see published.yaml."""

    name: str
    source: str
    parameters: float
    """Published, for a check of the shapes."""
    matrices: tuple[tuple[int, int, int], ...]
    """How many, inputs, outputs."""
    head: tuple[int, int]
    attention: tuple[Heads, ...]
    state_bytes: float = 0
    """Of states that are read and written whole for each token."""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Tokens per second that somebody measured; None for what is not published."""

    model: str
    precision: str
    phone: str
    """A file of the catalogue."""
    decode: float
    prefill: float | None = None
    fitted: bool = False
    source: str = "Qualcomm AI Hub Models (BSD-3)"
    note: str = ""


@dataclass(frozen=True)
class Published:
    """The file."""

    models: dict[str, Model]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Compared:
    """One published figure beside the predicted one, in tokens per second."""

    row: Row
    test: str
    predicted: Estimate
    published: float

    @property
    def ratio(self) -> float:
        """Predicted over published."""
        return self.predicted.value / self.published

    @property
    def inside(self) -> bool:
        """Whether the published figure lies in the predicted range."""
        return self.predicted.low <= self.published <= self.predicted.high


@cache
def published() -> Published:
    """The rows and the models' shapes.

    Raises:
        EdgekitError: not valid.
    """
    from edgekit import schema
    from edgekit.yaml_text import read_yaml_file

    document = read_yaml_file(FILE, "the published rows", EdgekitError)
    problems: list[str] = []
    found = schema.read(Published, document.value, problems)
    problems = document.all_problems(problems)
    if found is None or problems:
        raise EdgekitError(f"{FILE} is not valid.", why="\n".join(problems))
    return found


def parameters(model: Model) -> int:
    """Numbers in the matrices and the head."""
    return sum(count * inputs * outputs for count, inputs, outputs in model.matrices) + model.head[0] * model.head[1]


def loads(model: Model, precision: str) -> dict[str, Load]:
    """What a prompt of CONTEXT tokens costs, and a token behind as many; only the last token goes through the head."""
    head = model.head[0] * model.head[1]
    body = parameters(model) - head
    bits, head_bits = BITS[precision]
    weights = (body * bits + head * head_bits) / 8
    cached = CONTEXT * sum(heads.row_bytes(16) for heads in model.attention)
    attention = 2 * sum(heads.multiply_adds(CONTEXT) for heads in model.attention)
    return {
        # Each token of a prompt looks at those before it: half of them on average.
        "prefill": Load((2 * body + attention / 2) * CONTEXT + 2 * head, weights + cached),
        "decode": Load(2 * (body + head) + attention, weights + cached + 2 * model.state_bytes),
    }


def peaks_of(row: Row) -> tuple[float, float]:
    """TOPS and GB/s of the row's phone."""
    phone = catalog()[row.phone]
    assert phone.cpu_ghz is not None and phone.bandwidth_gb_s is not None, f"{row.phone} lacks a peak"
    return cpu_tops(phone.cpu_ghz), phone.bandwidth_gb_s.value


def fit() -> tuple[float, float]:
    """Shares of the operations and of the bandwidth that the `fitted` rows reached: geometric means."""
    compute, bandwidth = [], []
    call_s = CPU_SHARES.call_ms[1] / 1000
    for row in published().rows:
        if not row.fitted or row.prefill is None:
            continue
        work, (tops, gb_s) = loads(published().models[row.model], row.precision), peaks_of(row)
        compute.append(work["prefill"].operations / (CONTEXT / row.prefill - call_s) / (tops * 1e12))
        bandwidth.append(work["decode"].bytes / (1 / row.decode - call_s) / (gb_s * 1e9))
    return statistics.geometric_mean(compute), statistics.geometric_mean(bandwidth)


def compare(shares: Shares = CPU_SHARES) -> list[Compared]:
    """Every published figure beside its prediction, in the file's order."""
    found = []
    for row in published().rows:
        work, peaks = loads(published().models[row.model], row.precision), peaks_of(row)
        for test, count, figure in (("prefill", CONTEXT, row.prefill), ("decode", 1, row.decode)):
            if figure is not None:
                rate = per_second(count, milliseconds(work[test], *peaks, shares))
                found.append(Compared(row, test, rate, figure))
    return found


def table() -> list[str]:
    """Lines of Markdown: what docs/prediction.md shows, and below it how many are inside and how far off they are."""
    found = compare()
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(_cells(one)) + " |" for one in found]
    held = [one for one in found if not one.row.fitted]
    for test in ("prefill", "decode"):
        errors = [abs(one.ratio - 1) for one in held if one.test == test]
        inside = sum(one.inside for one in held if one.test == test)
        middle, most = statistics.median(errors), max(errors)
        lines += [
            "",
            f"{test}, held out: {inside} of {len(errors)} inside; error {middle:.0%} median, {most:.0%} most.",
        ]
    return lines


def _cells(one: Compared) -> list[str]:
    place = "fitted" if one.row.fitted else "held out"
    low, high = (f"{part:,.3g}" for part in (one.predicted.low, one.predicted.high))
    return [
        f"{published().models[one.row.model].name} {one.row.precision}",
        catalog()[one.row.phone].name,
        one.test,
        f"{one.predicted.value:,.3g}*",
        f"[{low}, {high}]",
        f"{one.published:g}",
        f"{one.ratio:.2f}",
        place if one.inside else f"{place}, outside",
    ]
