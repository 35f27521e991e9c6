"""What a generation_config.json may say, setting by setting: what is read of it, kept, shown and refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgekit.checkpoint.generation import (
    Generation,
    acting,
    as_dict,
    check_mode,
    check_penalty,
    read_generation,
    recorded,
    shorten,
)
from edgekit.checkpoint.rules import Rules, penalise
from edgekit.errors import CheckpointError, EdgekitError

LARGEST = (1 << 31) - 1


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("repetition_penalty", 1, 1.0), ("repetition_penalty", 1e-9, 1e-9), ("encoder_repetition_penalty", 0.5, 0.5),
        ("no_repeat_ngram_size", 0, 0), ("no_repeat_ngram_size", LARGEST, LARGEST),
        ("encoder_no_repeat_ngram_size", 3, 3), ("min_length", 4, 4), ("min_new_tokens", 0, 0),
        ("sequence_bias", [[[1, 2], -1], [[3], 0.5]], (((1, 2), -1.0), ((3,), 0.5))), ("sequence_bias", [], ()),
        ("bad_words_ids", [[1], [2, 3]], ((1,), (2, 3))), ("bad_words_ids", ((1,),), ((1,),)),
        ("forced_bos_token_id", 0, 0), ("forced_eos_token_id", 7, (7,)), ("forced_eos_token_id", [7, 0], (7, 0)),
        ("exponential_decay_length_penalty", [0, 1], (0, 1.0)), ("suppress_tokens", [], ()),
        ("suppress_tokens", [LARGEST], (LARGEST,)), ("begin_suppress_tokens", [4, 5], (4, 5)),
        ("stop_strings", "a", ("a",)), ("stop_strings", ["a", "", "b"], ("a", "b")), ("do_sample", True, True),
        ("do_sample", False, False), ("temperature", -1, -1.0), ("top_k", -1, -1), ("top_p", 0.5, 0.5),
        ("min_p", 0, 0.0),
    ],
)  # fmt: skip
def test_a_setting_is_read_and_kept(name: str, value: Any, read: Any) -> None:
    found = read_generation({name: value})
    assert found == Generation(**{name: read}) and type(getattr(found, name)) is type(read)
    kept = recorded({name: value, "eos_token_id": 3})
    assert list(kept) == [name] and read_generation(kept) == found
    assert read_generation({name: None}) == Generation() and recorded({name: None}) == {}


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("repetition_penalty", [0, -1.0, True, "1", math.nan, math.inf], "a number above 0"),
        ("no_repeat_ngram_size", [-1, 1 << 31, 1.0, "2", False, [1]], "a count"),
        ("bad_words_ids", [3, "ab", [3], [[]], [["a"]], [[1 << 31]], {"a": 1}], "a list of lists of tokens"),
        ("sequence_bias", [3, [[3, 1.0, 2]], [[[], 1.0]], [[[1], "x"]], [[[1], math.inf]], [[[1], True]]], "a list of"),
        ("forced_bos_token_id", [[1], -1, True], "a token"), ("forced_eos_token_id", ["a", [1, -1]], "a token, or"),
        ("exponential_decay_length_penalty", [3, [1], [1, 2, 3], [-1, 2.0], [1, "x"]], "[a count, a number"),
        ("stop_strings", [3, ["a", 3], [None]], "a text, or several"), ("do_sample", [1, 0, "true"], "true or false"),
        ("temperature", ["hot", True, math.nan], "a number"), ("top_k", [1.5, True, "5"], "a whole number"),
    ],
)  # fmt: skip
def test_what_a_setting_cannot_be(name: str, values: list[Any], wanted: str) -> None:
    for value in values:
        for read in (read_generation, recorded):
            with pytest.raises(CheckpointError) as caught:
                read({name: value}, "here")
            message = str(caught.value)
            assert message.startswith(f"here: {name} is {str(value)[:60]}, and should be {wanted}"), message


def test_ways_that_are_not_followed_are_kept_with_their_values() -> None:
    settings = {"num_beams": 4, "max_time": 9.5, "force_words_ids": [[1], [2], [3]], "constraints": [1, 2.5]}
    assert read_generation(settings).not_followed == (
        "num_beams 4", "constraints 1 2.5", "force_words_ids (3)", "max_time 9.5"
    )  # fmt: skip
    assert recorded({**settings, "max_new_tokens": 5}) == settings
    alpha = {"penalty_alpha": 0.6}
    assert read_generation(alpha).not_followed == ("penalty_alpha 0.6",)  # of 50 tokens where top_k is not said
    for quiet in ({**alpha, "top_k": 1}, {"penalty_alpha": 0, "top_k": 4}, {"guidance_scale": 1}, {"num_beams": 1}):
        assert read_generation(quiet).not_followed == ()
    assert read_generation({**alpha, "top_k": 2}).not_followed == ("penalty_alpha 0.6",)
    config = object()  # as GenerationConfig.to_dict() may hold one
    assert recorded({"watermarking_config": config}) == {"watermarking_config": str(config)}


def test_how_an_answer_was_made() -> None:
    given = {"repetition_penalty": 1.5, "min_length": 0, "do_sample": True, "temperature": 0.5, "num_beams": 2}
    found = read_generation(given)
    assert acting(found) == {"repetition_penalty": 1.5}  # sampling changes no greedy answer, and 0 says nothing
    assert as_dict(found, "model") == {
        "mode": "model", "settings": {"repetition_penalty": 1.5}, "not_followed": ["num_beams 2"],
    }  # fmt: skip
    assert as_dict(Generation(), "greedy") == {"mode": "greedy", "settings": {}, "not_followed": []}


def test_values_in_a_few_letters() -> None:
    shown = {
        "1.05": 1.05, "1": 1.0, "3": 3, "True": True, "a text": "a text", "x" * 40: "x" * 41, "1 2.5": (1, 2.5),
        "(3)": [1, 2, 3], "(2)": [[1], [2]], "(1)": ("a",), "": [],
    }  # fmt: skip
    assert {text: shorten(value) for text, value in shown.items()} == {text: text for text in shown}


def test_what_a_caller_may_ask_for() -> None:
    assert (check_mode("model"), check_mode("greedy")) == ("model", "greedy")
    with pytest.raises(EdgekitError, match=r"no generation 'beams'.*\n.*model, greedy"):
        check_mode("beams")
    assert (check_penalty(1e-9), check_penalty(1.0), check_penalty(0.5)) == (1e-9, 1.0, 0.5)
    for penalty in (0.0, -1.0, math.nan, math.inf, -math.inf):
        with pytest.raises(EdgekitError, match="has no meaning"):
            check_penalty(penalty)


def test_the_penalty_by_hand() -> None:
    logits = np.array([2.0, -1.0, 0.5, 3.0], dtype=np.float32)
    assert penalise(logits, [0, 1, 1, 0, 77], 2.0).tolist() == [1.0, -2.0, 0.5, 3.0]
    assert logits.tolist() == [2.0, -1.0, 0.5, 3.0]


def test_rules_by_hand() -> None:
    logits = np.arange(6, dtype=np.float32)
    minus = -np.inf

    def after(ids: list[int], prompt: int = 2, limit: int = 8, **settings: Any) -> list[float]:
        found: list[float] = Rules(Generation(**settings), ids[:prompt], limit, [4, 5])(logits, ids).tolist()
        return found

    assert after([0, 1, 3], suppress_tokens=(5, 6, 99)) == [0, 1, 2, 3, 4, minus]
    assert after([0, 1], begin_suppress_tokens=(5,)) == [0, 1, 2, 3, 4, minus]
    assert after([0, 1, 3], begin_suppress_tokens=(5,)) == [0, 1, 2, 3, 4, 5]
    assert after([0, 1, 3], min_new_tokens=2) == [0, 1, 2, 3, minus, minus]
    assert after([0, 1, 3, 3], min_new_tokens=2) == [0, 1, 2, 3, 4, 5]
    assert after([0, 1, 3], min_length=4) == [0, 1, 2, 3, minus, minus]
    assert after([0, 1, 3, 0], no_repeat_ngram_size=2) == [0, minus, 2, 3, 4, 5]  # 0 1 stood there
    assert after([0, 1, 3, 0], no_repeat_ngram_size=1) == [minus, minus, 2, minus, 4, 5]
    assert after([0, 1, 3, 0], bad_words_ids=((0, 5), (3,), (4,), (2, 1))) == [0, 1, 2, minus, 4, minus]  # 4 ends
    assert after([0, 1, 3], sequence_bias=(((1, 3, 2), 7.5), ((0,), -1.0))) == [-1, 1, 9.5, 3, 4, 5]
    assert after([0, 1], bad_words_ids=((6,), (1, 7)), suppress_tokens=(6,)) == [0, 1, 2, 3, 4, 5]  # none of the head's
    # Of one token that two runs end in, both count.
    assert after([0, 1, 3], sequence_bias=(((3, 2), 7.5), ((2,), -1.0))) == [0, 1, 8.5, 3, 4, 5]
    assert after([0, 1, 3], limit=2, forced_eos_token_id=(4,)) == [minus, minus, minus, minus, 0, minus]
    assert after([0, 1, 3], exponential_decay_length_penalty=(0, 2.0)) == [0, 1, 2, 3, 8, 10]  # 4 + 4 (2^1 - 1)
    assert after([0, 1, 3], repetition_penalty=2.0) == [0, 0.5, 2, 1.5, 4, 5]
    assert after([0, 1, 3, 3], encoder_repetition_penalty=2.0) == [0, 2, 2, 3, 4, 5]
    assert logits.tolist() == [0, 1, 2, 3, 4, 5]


def test_rules_at_their_edges() -> None:
    """Seven logits of 1; prompt 0 1, an answer of so many tokens; 5 ends."""
    logits = np.ones(7, np.float32)

    def changed(ids: list[int], prompt: list[int], limit: int = 9, **settings: Any) -> set[int]:
        """Tokens that can no longer come."""
        found = Rules(read_generation(settings), prompt, limit, [5])(logits, ids)
        assert found.dtype == np.float32 and (logits == 1).all()
        return {token for token in range(7) if found[token] == -math.inf}

    prompt, every = [0, 1], set(range(7))
    assert [changed([*prompt, *[4] * k], prompt, min_length=4) for k in range(3)] == [{5}, {5}, set()]
    assert [changed([*prompt, *[4] * k], prompt, min_new_tokens=1) for k in range(2)] == [{5}, set()]
    assert [changed([*prompt, *[4] * k], prompt, 3, forced_eos_token_id=6) for k in range(4)] == [
        set(), set(), every - {6}, set(),
    ]  # fmt: skip
    assert (
        changed([0], [0], forced_bos_token_id=3) == every - {3}
        and changed(prompt, prompt, forced_bos_token_id=3) == set()
    )
    assert changed([*prompt, 4, 4], prompt, 3, forced_eos_token_id=[6, 99]) == every - {6}  # 99 has no logit
    # Behind a forced first token the answer begins one later.
    begin: dict[str, Any] = {"begin_suppress_tokens": [2], "forced_bos_token_id": 3}
    assert [changed(ids, [0], **begin) for ids in ([0], [0, 3], [0, 3, 4])] == [every - {3}, {2}, set()]
    assert [changed(ids, prompt, **begin) for ids in (prompt, [*prompt, 4])] == [{2}, set()]
    assert [changed(ids, [0], begin_suppress_tokens=[2]) for ids in ([0], [0, 4])] == [{2}, set()]
    # Of 0 1 0: a run of two may not come again, one of three cannot yet.
    assert (
        changed([0, 1, 0], prompt, no_repeat_ngram_size=2) == {1}
        and changed([0, 1, 0], prompt, no_repeat_ngram_size=4) == set()
    )
    assert changed([0, 1, 0, 6, 0], prompt, encoder_no_repeat_ngram_size=2) == {1}  # 0 6 stood in the answer only
    assert changed([0, 4, 0], [0], encoder_no_repeat_ngram_size=2) == set()  # the prompt has no run of two
    assert changed([0], [0], no_repeat_ngram_size=2) == set() and changed([0], [0], no_repeat_ngram_size=1) == {0}
    assert changed([0, 1], prompt, bad_words_ids=[[5], [0, 1, 2], [1, 3], [0, 4]]) == {2, 3}  # a lone end may come


def test_growing_ends_by_hand() -> None:
    """From place 1 of the answer on: 2^1 - 1 times |logit| at its second token, 2^2 - 1 times at its third."""
    logits = np.array([1.0, -2.0, -np.inf, 4.0], np.float32)
    rules = Rules(read_generation({"exponential_decay_length_penalty": [1, 2]}), [0, 0], 9, [1, 2, 3, 99])
    ends = [rules(logits, [0] * length).tolist() for length in (2, 3, 4, 5)]
    assert ends == [[1, -2, -math.inf, 4], [1, -2, -math.inf, 4], [1, 0, -math.inf, 8], [1, 4, -math.inf, 16]]
