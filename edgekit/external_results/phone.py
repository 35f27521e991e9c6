"""edgekit's own file for figures taken on a phone: what an app that embeds a bundle writes; docs/bench.md shows one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgekit import schema, strict_json
from edgekit.errors import DataError
from edgekit.external_results import ResultFormat, parse
from edgekit.report.model import Row
from edgekit.stats import median_interval

FORMAT = "edgekit-phone"
VERSION = 2
"""2 has memory_by, thermal_state_after, cpu_pressure, browser, threads and self_test; 1 is read as before."""


@dataclass(frozen=True)
class Run:
    """One answer, milliseconds."""

    preprocess_ms: float
    image_encode_ms: float
    prefill_ms: float
    first_token_ms: float
    itl_ms: tuple[float, ...]
    prompt_tokens: int
    token_ids: tuple[int, ...] = ()
    id: str = ""
    """Of the question."""


@dataclass(frozen=True)
class Phone:
    """The whole file."""

    format: str
    schema_version: int
    bundle: str
    """SHA-256 of the bundle, as its own `edgekit bench` row names it."""
    name: str
    runtime: str
    target: str
    precision: str
    device: str
    """Model as its maker calls it, for example iPhone17,1."""
    os: str
    """Name and build."""
    runs: tuple[Run, ...]
    compute_units: str = ""
    thermal_state: str = ""
    battery_percent: float | None = None
    low_power_mode: bool | None = None
    load_ms: float | None = None
    peak_memory_bytes: int | None = None
    """phys_footprint on iOS, the number that ends an app."""
    memory_by: str = ""
    """What told it, for example performance.measureUserAgentSpecificMemory, which is no high-water mark."""
    thermal_state_after: str = ""
    """`thermal_state` is from before the runs."""
    cpu_pressure: str = ""
    """The worst of nominal, fair, serious and critical that a browser's Compute Pressure API told meanwhile."""
    browser: str = ""
    """Name and version, or the user agent."""
    threads: int | None = None
    self_test: str = ""
    """What the bundle's golden vectors came to there."""
    app: str = ""
    extra: dict[str, str] = field(default_factory=dict)


def claims(text: str) -> bool:
    """Whether it says so itself."""
    try:
        value = strict_json.loads(text.encode("utf-8"))
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def rows(text: str, source: str) -> list[Row]:
    """One row: medians over the runs."""
    import numpy as np

    phone = schema.read_document(
        Phone, parse(text, source), newest=VERSION, what=FORMAT, source=source, error=DataError
    )
    problems = _problems(phone)
    if problems:
        raise DataError(f"{source} is not a valid {FORMAT} file:", why="\n".join(problems))
    state: list[Any] = [phone.os, phone.browser, phone.compute_units]
    state += [None if phone.threads is None else f"{phone.threads} thread{'s' if phone.threads > 1 else ''}"]
    state += [phone.thermal_state and f"thermal {phone.thermal_state}"]
    state += [phone.thermal_state_after and f"thermal {phone.thermal_state_after} after"]
    state += [phone.cpu_pressure and f"CPU pressure {phone.cpu_pressure}"]
    state += [phone.memory_by and f"memory by {phone.memory_by}"]
    state += [None if phone.battery_percent is None else f"battery {phone.battery_percent:g} %"]
    state += ["low-power mode" if phone.low_power_mode else None, phone.app]
    ttft = [run.preprocess_ms + run.image_encode_ms + run.prefill_ms + run.first_token_ms for run in phone.runs]
    gaps = [gap for run in phone.runs for gap in run.itl_ms]
    quantiles = [float(value) for value in np.quantile(gaps, (0.5, 0.95, 0.99))] if gaps else [None] * 3
    named: dict[str, Any] = {
        key: float(np.median([getattr(run, key) for run in phone.runs]))
        for key in ("preprocess_ms", "image_encode_ms", "prefill_ms", "first_token_ms", "prompt_tokens")
    }
    told = phone.self_test or phone.extra.get("self_test", "")  # there in files of schema 1
    failed = None if told.startswith(("passed", "not run")) or not told else f"its self-test there: {told}"
    speeds = [1000 * run.prompt_tokens / run.prefill_ms for run in phone.runs if run.prefill_ms]
    return [
        Row(
            bundle=phone.bundle, name=phone.name, runtime=phone.runtime, target=phone.target,
            precision=phone.precision, device=phone.device, status="failed" if failed else "ok",
            reason=failed, verified_by="imported",
            origin=f"{source}: {', '.join(part for part in state if part)}", load_ms=phone.load_ms,
            ttft_ms=float(np.median(ttft)), ttft_ms_ci95=median_interval(ttft) if len(ttft) > 4 else None,
            prefill_tokens_per_s=float(np.median(speeds)) if speeds else None,
            decode_tokens_per_s=1000 / quantiles[0] if quantiles[0] else None,
            itl_ms_p50=quantiles[0], itl_ms_p95=quantiles[1], itl_ms_p99=quantiles[2],
            peak_memory_bytes=phone.peak_memory_bytes, self_test=told or None, **named,
        )
    ]  # fmt: skip


def _problems(phone: Phone) -> list[str]:
    found = [] if phone.runs else ["runs: expected at least one"]
    if len(phone.bundle) != 64 or set(phone.bundle) - set("0123456789abcdef"):
        found.append(f"bundle: expected 64 hexadecimal digits, found {phone.bundle[:80]!r}")
    if phone.threads is not None and not 1 <= phone.threads <= 1024:
        found.append(f"threads: {phone.threads} is not from 1 to 1024")
    for number, run in enumerate(phone.runs):
        times = {"preprocess_ms": run.preprocess_ms, "image_encode_ms": run.image_encode_ms}
        times |= {"prefill_ms": run.prefill_ms, "first_token_ms": run.first_token_ms}
        times |= {f"itl_ms[{place}]": gap for place, gap in enumerate(run.itl_ms)}
        found += [f"runs[{number}].{key}: {value} is negative" for key, value in times.items() if value < 0]
        if run.prompt_tokens < 1:
            found.append(f"runs[{number}].prompt_tokens: {run.prompt_tokens} is not at least 1")
    return found[:20]


RESULT_FORMAT = ResultFormat("edgekit-phone JSON", claims, rows)
