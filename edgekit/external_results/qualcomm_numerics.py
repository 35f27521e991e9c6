"""`numerics.yaml` of Qualcomm AI Hub Models: accuracy on phones beside PyTorch's on the same part of a data set.

Source of the form: qai_hub_models/models/*/numerics.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from edgekit.errors import DataError
from edgekit.external_results import ResultFormat, number
from edgekit.report.model import Row
from edgekit.yaml_text import read_yaml


def claims(text: str) -> bool:
    """Whether it has the file's keys, where they stand in it."""
    return bool(re.search(r"^metrics:\s*$", text, re.MULTILINE) and re.search(r"^ +device_metric:", text, re.MULTILINE))


def rows(text: str, source: str) -> list[Row]:
    """One row for each metric in percent, device, precision and runtime; metrics of other units are left out."""
    value = read_yaml(text, source, DataError).value
    metrics = value.get("metrics") if isinstance(value, Mapping) else None
    if not isinstance(metrics, list):
        raise DataError(f"{source} has no list of metrics.")
    return [row for place, metric in enumerate(metrics) for row in _rows(metric, f"{source}, metric {place}", source)]


def _rows(metric: object, where: str, source: str) -> Iterator[Row]:
    if not isinstance(metric, Mapping) or not isinstance(metric.get("device_metric"), Mapping):
        raise DataError(f"{where} has no device_metric.")
    if metric.get("metric_unit") != "%":
        return
    count = int(number(metric.get("num_partial_samples"), "num_partial_samples", where, low=1, high=1e12))
    torch = number(metric.get("partial_torch_metric"), "partial_torch_metric", where, high=100)
    what = f"{metric.get('metric_name', 'metric')} on {metric.get('dataset_name', 'a data set')}"
    for (device, precision, runtime), entry in _leaves(metric["device_metric"], 3, where):
        if not isinstance(entry, Mapping):
            raise DataError(f"{where}, {device}, {precision}, {runtime} is no mapping.")
        found = number(entry.get("partial_metric"), "partial_metric", f"{where}, {device}, {precision}", high=100)
        yield Row(
            bundle="", name=what, runtime=runtime, target=runtime, precision=precision, device=device, status="ok",
            verified_by="imported", origin=f"{source}, Qualcomm AI Hub Models; PyTorch there {torch:g} %", n=count,
            accuracy=found / 100, accuracy_delta=(found - torch) / 100,
        )  # fmt: skip


def _leaves(value: object, depth: int, where: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if depth == 0:
        yield (), value
        return
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: device_metric is not by device, precision and runtime.")
    for name, below in value.items():
        for names, leaf in _leaves(below, depth - 1, where):
            yield (str(name), *names), leaf


RESULT_FORMAT = ResultFormat("numerics.yaml of Qualcomm AI Hub Models", claims, rows)
