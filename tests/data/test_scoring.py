"""Metrics against values worked out by hand, and the traps they are known for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data import Sample
from edgekit.data.scoring import SCORING, anls, exact, multiple_choice, relaxed, score_answer, vqa
from edgekit.errors import DataError, EdgekitError
from edgekit.inputs.chat import question

METRICS = [SCORING.load(name) for name in ("exact", "relaxed", "vqa", "anls", "multiple_choice")]


@pytest.mark.parametrize("metric", METRICS)
def test_of_every_metric(metric: Any) -> None:
    assert metric.score("", ["yes"], "") == 0
    assert metric.score("  \n", ["yes", ""], "") == 0
    assert metric.score("Yes", ["yes"], "") == 1
    assert metric.score("no", ["yes"], "") == 0
    assert metric.score(" CAFE\u0301 ", ["caf\u00e9"], "") == 1  # composed or not, it is the same word


@given(st.text(max_size=30), st.lists(st.text(max_size=30), min_size=1, max_size=4), st.text(max_size=60))
def test_any_text_gives_a_score(said: str, answers: list[str], asked: str) -> None:
    for name in SCORING.names():
        sample = Sample("a", (), question(asked, 0), answers=tuple(answers))
        assert 0 <= score_answer(name, said, sample) <= 1
        assert score_answer(name, "", sample) == 0


def test_exact_takes_any_reference() -> None:
    assert exact.score("two.", ["2", "Two"]) == 1
    assert exact.score("three", ["2", "Two"]) == 0


# ------------------------------------------------------------------------------------------------------------- relaxed


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("105", "100", 1),
        ("1.05", "1", 1),  # 1.05 - 1 is 0.05000000000000004 in binary floats
        ("95", "100", 1),
        ("105.01", "100", 0),
        ("94.9", "100", 0),
        ("100", "105.27", 0),  # 5 % of the reference, not of the prediction: the order of the arguments counts
        ("105.27", "100", 0),
        ("100", "105.26", 1),
        ("105.26", "100", 0),
        ("50%", "0.5", 1),
        ("0.51", "50 %", 1),
        ("50", "50%", 0),
        ("50%", "50%", 1),
        ("1,234", "1234", 1),
        ("1,234,567.5", "1234567.5", 1),
        ("1,23", "123", 0),  # no thousands separator
        ("42.", "42", 1),
        ("Yes.", "yes", 1),
        ("-3", "-3.1", 1),
        ("\N{MINUS SIGN}3", "-3", 1),
        ("3", "-3", 0),
        ("0", "0", 1),
        ("0.01", "0", 0),
        ("0.0", "0", 0),  # a target of 0 is compared as text
        ("5e3", "5000", 1),
        ("nan", "nan", 1),  # as text
        ("inf", "1", 0),
        ("1e999999999", "1", 0),
        ("12 dollars", "12", 0),
        ("China", "china", 1),
        ("", "0", 0),
    ],
)
def test_relaxed(said: str, answer: str, right: float) -> None:
    assert relaxed.score(said, [answer]) == right


def test_relaxed_takes_any_reference() -> None:
    assert relaxed.score("101", ["7", "about", "100"]) == 1


# ----------------------------------------------------------------------------------------------------------------- vqa


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ("The two dogs!", "2 dogs"),
        ("None", "0"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # only one apostrophe is put back, as in the official table
        ("couldn'tve", "couldn't've"),
        ("it\N{RIGHT SINGLE QUOTATION MARK}s", "it's"),
        ("well", "well"),
        ("1,000", "1000"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("1,000 m/s", "1000 ms"),  # beside a comma between digits every sign goes without leaving a blank
        ("black/white", "black white"),
        ("3.5", "3.5"),
        ("no.", "no"),
        ("u.s.a.", "usa"),
        ("a\nb\tc", "b c"),
        ("10:30", "10:30"),  # a colon stays
        ("-5", "5"),  # so does the official code lose the sign
    ],
)
def test_vqa_normaliser(said: str, normal: str) -> None:
    assert vqa.normalise(said) == normal


@pytest.mark.parametrize(
    ("given_by", "accuracy"),
    [
        (0, 0.0),
        (1, 0.3),  # 9 of the 10 leave one match out of three each: 9/10 * 1/3
        (2, 0.6),  # 2/10 * 1/3 + 8/10 * 2/3
        (3, 0.9),  # 3/10 * 2/3 + 7/10 * 1
        (4, 1.0),
        (10, 1.0),
    ],
)
def test_vqa_accuracy_of_ten(given_by: int, accuracy: float) -> None:
    answers = ["Yes"] * given_by + ["no"] * (10 - given_by)
    assert vqa.score("yes", answers) == pytest.approx(accuracy)
    assert vqa.score("yes", answers) == pytest.approx(leave_one_out("yes", [a.lower() for a in answers]))


def leave_one_out(said: str, answers: list[str]) -> float:
    """The official loop."""
    parts = [min(1, (answers[:k] + answers[k + 1 :]).count(said) / 3) for k in range(len(answers))]
    return sum(parts) / len(parts)


def test_vqa_with_few_annotators() -> None:
    assert vqa.score("A dog.", ["dog"]) == 1
    assert vqa.score("cat", ["dog"]) == 0
    assert vqa.score("dog", ["dog", "cat"]) == pytest.approx(0.5)
    assert vqa.score("dog", ["dog", "dog", "cat"]) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert vqa.score("the", ["dog"] * 10) == 0  # nothing is left of it


# ---------------------------------------------------------------------------------------------------------------- anls


@pytest.mark.parametrize(
    ("said", "answers", "similarity"),
    [
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("Paris.", ["paris"], 1 - 1 / 6),
        ("ab", ["cd"], 0.0),
        ("ab", ["ac"], 0.5),  # at the threshold
        ("abc", ["a"], 0.0),
        ("abcde", ["abxyz"], 0.0),  # 0.4
        ("new  york", ["New York"], 1.0),
        ("b", ["aaaa", "b", "bb"], 1.0),
        ("-5", ["5"], 0.5),
        ("12%", ["12"], 1 - 1 / 3),
        ("1,000", ["1000"], 0.8),
    ],
)
def test_anls(said: str, answers: list[str], similarity: float) -> None:
    assert anls.score(said, answers) == pytest.approx(similarity)


@given(st.text(max_size=12), st.text(max_size=12))
def test_levenshtein(one: str, other: str) -> None:
    distance = anls.levenshtein(one, other)
    assert distance == anls.levenshtein(other, one)
    assert abs(len(one) - len(other)) <= distance <= max(len(one), len(other))
    assert (distance == 0) == (one == other)
    assert anls.levenshtein(f"{one}x", other) <= distance + 1


# ----------------------------------------------------------------------------------------------------- multiple_choice

ASKED = "Which animal is it?\nA. dog\nB. a cat\nC. black cat\nD: 5.5\nAnswer with the option's letter directly."


@pytest.mark.parametrize(
    "text",
    [
        ASKED,
        "Which?\n(A) dog\n(B) a cat\n(C) black cat\n(D) 5.5",
        "Which? (A) dog (B) a cat (C) black cat, (D) 5.5 Answer with a single word or phrase.",
        "A. Smith asks: which?\nA) dog\nB) a cat\nC) black cat\nD) 5.5",
        "Which? A. dog B. a cat C. black cat D. 5.5",
    ],
)
def test_options_of_a_question(text: str) -> None:
    assert multiple_choice.options(text) == {"A": "dog", "B": "cat", "C": "black cat", "D": "5.5"}


def test_a_question_without_options() -> None:
    assert multiple_choice.options("What is (A)? Say B. or C.") == {}
    assert multiple_choice.options("what color is the shape?") == {}


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("B) cat", "B"),
        ("B. Because it meows.", "B"),
        ("**B**", "B"),
        ("\\boxed{B}", "B"),
        ("The answer is B", "B"),
        ("The answer is B.", "B"),
        ("The answer is (b) cat", "B"),
        ("Answer: B", "B"),
        ("answer is B because it meows", "B"),
        ("The answer is not A. The answer is B", "B"),
        ("I would choose B.", "B"),
        ("cat", "B"),
        ("A cat", "B"),  # the article, not option A
        ("The answer is A cat", "B"),
        ("It is a cat.", "B"),
        ("B cat", "B"),
        ("a black cat", "C"),  # the longer option, not the one inside it
        ("A", "A"),
        ("The answer is A.", "A"),
        ("Option A", "A"),
        ("A dog", "A"),
        ("5.5", "D"),
        ("It costs 5.5", "D"),
        ("-5.5", None),
        ("a dog or a cat", None),  # two options
        ("a horse", None),
        ("E", None),  # no such option
        ("", None),
        ("I think so", None),
    ],
)
def test_letters(said: str, letter: str | None) -> None:
    choices = multiple_choice.options(ASKED)
    assert multiple_choice.letter_of(said, choices) == letter
    assert multiple_choice.score(said, ["B"], ASKED) == (letter == "B")
    assert multiple_choice.score(said, ["a cat"], ASKED) == (letter == "B")


def test_multiple_choice_without_options_in_the_question() -> None:
    assert multiple_choice.score("The answer is (C).", ["C"]) == 1
    assert multiple_choice.score("A cat", ["A"]) == 0
    assert multiple_choice.score("A cat", ["a cat"]) == 1
    assert multiple_choice.score("U.S. dollars", ["U"]) == 0
    assert multiple_choice.score("I think it is red", ["I"]) == 0


# -------------------------------------------------------------------------------------------------------- by data set


def test_each_data_set_has_its_metric() -> None:
    choice = {"chartqa": "relaxed", "docvqa": "anls", "default": "exact"}
    given_by = {"chartqa": 1.0, "docvqa": pytest.approx(2 / 3), "other": 0.0, None: 0.0}
    for dataset, score in given_by.items():
        sample = Sample("a", (), question("q", 0), "100", dataset=dataset)
        assert score_answer(choice, "101", sample) == score
    assert score_answer({"mmb": "multiple_choice"}, "cat", Sample("a", (), question(ASKED, 0), "B", dataset="mmb")) == 1


def test_a_data_set_without_a_metric() -> None:
    sample = Sample("a", (), question("q", 0), "x", dataset="vqa")
    with pytest.raises(DataError, match=r"(?s)names nothing for the data set 'vqa'.*default: NAME"):
        score_answer({"chartqa": "relaxed"}, "x", sample)
    with pytest.raises(DataError, match="a sample without a field 'dataset'"):
        score_answer({"chartqa": "relaxed"}, "x", Sample("a", (), question("q", 0), "x"))
    with pytest.raises(EdgekitError, match="Did you mean 'relaxed'"):
        score_answer("relaxd", "x", sample)
