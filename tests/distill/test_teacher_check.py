"""A teacher that cannot do the task is named before anything is spent on it; those that can are left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from edgekit import api
from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.cli import build
from edgekit.data import Sample, samples
from edgekit.distill import teacher_check
from edgekit.distill.masking import check_mask
from edgekit.distill.teacher_check import Asked, ask, choose, from_dict, greedy_answers, verdict
from edgekit.errors import EdgekitError, RecipeError
from edgekit.families import family_of
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor


def asked(said: list[str], wanted: list[str], student: list[float] | None = None, metric: str = "exact") -> Asked:
    rows = [Sample(str(i), (), question(f"question {i}?", 0), answer) for i, answer in enumerate(wanted)]
    other = ["right" if s else "wrong" for s in student] if student is not None else ["wrong"] * len(said)
    made = ask(rows, metric, "the teacher", lambda _: said, lambda _: other)
    return dataclasses.replace(made, student_scores=student) if student is not None else made


def test_a_teacher_that_can_is_told_in_one_line() -> None:
    line = verdict(asked(["yes"] * 47 + ["no"], ["yes"] * 48, [0.0] * 48))
    # Wilson's interval of 47 of 48, by hand: (2 n p + z^2 -+ z sqrt(z^2 + 4 n p q)) / (2 (n + z^2))
    assert (
        line
        == "the teacher answers 97.9% [89.1%, 99.6%] of 48 questions right by exact, the student 0.0% [0.0%, 7.4%]."
    )


def test_near_zero_is_refused_with_three_examples() -> None:
    with pytest.raises(EdgekitError) as caught:
        verdict(asked(["red"] * 48, [["cat", "dog", "cow", "hen"][i % 4] for i in range(48)]))
    assert "0.0% [0.0%, 7.4%] of 48 questions" in caught.value.what
    for line in ("'question 0?' -> 'red', wanted 'cat'", "wanted 'dog'", "wanted 'cow'"):
        assert line in caught.value.why
    assert caught.value.why.count("->") == 3
    assert "edgekit distill --anyway" in caught.value.fix and "check_teacher: false" in caught.value.fix
    assert "edgekit run TEACHER" in caught.value.fix


@pytest.mark.parametrize(("right", "refused"), [(0, True), (2, True), (3, False), (10, False)])
def test_where_near_zero_ends(right: int, refused: bool) -> None:
    """2 of 48 is 4.2 %, 3 is 6.3 %."""
    one = asked(["cat"] * right + ["red"] * (48 - right), ["cat"] * 48)
    if refused:
        with pytest.raises(EdgekitError):
            verdict(one)
    else:
        verdict(one)


def test_below_the_student_is_refused_only_where_it_is_sure() -> None:
    said = ["right"] * 24 + ["wrong"] * 24
    with pytest.raises(EdgekitError, match="fewer questions right than its student") as caught:
        verdict(asked(said, ["right"] * 48, [1.0] * 44 + [0.0] * 4))
    assert "The difference is -41.7% [" in caught.value.why
    verdict(asked(said, ["right"] * 48, [1.0] * 26 + [0.0] * 22))
    verdict(asked(said, ["right"] * 48, [1.0] * 24 + [0.0] * 24))


def test_too_few_questions_say_nothing() -> None:
    assert "do not tell" in verdict(asked(["red"] * 11, ["cat"] * 11))
    with pytest.raises(EdgekitError):
        verdict(asked(["red"] * 16, ["cat"] * 16))


@pytest.mark.parametrize(
    ("said", "wanted", "told"),
    [
        ("the {}!", "{}", "By the metric vqa it would be 100.0%: edgekit distill --set data.scoring=vqa"),
        ("Answer: {}", "{}", "words before the answer, such as 'Answer:', or markup"),
        ("The answer is {}.", "{}", "words before the answer"),
        ("**{}**", "{}", "words before the answer, such as 'Answer:', or markup"),
        ('"{}".', "{}", "By the metric vqa"),
        ("{0}, I think that it is {0} indeed, as far as I can see.", "{0}", "stands inside a longer text"),
    ],
)
def test_wrong_by_form_alone_is_said_with_what_would_match(said: str, wanted: str, told: str) -> None:
    words = ["cat", "dog", "cow", "hen"] * 6
    with pytest.raises(EdgekitError) as caught:
        verdict(asked([said.format(word) for word in words], [wanted.format(word) for word in words]))
    assert told in caught.value.why


def test_units_and_options() -> None:
    lengths = [f"{n}" for n in range(10, 34)]
    with pytest.raises(EdgekitError, match="a unit after the number"):
        verdict(asked([f"{n} cm" for n in lengths], lengths))
    with pytest.raises(EdgekitError, match=r"data\.scoring=multiple_choice"):
        verdict(asked([f"{letter}) something" for letter in "ABCD" * 6], list("ABCD" * 6)))
    with pytest.raises(EdgekitError, match=r"data\.scoring=relaxed"):
        verdict(asked([f"{n}.0" for n in lengths], lengths))


def test_form_is_only_noted_where_the_teacher_is_good_enough() -> None:
    line = verdict(asked(["cat"] * 24 + ["Answer: cat"] * 24, ["cat"] * 48))
    assert "50.0%" in line and "words before the answer" in line


def test_what_is_kept_is_read_again() -> None:
    one = asked(["yes"] * 20, ["yes"] * 20)
    assert from_dict(json.loads(json.dumps({**one.as_dict(), "edgekit_seal": "x"}))) == one


# ----------------------------------------------------------------------------------------------------------- questions


def rows(count: int, dataset: str | None = None, start: int = 0) -> list[Sample]:
    return [Sample(f"{dataset}-{i}", (), question("q", 0), "a", dataset=dataset) for i in range(start, start + count)]


def test_questions_are_drawn_by_seed_from_the_test_set_first() -> None:
    one, same, other = (choose(rows(500), rows(500, "t"), "rule", seed) for seed in (1, 1, 2))
    assert [s.id for s in one] == [s.id for s in same] != [s.id for s in other]
    assert len({s.id for s in one}) == 48 and all(s.dataset is None for s in one)
    few = choose(rows(20), rows(500, "t"), "rule", 1)
    assert len(few) == 48 and sum(s.dataset == "t" for s in few) == 28


def test_answers_that_a_language_model_judges_are_not_asked_for() -> None:
    mixed = rows(30, "closed") + rows(500, "open")
    chosen = choose(mixed, [], {"closed": "rule", "default": "openai"}, 0)
    assert len(chosen) == 30 and {s.dataset for s in chosen} == {"closed"}
    assert choose(rows(100), rows(100), "local", 0) == []


def test_of_a_mixed_file_a_set_that_it_cannot_do_is_named() -> None:
    words = ["yes"] * 40
    one = asked(["yes"] * 20 + ["no"] * 20, words)
    one = dataclasses.replace(
        one, questions=[("good" if i < 20 else "bad", text) for i, (_, text) in enumerate(one.questions)]
    )
    assert "Of bad it answers 0.0%" in verdict(one) and "Of good" not in verdict(one)


# -------------------------------------------------------------------------------------------------------------- models


def answers_of(name: str) -> Any:
    folder = resolve_checkpoint(name)
    model, processor = load_model(folder), Processor.load(folder)
    return lambda questions: greedy_answers(model, processor, questions)


def test_the_demo_passes_and_its_reverse_does_not() -> None:
    asked_ = choose(samples("easy-vqa:test"), [], "rule", 0)
    teacher, student = answers_of("demo:teacher"), answers_of("demo:student")
    assert "demo answers" in verdict(ask(asked_, "exact", "demo", teacher, student))
    state = torch.random.get_rng_state()
    reverse = ask(asked_, "exact", "small", student, teacher)
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(EdgekitError, match="small answers fewer questions right than its student"):
        verdict(dataclasses.replace(reverse, scores=[0.0 if i % 3 == 0 else s for i, s in enumerate(reverse.scores)]))


def place(folder: Path, answers: list[str], **gen: Any) -> Path:
    """A workspace of the demo's models on images they were never shown."""
    folder.mkdir()
    shades = [(40 * i, 255 - 40 * i, 90) for i in range(4)]
    for number, shade in enumerate(shades):
        Image.new("RGB", (64, 64), shade).save(folder / f"{number}.png")
    lines = [
        json.dumps(
            {
                "question": f"what is the name of number {i}?",
                "image": f"{i % 4}.png",
                "answer": answers[i % len(answers)],
            }
        )
        for i in range(30)
    ]
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text("\n".join(lines))
    settings = {"max_new_tokens": 2, "teacher_responses": 1, "student_responses": 1, "check_images": False, **gen}
    recipe = {
        "name": "r",
        "teachers": [{"checkpoint": "demo:teacher"}],
        "student": {"checkpoint": "demo:student"},
        "data": {
            "train": str(folder / "train.jsonl"),
            "test": str(folder / "test.jsonl"),
            "train_limit": 4,
            "test_limit": 20,
        },
        "masters": {"mask": {"r_max": 0.0}, "gen_data": settings},
        "trainer": {"steps": 1, "batch_questions": 2, "threads": 1, "report_to": []},
    }
    (folder / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_a_run_stops_goes_on_anyway_and_asks_nobody_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place(tmp_path / "w", ["triangle", "circle"][:1])
    answers = {"teacher": ["red"], "student": ["blue"]}
    calls: list[int] = []

    def say(model: Any, processor: Any, questions: list[Sample]) -> list[str]:
        calls.append(len(questions))
        return answers["teacher" if len(calls) % 2 else "student"] * len(questions)

    monkeypatch.setattr("edgekit.distill.responses.greedy_answers", say)
    monkeypatch.chdir(folder)
    cli = CliRunner()
    first = cli.invoke(build(), ["distill"])
    assert first.exit_code == 1 and "0.0% [0.0%, " in first.stderr and "wanted 'triangle'" in first.stderr
    assert calls == [24, 24]  # 20 of the test questions, and the four it would learn from
    assert not (folder / "runs/r/responses").exists()  # nothing was spent
    again = cli.invoke(build(), ["distill"])
    assert again.exit_code == 1 and len(calls) == 2 and "wanted 'triangle'" in again.stderr
    done = cli.invoke(build(), ["distill", "--anyway", "--json"])
    assert done.exit_code == 0, done.stderr
    assert len(calls) == 2 and json.loads(done.stdout)["run"] == "r"  # the same run


def test_the_student_is_the_same_whether_the_teacher_was_asked_or_not(tmp_path: Path) -> None:
    made = []
    for name, check in (("asked", True), ("unasked", False)):
        folder = place(tmp_path / name, ["red"], check_teacher=check)
        for data in ("train", "test"):  # the same paths in both
            (tmp_path / f"{data}.jsonl").write_text((folder / f"{data}.jsonl").read_text())
        for number in range(4):
            (tmp_path / f"{number}.png").write_bytes((folder / f"{number}.png").read_bytes())
        overrides = {f"data.{data}": str(tmp_path / f"{data}.jsonl") for data in ("train", "test")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(teacher_check, "NEAR_ZERO", -1.0)
            patch.setattr(teacher_check, "paired", lambda *_: type("P", (), {"ci95": (0, 0), "p_value": 1.0})())
            made.append(api.distill(folder / "edgekit.yaml", workspace=folder, overrides=overrides).manifest)
        assert len(list((folder / "runs/r/reports").glob("teacher-check-*.json"))) == check
    assert made[0]["student_sha256"] == made[1]["student_sha256"]
    assert made[0]["recipe_sha256"] == made[1]["recipe_sha256"]


# --------------------------------------------------------------------------------------------------------------- masks


def test_a_mask_with_nothing_to_mask_is_refused(tiny_teacher: Path) -> None:
    family = family_of("idefics3")
    check_mask(tiny_teacher, family, "all", ("*.down_proj.weight",))
    with pytest.raises(RecipeError, match="leaves none of the"):
        check_mask(tiny_teacher, family, "all", ("*",))
    with pytest.raises(RecipeError, match="leaves none of the"):
        check_mask(tiny_teacher, family, "vision", ("*vision*", "*connector*"))
    with pytest.raises(RecipeError, match="'down_proj' fits none of the"):
        check_mask(tiny_teacher, family, "all", ("down_proj",))
