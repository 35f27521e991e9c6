"""`perf.yaml` of Qualcomm AI Hub Models: times of a model on phones, by precision, device and runtime.

Source of the form: qai_hub_models/models/*/perf.yaml. A vision model has milliseconds of one inference and a range of
memory; a language model has decoded tokens a second, and the time to the first token for the shortest and the longest
prompt of a context length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from edgekit.errors import DataError
from edgekit.external_results import ResultFormat, number
from edgekit.report.model import Row, SpeedTest
from edgekit.yaml_text import read_yaml


def claims(text: str) -> bool:
    """Whether it has the file's two keys, where they stand in it."""
    return bool(
        re.search(r"^precisions:\s*$", text, re.MULTILINE) and re.search(r"^ +performance_metrics:", text, re.M)
    )


def rows(text: str, source: str) -> list[Row]:
    """One row for each component, precision, device and runtime, and each context length."""
    value = read_yaml(text, source, DataError).value
    return [
        row
        for precision, of_precision in _entries(value, "precisions", source)
        for component, of_component in _entries(of_precision, "components", f"{source}, {precision}")
        for device, of_device in _entries(of_component, "performance_metrics", f"{source}, {precision}, {component}")
        for runtime, measured in _pairs(of_device, f"{source}, {precision}, {component}, {device}")
        for row in _rows(component, precision, device, runtime, measured, source)
    ]


def _entries(value: object, key: str, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or key not in value:
        raise DataError(f"{where} has no {key}.", why="A perf.yaml has precisions, components and performance_metrics.")
    return _pairs(value[key], f"{where}, {key}")


def _pairs(value: object, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is no mapping.")
    return ((str(name), one) for name, one in value.items())


def _rows(component: str, precision: str, device: str, runtime: str, measured: object, source: str) -> Iterator[Row]:
    where = f"{source}, {component}, {precision}, {device}, {runtime}"
    if not isinstance(measured, Mapping):
        raise DataError(f"{where} is no mapping.")
    status = str(measured.get("job_status", "Passed"))
    base: dict[str, Any] = {
        "bundle": "", "name": component, "runtime": runtime, "target": runtime, "precision": precision,
        "device": device, "verified_by": "imported", "origin": f"{source}, Qualcomm AI Hub Models{_tools(measured)}",
    }  # fmt: skip
    if status != "Passed":
        yield Row(**base, status="failed", reason=f"the job's status is {status}")
        return
    if "llm_metrics" in measured:
        for entry in measured["llm_metrics"]:
            yield _of_language(base, entry, where)
        return
    ms = number(measured.get("inference_time_milliseconds"), "inference_time_milliseconds", where, low=1e-9)
    unit = measured.get("primary_compute_unit")
    yield Row(
        **{**base, "runtime": f"{runtime} ({unit})" if unit else runtime},
        status="ok",
        peak_memory_bytes=_memory(measured.get("estimated_peak_memory_range_mb"), where),
        tests=(SpeedTest("inference", "images/s", 1000 / ms),),
    )


def _of_language(base: Mapping[str, Any], entry: object, where: str) -> Row:
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: an entry of llm_metrics is no mapping.")
    context = int(number(entry.get("context_length"), "context_length", where, low=1, high=1e9))
    decode = number(entry.get("tokens_per_second"), "tokens_per_second", where)
    first = entry.get("time_to_first_token_range_milliseconds")
    if not isinstance(first, Mapping):
        raise DataError(f"{where} has no time_to_first_token_range_milliseconds.")
    shortest, longest = (number(first.get(end), f"time to the first token, {end}", where) for end in ("min", "max"))
    if shortest > longest:
        raise DataError(f"{where}: the shortest time to the first token, {shortest:g} ms, is above {longest:g} ms.")
    return Row(
        **{**base, "name": f"{base['name']}, context {context}"},
        status="ok",
        decode_tokens_per_s=decode,
        tests=(SpeedTest(f"tg @ context {context}", "tokens/s", decode),),
        timing_note=f"the first token takes {shortest:g} to {longest:g} ms, from the shortest to the longest prompt",
    )


def _memory(given: object, where: str) -> int | None:
    """The upper end of the range, bytes; the file counts megabytes."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise DataError(f"{where}: estimated_peak_memory_range_mb is no range.")
    return int(1e6 * number(given.get("max"), "estimated_peak_memory_range_mb, max", where))


def _tools(measured: Mapping[str, Any]) -> str:
    versions = measured.get("tool_versions")
    if not isinstance(versions, Mapping):
        return ""
    return "; " + ", ".join(f"{name} {version}" for name, version in versions.items())


RESULT_FORMAT = ResultFormat("perf.yaml of Qualcomm AI Hub Models", claims, rows)
