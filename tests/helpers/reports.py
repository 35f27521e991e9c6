"""A report as `bench` makes it, with texts of one's own: what reports are printed and drawn from in tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgekit.report.model import Example, Lineage, Report, Row, SpeedTest, Stretch

IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)


def rows(name: str = "onnx-int8") -> tuple[Row, ...]:
    base = Row(
        "a" * 64, "student (reference)", "pytorch", "checkpoint", "fp32", "host", "ok", n=500, accuracy=0.866,
        accuracy_ci95=(0.85, 0.88), ttft_ms=6.5, ttft_ms_ci95=(6.4, 6.7), decode_tokens_per_s=780.0,
        peak_memory_bytes=441_000_000, size_bytes=3_090_000, load_ms=900.0, preprocess_ms=0.4, image_encode_ms=2.0,
        tests=(SpeedTest("pp512", "tokens/s", 9000.0, 100.0), SpeedTest("img", "images/s", reason="no")),
        sustained=tuple(Stretch(float(n), 100.0 - n, 10.0) for n in range(1, 11)),
    )  # fmt: skip
    other = replace(
        base, bundle="b" * 64, name=name, runtime="onnxruntime", target="onnx", precision="int8", accuracy=0.86,
        accuracy_ci95=(0.845, 0.875), accuracy_delta=-0.006, accuracy_delta_ci95=(-0.01, 0.001), ttft_ms=0.8,
        ttft_ms_ci95=(0.75, 0.9), peak_memory_bytes=88_000_000, size_bytes=1_580_000,
        accuracy_p=0.2, accuracy_p_holm=0.4,
    )  # fmt: skip
    failed = Row("", f"{name}-broken", "unknown", "unknown", "unknown", "host", "failed", reason=f"bad {name}")
    return base, other, failed


def report(text: str = "onnx-int8") -> Report:
    lineage = (Lineage(text, "b" * 64, "a" * 64, "c" * 64, text, {}),)
    return Report(
        2, text, text, 1, {"cpu": text}, rows(text), run=text, versions={text: text}, notes=(text,), turns=20,
        verdict=f"FAIL: {text}", methods={text: text}, lineage=lineage,
    )  # fmt: skip


def raw(name: str = "onnx-int8") -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"bundle": row.bundle, "name": row.name, "runtime": row.runtime, "ttft_ms": (row.ttft_ms or 1) * noise,
         "itl_ms": [noise, 2 * noise]}
        for row in rows(name)[:2]
        for noise in rng.lognormal(0, 0.2, 60)
    ]  # fmt: skip


def example(text: str = "red") -> Example:
    return Example(text, f"what colour? {text}", text, IMAGE, {"0": "it is red now", "1": f"it is {text} blue now"})
