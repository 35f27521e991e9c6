"""The statistics that ExecuTorch's LLM runners print after each answer: `PyTorchObserver {...}`, one line a run.

Source: extension/llm/runner/stats.h, `stats_to_json_string`; times are milliseconds of one clock.
"""

from __future__ import annotations

import re
from statistics import mean, median, stdev
from typing import Any

from edgekit import strict_json
from edgekit.errors import DataError
from edgekit.external_results import ResultFormat, number, parse
from edgekit.report.model import Row, SpeedTest

TIMES = (
    "model_load_start_ms", "model_load_end_ms", "inference_start_ms", "prompt_eval_end_ms", "first_token_ms",
    "inference_end_ms",
)  # fmt: skip
_LINE = re.compile(r"PyTorchObserver\s*(\{.*\})")


def claims(text: str) -> bool:
    """Whether any line holds such statistics; logs around them do no harm."""
    return any(_is_value(line) for line in map(_statistics, text.splitlines()) if line is not None)


def rows(text: str, source: str) -> list[Row]:
    """One row: medians over the runs of the file; the load is the first run's."""
    found = ((f"{source}:{place}", _statistics(line)) for place, line in enumerate(text.splitlines(), 1))
    runs = [_run(parse(line, where), where) for where, line in found if line is not None and _is_value(line)]
    prefill = [1000 * run["prompt"] / run["prefill_ms"] for run in runs if run["prefill_ms"] > 0]
    decode = [1000 * run["later"] / run["decode_ms"] for run in runs if run["decode_ms"] > 0 and run["later"] > 0]
    tests = [
        SpeedTest(name, "tokens/s", mean(values), stdev(values) if len(values) > 1 else None, tuple(values))
        for name, values in (("prompt", prefill), ("generation", decode))
        if values
    ]
    return [
        Row(
            bundle="", name=source, runtime="executorch", target="executorch", precision="unknown", device="unknown",
            status="ok", verified_by="imported", origin=f"{source}, ExecuTorch runner, {len(runs)} run(s)",
            load_ms=runs[0]["load_ms"], prompt_tokens=median(run["prompt"] for run in runs),
            prefill_ms=median(run["prefill_ms"] for run in runs), ttft_ms=median(run["ttft_ms"] for run in runs),
            prefill_tokens_per_s=median(prefill) if prefill else None,
            decode_tokens_per_s=median(decode) if decode else None, tests=tuple(tests),
        )
    ]  # fmt: skip


def _statistics(line: str) -> str | None:
    """What of a line may be statistics."""
    found = _LINE.search(line)
    text = found[1] if found else line.strip()
    return text if text.startswith("{") and "inference_start_ms" in text else None


def _is_value(text: str) -> bool:
    """Whether it is JSON at all: a line that a log cut short is none, and does no harm."""
    try:
        return isinstance(strict_json.loads(text.encode("utf-8")), dict)
    except ValueError:
        return False


def _run(value: dict[str, Any], where: str) -> dict[str, float]:
    missing = [name for name in (*TIMES, "prompt_tokens", "generated_tokens") if name not in value]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}.")
    times = [number(value[name], name, where) for name in TIMES]
    scale = number(value.get("SCALING_FACTOR_UNITS_PER_SECOND", 1000), "SCALING_FACTOR_UNITS_PER_SECOND", where, low=1)
    load_start, load_end, start, prompt_end, first, end = (1000 * time / scale for time in times)
    if not start <= prompt_end <= end or not start <= first <= end or load_end < load_start:
        raise DataError(f"{where}: its times do not follow one another.")
    generated = number(value["generated_tokens"], "generated_tokens", where)
    return {
        "load_ms": load_end - load_start,
        "prompt": number(value["prompt_tokens"], "prompt_tokens", where),
        "prefill_ms": prompt_end - start,
        "ttft_ms": first - start,
        "later": max(generated - 1, 0),
        "decode_ms": end - first,
    }


RESULT_FORMAT = ResultFormat("the PyTorchObserver lines of ExecuTorch's runners", claims, rows)
