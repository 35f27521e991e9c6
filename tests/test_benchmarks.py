"""The scripts in benchmarks/ run, and their ways of doing the same do the same."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.data import samples
from edgekit.recipe import GenData

ROOT = Path(__file__).parent.parent


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generate_counts_the_same_tokens_each_way() -> None:
    """With one token to choose from, every way writes the same responses, so it must count the same tokens."""
    generate = script("generate")
    model, processor = generate.demo()
    settings = GenData(max_new_tokens=4, top_k=1, repetition_penalty=1.0)
    ready = generate.ways(model, processor, list(samples("easy-vqa:test", limit=2)), 2, settings)
    counts = {name: way(3) for name, way in ready.items()}
    assert set(counts.values()) == {8}  # two tokens an answer: the word and its end


def test_ratios_are_taken_within_each_repetition() -> None:
    generate = script("generate")
    rows = {row["way"]: row for row in generate.summary({"ours": [10.0, 40.0, 30.0], "x": [5.0, 10.0, 30.0]})}
    assert rows["x"]["ours_over"] == 2.0 and rows["x"]["ours_over_range"] == [1.0, 4.0]
    assert rows["x"]["tokens_per_s"] == 10.0 and rows["ours"]["ours_over_range"] == [1.0, 1.0]


def test_chat_prefills_as_much_in_all_as_the_whole_conversation(tiny_bundle: Path) -> None:
    rows = script("chat").measure(tiny_bundle, 3, 1)
    assert [row["turn"] for row in rows] == [1, 2, 3] and rows[0]["kept"] == 0 < rows[1]["kept"] < rows[2]["kept"]
    assert all(row["prefilled"] + row["kept"] == row["anew"] and row["anew_ms"] > 0 for row in rows)


def test_mil_takes_ratios_within_each_repetition() -> None:
    mil = script("mil")
    found = mil.summary({"torch": [(10.0, 1.0), (20.0, 4.0)], "evaluator": [(20.0, 3.0), (20.0, 4.0)]})
    assert found["prefill_ratio"] == 1.5 and found["prefill_ratio_range"] == [1.0, 2.0]
    assert found["decode_ratio_range"] == [1.0, 3.0] and found["torch_decode_ms"] == 2.5


def test_llamacpp_takes_ratios_within_each_repetition() -> None:
    rows = [
        {"img_ms": 1.0, "prefill_ms": p, "prefill_llamacpp_ms": q, "token_ms": 3.0, "token_llamacpp_ms": 2.0}
        for p, q in ((10.0, 10.0), (40.0, 20.0), (30.0, 10.0))
    ]
    found = script("llamacpp").summary(rows)
    assert found["prefill_ratio"] == 2.0 and found["prefill_ratio_range"] == [1.0, 3.0]
    assert found["token_ratio"] == 1.5 and found["img_ms"] == 1.0


def test_overhead_asks_both_ways_the_same(tiny_bundle: Path) -> None:
    overhead = script("overhead")
    made = overhead.ways(tiny_bundle, 1, 3)
    assert made["direct"]() == made["edgekit"]() and len(made["direct"]()) == 3
    assert overhead.overhead(made, 4)["repetitions"] == 4


def test_overhead_by_hand() -> None:
    found = script("overhead").summary({"edgekit": [(11.0, 2.0)] * 3, "direct": [(10.0, 2.0), (5.0, 1.0), (11.0, 2.0)]})
    assert round(found["wall_overhead_percent"], 6) == 10.0 and found["cpu_overhead_percent"] == 0.0


def test_two_runs_agree_where_their_intervals_meet() -> None:
    from edgekit.report import Report, Row

    base = Row("b", "x", "r", "onnx", "fp32", "host", "ok", ttft_ms=2.0, ttft_ms_ci95=(1.0, 3.0), accuracy=0.5,
               accuracy_ci95=(0.4, 0.6))  # fmt: skip
    other = replace(base, ttft_ms=4.0, ttft_ms_ci95=(3.5, 4.5))
    one, two = (Report(2, "d", "exact", 1, {}, (row,)) for row in (base, other))
    found = script("overhead").agree(one, two)
    assert (found["figures"], found["agree"]) == (2, 1) and found["apart"][0].startswith("x ttft_ms")


def test_aimodel_writes_points_and_megabytes() -> None:
    row = {
        "precision": "int8", "n": 8, "accuracy": 0.75, "ci95": (0.409, 0.929), "delta": -0.125,
        "delta_ci95": (-0.375, 0.0), "identical": 0.875, "logits_max_abs": 0.017, "mean_kl": 5.7e-6,
        "assets_bytes": 999_014,
    }  # fmt: skip
    wanted = "| int8 | 8 | 75.0 % [40.9, 92.9] | -12.5 [-37.5, +0.0] | 87.5 % | 1.7e-02 | 5.7e-06 | 1.00 |"
    assert script("aimodel").line(row) == wanted
