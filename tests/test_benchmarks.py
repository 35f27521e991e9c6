"""The scripts in benchmarks/ run, and their ways of doing the same do the same."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import script

from edgekit.data import samples
from edgekit.recipe.model import GenData

ROOT = Path(__file__).parent.parent


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


def test_web_takes_ratios_within_each_repetition() -> None:
    """A machine that slows down for a repetition slows both; a token's time is over all tokens behind the first."""
    web = script("web")

    def asked(*parts: float, gaps: tuple[float, ...]) -> list[dict[str, Any]]:
        named = dict(zip(("preprocess_ms", "image_encode_ms", "prefill_ms", "first_token_ms"), parts, strict=True))
        return [{**named, "itl_ms": list(gaps), "ttft_ms": web.ttft(named)}]

    here = [asked(1, 2, 3, 1, gaps=(1, 3)), asked(10, 20, 30, 10, gaps=(20,)), asked(1, 2, 3, 1, gaps=(2,))]
    page = [asked(2, 8, 3, 1, gaps=(4, 4)), asked(20, 80, 30, 10, gaps=(60,)), asked(2, 8, 3, 1, gaps=(8,))]
    found = web.summary(here, page)
    assert found["ttft_ms"] == {"native_ms": 7, "web_ms": 14, "ratio": 2, "range": (2, 2)}
    assert found["itl_ms"] == {"native_ms": 2, "web_ms": 8, "ratio": 3, "range": (2, 4)}
    assert found["image_encode_ms"]["ratio"] == 4 and found["prefill_ms"]["range"] == (1, 1)
    assert "itl_ms" not in web.summary([asked(1, 1, 1, 1, gaps=())], [asked(1, 1, 1, 1, gaps=())])


def test_mil_takes_ratios_within_each_repetition() -> None:
    mil = script("mil")

    def spent(*values: float) -> dict[str, float]:
        return dict(zip(mil.PARTS, values, strict=True))

    eager = [spent(5.0, 10.0, 1.0, 16.0), spent(5.0, 20.0, 4.0, 29.0), spent(5.0, 30.0, 2.0, 37.0)]
    found = mil.summary(eager, [spent(5.0, 20.0, 3.0, 28.0), spent(10.0, 20.0, 4.0, 34.0), spent(5.0, 90.0, 4.0, 99.0)])
    assert found["prefill"] == {"median": 2.0, "range": [1.0, 3.0]} and found["decode"]["range"] == [1.0, 3.0]
    assert found["prefill_ms"] == 20.0 and found["eager_prefill_ms"] == 20.0 and found["encode"]["median"] == 1.0


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
    spent = overhead.timed(tiny_bundle, 1, 3, 4, number=1)
    assert {name: len(values) for name, values in spent.items()} == {"direct": 4, "edgekit": 4}


def test_overhead_by_hand() -> None:
    found = script("overhead").summary({"edgekit": [(11.0, 2.0)] * 3, "direct": [(10.0, 2.0), (5.0, 1.0), (11.0, 2.0)]})
    assert round(found["wall_overhead_percent"], 6) == 10.0 and found["cpu_overhead_percent"] == 0.0


def test_two_runs_agree_where_their_intervals_meet() -> None:
    from edgekit.report.model import Report, Row

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


def test_a_prediction_takes_no_figure_of_its_own_shape() -> None:
    """Others reach half of the peak: 2 GFLOP at 1 TFLOPS take 4 ms, and 100 nodes of 10 us one more."""
    predicted = script("predicted")
    host = {"fp32_tops": 1.0, "int8_tops": 4.0, "gb_s": 10.0, "node_us": 10.0}
    row = predicted.Row("a", "onnx fp32 img", 2e9, 1e6, 100, 77.0)
    others = [
        predicted.Row(name, row.key, 1e9 * size, 1e6, 50, 2.0 * size + 0.5) for size, name in ((1, "b"), (3, "c"))
    ]
    assert predicted.predict(row, [row, *others], host) == pytest.approx(5.0)
    slow = replace(row, key="onnx int8 img")  # another precision: its own peak, and no share known but the rows' own
    fast = [replace(one, key=slow.key, ms=1000 * one.operations / 4e12 + 0.5) for one in others]
    assert predicted.predict(slow, [slow, *others, *fast], host) == pytest.approx(0.5 + 1.0)
    found = predicted.summary([(row, 77.0), (replace(row, ms=10.0), 5.0), (replace(row, key="x pp128"), 38.5),
                               (replace(row, key="x tg32"), 77.0)])  # fmt: skip
    assert found["median_error"] == 0.25 and found["median_error_pp128"] == 0.5


def test_the_hosts_peaks_are_of_their_kind() -> None:
    """An int8 product counts right, and the chain has as many nodes as it is divided by."""
    predicted = script("predicted")
    (product,) = predicted.product(8, 1)()
    assert product.shape == (8, 8) and product.dtype == np.int32
    (last,) = predicted.small_nodes(1, 4)()
    value = 1.0
    for _ in range(2):
        value = math.erf(-value)
    np.testing.assert_allclose(last, np.full(64, value), rtol=1e-5)


def test_mutants_differ_in_one_place_and_leave_messages_alone() -> None:
    mutation = script("mutation")
    source = (
        "@dataclass(frozen=True)\nclass A:\n    x: int = 1\n\n"
        "def f(a: int = 3) -> int:\n    if a < 2 and not a:\n        raise ValueError(f'{a + 1} is 7')\n"
        "    a += 1\n    print(a)\n    note('x', end=7)\n    return list(zip(a, a * 2, strict=True))\n\n"
        "def g():\n    yield 1\n    yield from ()\n"
    )
    found = [(one.line, one.text) for one in mutation.mutants(source)]
    assert sorted(found) == [
        (3, "1 -> 2"), (5, "3 -> 4"), (6, "2 -> 3"), (6, "And -> Or"), (6, "Lt -> LtE"),
        (6, "condition -> its opposite"), (6, "not x -> x"), (8, "1 -> 2"), (8, "Add -> Sub"),
        (9, "print(...) left out"), (10, "note(...) left out"), (11, "2 -> 3"), (11, "Mult -> Div"),
        (11, "return x -> return None"), (14, "1 -> 2"), (14, "yield left out"), (15, "yield left out"),
    ]  # fmt: skip
    given = {(one.line, one.text): one for one in mutation.mutants(source)}
    one = given[6, "And -> Or"]
    assert (one.scope, one.was, one.becomes) == ("f", "if a < 2 and (not a):", "if a < 2 or not a:")
    assert (given[3, "1 -> 2"].scope, given[5, "3 -> 4"].becomes) == ("A", "def f(a: int=4) -> int:")
    space: dict[str, Any] = {"dataclass": lambda **_: lambda kind: kind, "note": lambda *_, **__: None}
    exec(compile(given[14, "yield left out"].tree(), "m", "exec"), space)
    assert list(space["g"]()) == []
    exec(compile(given[9, "print(...) left out"].tree(), "m", "exec"), space)
    assert list(space["g"]()) == [1]


def test_samples_and_their_table() -> None:
    mutation = script("mutation")
    whole, of = mutation.drawn("edgekit.precision", 0, 5)
    parts = [mutation.drawn("edgekit.precision", 4, 5, after)[0] for after in (0, 4, 8)]
    assert len(whole) == of and [one.place for part in parts for one in part] == [one.place for one in whole[:12]]
    assert [one.place for one in mutation.drawn("edgekit.precision", 4, 6)[0]] != [one.place for one in whole[:4]]
    rows = [{"of": 9, "outcome": outcome} for outcome in ("seen", "survived", "too long", "equivalent")]
    text = mutation.table({"m": rows, "n": rows[:1] * 9})
    # Wilson's interval of 2 of 3.
    assert (
        "| `m` | 9 | 3 | 2 | 1 | 1 | 67 % | 21 to 94 % |" in text and "| `n` | 9 | 9 | 9 | 0 | 0 | 100 % |  |" in text
    )
    assert "| all | 18 | 12 | 11 | 1 | 1 | 92 % |  |" in text


def test_what_cannot_be_seen_is_listed_with_its_reason() -> None:
    """Each entry is a mutant of today's modules; of two alike the reason must hold for both."""
    mutation = script("mutation")
    listed = tomllib.loads(mutation.EQUIVALENT.read_text(encoding="utf-8"))["mutant"]
    assert all(set(one) == {"module", "in", "was", "becomes", "why"} and len(one["why"]) > 20 for one in listed)
    for module in {one["module"] for one in listed}:
        source = (ROOT / mutation.CORE[module].file).read_text(encoding="utf-8")
        there = {(one.scope, one.was, one.becomes) for one in mutation.mutants(source)}
        stale = set(mutation.equivalents(module)) - there
        assert not stale, stale
