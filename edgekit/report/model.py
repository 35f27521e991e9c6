"""A report: one row per (bundle, runtime, device), with the reference beside it and raw samples behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit.report.prediction import Prediction

SCHEMA_VERSION = 3
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
    self_test: str | None = None
    """Of a device that computed the bundle's golden vectors anew: what came of it."""
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
    processes: int | None = None
    """Fresh ones of each row that ran here, one after the other."""
    """Turns that each row took; 1 is one after the other."""
    generation: Literal["greedy"] = "greedy"
    """How every answer was made: the plain best token, without a model's own generation settings."""
    methods: dict[str, str] = field(default_factory=dict)
    """What each interval and test is."""
    lineage: tuple[Lineage, ...] = ()
