"""Bars of parity: how many prompts settle one."""

from __future__ import annotations

import pytest

from edgekit.report.tolerances import MOST_PROMPTS, PROMPTS, TOKENS, settling


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
