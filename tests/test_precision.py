"""Precisions: what they are held to; lists, parts, one spelling for one meaning."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from edgekit.errors import EdgekitError
from edgekit.precision import (
    COMMON,
    FP32,
    INT4,
    INT4_CALIBRATED,
    CommonPrecision,
    TargetPrecision,
    Tolerances,
    by_name,
    by_part,
    canonical,
    folder_name,
    is_mixed,
    split_list,
)


def test_lists_and_parts() -> None:
    assert split_list("fp32, int8,") == ["fp32", "int8"]
    assert split_list(" text=int4, vision=fp16") == ["vision=fp16,text=int4"]
    assert split_list("") == []
    with pytest.raises(EdgekitError, match="mixes 'int8', a whole bundle, with 'text=int4'") as caught:
        split_list("text=int4,int8")
    assert "--precision int8  and  --precision text=int4" in str(caught.value)


def test_each_part_has_its_word() -> None:
    assert by_part("fp16") == {"vision": "fp16", "embedding": "fp16", "text": "fp16"}
    for linear in ("int8", "int4", "int8-static", "pal8", "pal6", "pal4", "int4-calibrated", "pal4-calibrated"):
        assert by_part(linear) == {"vision": linear, "embedding": "fp32", "text": linear}
    assert by_part("text=int4") == {"vision": "fp32", "embedding": "fp32", "text": "int4"}
    assert by_part(" embedding = int8 ,vision=fp16") == {"vision": "fp16", "embedding": "int8", "text": "fp32"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("text=", "'text=' in precision"),
        ("text=int4,vision", "'vision' in precision"),
        ("text=int4,,vision=fp16", "'' in precision"),
        ("txt=int4", "Did you mean 'text'"),
        ("qqq=int4", "There are: vision, embedding, text"),
        ("text=int4,text=fp16", "names text twice"),
    ],
)
def test_what_is_no_mixture(wrong: str, said: str) -> None:
    with pytest.raises(EdgekitError) as caught:
        by_part(wrong)
    assert said in str(caught.value)
    assert ("Did you mean" in str(caught.value)) == ("txt" in wrong)


def test_one_spelling_for_one_meaning() -> None:
    assert canonical("text=int8,vision=int8") == "int8"
    assert canonical("text=fp16,embedding=fp16,vision=fp16") == "fp16"
    assert canonical("text=fp32") == canonical("fp32") == "fp32"
    assert canonical("text=fp16,vision=fp32") == "text=fp16"
    assert canonical("text=int4,embedding=int8") == "embedding=int8,text=int4"
    assert [is_mixed(word) for word in ("fp32", "text=int4")] == [False, True]
    assert folder_name("vision=fp16,text=int4") == "vision-fp16_text-int4"


# ---------------------------------------------------------------------------------------------------------- tolerances


def test_a_target_may_hold_to_less() -> None:
    own = replace(FP32.tolerances, snr_db=40.0)
    known = by_name(TargetPrecision(INT4, "Q4"), TargetPrecision(FP32, "F32", held_to=own))
    assert list(known) == ["int4", "fp32"]
    assert known["int4"].tolerances is INT4.tolerances and known["fp32"].tolerances is own


def test_a_precision_named_after_another_claims_none_of_its_measurements() -> None:
    assert INT4.tolerances.measured and not INT4_CALIBRATED.tolerances.measured
    assert INT4_CALIBRATED.tolerances == replace(INT4.tolerances, measured="") and INT4_CALIBRATED.linear


def test_coarser_is_never_held_to_more() -> None:
    order = [COMMON[name] for name in ("fp32", "fp16", "bf16", "int8", "int4")]
    noise = [one.tolerances.snr_db for one in order]
    assert noise == sorted(noise, reverse=True)
    assert [one.weight_bytes for one in order] == [4.0, 2.0, 2.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("trained", "random", "snr_db", "said"),
    [
        ({}, {"mean_kl": 0.1}, 8.0, "nothing for trained weights"),
        ({"top1_agreement": 0.9}, {}, 8.0, "nothing for random weights"),
        ({"top1": 0.9}, {"mean_kl": 0.1}, 8.0, "no figure 'top1' to hold; there are: greedy_identical, logits_max_abs"),
        ({"top1_agreement": math.nan}, {"mean_kl": 0.1}, 8.0, "not finite"),
        ({"top1_agreement": 0.9}, {"mean_kl": 0.1}, math.inf, "not finite"),
    ],
)
def test_tolerances_that_could_judge_nothing(
    trained: dict[str, float], random: dict[str, float], snr_db: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        CommonPrecision("mine", Tolerances(trained, random, snr_db))
