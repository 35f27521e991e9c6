"""What `llama-bench -o json` and `-o jsonl` print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekit import strict_json
from edgekit.errors import DataError
from edgekit.external_results import ResultFormat, number, parse
from edgekit.report.model import Row, SpeedTest


def claims(text: str) -> bool:
    """Whether its first entry has the fields of llama-bench."""
    try:
        entries = _entries(text, lambda one, _: strict_json.loads(one.encode("utf-8")))
    except ValueError:
        return False
    return bool(entries) and isinstance(entries[0], dict) and {"n_prompt", "n_gen", "avg_ts"} <= set(entries[0])


def rows(text: str, source: str) -> list[Row]:
    """One row for each model, backend and number of threads; its tests as in the file."""
    found: dict[tuple[str, ...], Row] = {}
    for place, entry in enumerate(_entries(text, parse, source), 1):
        where = f"{source}, entry {place}"
        if not isinstance(entry, dict) or not {"n_prompt", "n_gen", "avg_ts"} <= set(entry):
            raise DataError(f"{where} is no entry of llama-bench.", why="It wants n_prompt, n_gen and avg_ts.")
        name = str(entry.get("model_filename") or entry.get("model_type") or "model").rpartition("/")[2]
        backend = str(entry.get("backends") or entry.get("backend") or "unknown")
        key = (name, backend, str(entry.get("n_threads", "")))
        row = found.get(key) or _row(entry, name, backend, source, where)
        found[key] = _with(row, _test(entry, where))
    return list(found.values())


def _entries(text: str, read: Callable[[str, str], Any], source: str = "") -> list[Any]:
    """Of one JSON value, or of one a line."""
    lines = text.strip().splitlines()
    if len(lines) > 1 and lines[0].rstrip().endswith("}") and lines[0].startswith("{"):
        return [read(line, f"{source}, line {place}") for place, line in enumerate(lines, 1) if line.strip()]
    value = read(text, source)
    return value if isinstance(value, list) else [value]


def _row(entry: dict[str, Any], name: str, backend: str, source: str, where: str) -> Row:
    build = str(entry.get("build_commit", "unknown build"))
    device = str(entry.get("gpu_info") or entry.get("cpu_info") or "unknown")
    size = entry.get("model_size")
    return Row(
        bundle="", name=name, runtime="llamacpp", target="gguf", precision=str(entry.get("model_type", "unknown")),
        device=device, status="ok", verified_by="imported", origin=f"{source}, llama-bench {build}, {backend}",
        size_bytes=None if size is None else int(number(size, "model_size", where)),
    )  # fmt: skip


def _test(entry: dict[str, Any], where: str) -> SpeedTest:
    prompt = int(number(entry["n_prompt"], "n_prompt", where, high=1e9))
    new = int(number(entry["n_gen"], "n_gen", where, high=1e9))
    name = f"pp{prompt}+tg{new}" if prompt and new else f"pp{prompt}" if prompt else f"tg{new}"
    depth = int(number(entry.get("n_depth", 0), "n_depth", where, high=1e9))
    given = entry.get("samples_ts", [])
    if not isinstance(given, list):
        raise DataError(f"{where}: samples_ts is no list.")
    samples = tuple(number(value, "samples_ts", where) for value in given)
    mean = number(entry["avg_ts"], "avg_ts", where)
    if samples and abs(sum(samples) / len(samples) - mean) > 0.02 * mean + 1e-6:
        raise DataError(f"{where}: avg_ts is {mean:g}, the mean of its samples is {sum(samples) / len(samples):g}.")
    sd = None if entry.get("stddev_ts") is None else number(entry["stddev_ts"], "stddev_ts", where)
    return SpeedTest(name + (f" @ d{depth}" if depth else ""), "tokens/s", mean, sd, samples)


def _with(row: Row, test: SpeedTest) -> Row:
    from dataclasses import replace

    row = replace(row, tests=(*row.tests, test))
    if test.test.startswith("tg") and "@" not in test.test:
        return replace(row, decode_tokens_per_s=test.mean)
    if test.test.startswith("pp") and "+" not in test.test and "@" not in test.test:
        return replace(row, prefill_tokens_per_s=test.mean)
    return row


RESULT_FORMAT = ResultFormat("llama-bench -o json or jsonl", claims, rows)
