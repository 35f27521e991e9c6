"""Words for precisions: lists, parts, one spelling for one meaning."""

from __future__ import annotations

import pytest

from edgekit.errors import EdgekitError
from edgekit.precision import by_part, canonical, folder_name, is_mixed, split_list


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
