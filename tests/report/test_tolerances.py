"""Tolerances of parity: how many prompts settle one."""

from __future__ import annotations

import pytest

from edgekit.report.tolerances import (
    MOST_PROMPTS,
    PROMPTS,
    TOKENS,
    component_tolerances,
    random_tolerances_of,
    settling,
    tolerances_of,
)


def _taken(tokens_each: int, prompts: int = 1000, count: int | None = None) -> int:
    tokens: list[int] = []
    taken = []
    for prompt in settling(iter(range(prompts)), tokens, "test", count=count):
        taken.append(prompt)
        tokens += [0] * tokens_each
    assert taken == list(range(len(taken)))
    return len(taken)


@pytest.mark.parametrize(
    ("tokens_each", "wanted"),
    [
        (16, PROMPTS),  # 512 tokens are enough
        (10, PROMPTS),
        (9, 34),  # 288 of the first 32, so ceil(300 x 32 / 288) = 34 in all
        (2, 150),
        (1, MOST_PROMPTS),
    ],
)
def test_short_answers_take_more_prompts(tokens_each: int, wanted: int) -> None:
    assert _taken(tokens_each) == wanted
    assert wanted * tokens_each >= TOKENS or wanted == MOST_PROMPTS


def test_a_count_is_kept_to() -> None:
    assert _taken(1, count=5) == 5
    assert _taken(16, count=200) == 200


def test_a_small_data_set_gives_what_it_has() -> None:
    assert _taken(1, prompts=20) == 20
    assert _taken(1, prompts=40) == 40


def test_prompts_are_drawn_one_at_a_time() -> None:
    drawn: list[int] = []
    prompts = (drawn.append(k) or k for k in range(1000))  # type: ignore[func-returns-value]
    for number, _ in enumerate(settling(prompts, [], "test", count=10), 1):
        assert len(drawn) == number


def test_a_targets_own_tolerances_go_before_the_common_ones() -> None:
    assert tolerances_of("fp32", "gguf") == {"greedy_identical": 1.0, "logits_max_abs": 1e-2}
    assert (
        tolerances_of("fp32", "onnx")
        == tolerances_of("fp32", "not there")
        == {"greedy_identical": 1.0, "logits_max_abs": 1e-4}
    )
    assert random_tolerances_of("fp32", "gguf") == {"logits_max_abs": 1e-2, "mean_kl": 1e-6}
    assert component_tolerances("vision=int8,text=fp32", "gguf") == {
        "vision_snr_db": 15.0, "embedding_snr_db": 40.0, "decoder_snr_db": 40.0,
    }  # fmt: skip


def test_each_module_is_held_to_its_own_precision() -> None:
    assert component_tolerances("int4") == {"vision_snr_db": 8.0, "embedding_snr_db": 80.0, "decoder_snr_db": 8.0}
    said = {"vision": "int8", "embedding": "int8"}  # what a manifest says goes before what the word means
    assert component_tolerances("int4", "executorch", said) == {
        "vision_snr_db": 15.0, "embedding_snr_db": 15.0, "decoder_snr_db": 8.0,
    }  # fmt: skip
