"""Recipes as people break them: each is refused at load, at once, every problem with its line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgekit import api
from edgekit.cli import build
from edgekit.devices import parse_address
from edgekit.devices._catalogue import read_phone_file
from edgekit.errors import EdgekitError, RecipeError
from edgekit.recipe.checks import _UNUSABLE, SCHEDULES
from edgekit.recipe.model import Recipe
from edgekit.recipe.reading import demo_recipe_path, load_recipe
from edgekit.yaml_text import MOST_BYTES, read_yaml, write_yaml

GOOD = """\
teachers: [{checkpoint: "demo:teacher"}]
student: {checkpoint: "demo:student"}
data: {train: "easy-vqa:train", test: "easy-vqa:test"}
"""


def load(folder: Path, text: str, overrides: dict[str, str] | None = None, **how: Any) -> Recipe:
    (folder / "r.yaml").write_text(text)
    return load_recipe(folder / "r.yaml", overrides, **how)


def refused(folder: Path, text: str, overrides: dict[str, str] | None = None, **how: Any) -> str:
    begun = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        load(folder, text, overrides, **how)
    assert time.monotonic() - begun < 10
    return str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB + GOOD, "aliases make it more than 20,000 values"),
        ("a: &a {b: *a}\n" + GOOD, "24 levels deep"),
        ("x: &x {k: 1}\n" + "y: {<<: [" + "*x, " * 30_000 + "*x]}\n" + GOOD, "more than 20,000 values"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "more than 24 levels deep"),
        ("a: " + "{a: " * 50_000, "more than 24 levels deep"),
        ("- " * 60_000, "more than 24 levels deep"),
        ("a: [" + "1, " * 50_000 + "1]", "more than 20,000 values"),
        (GOOD + "# " + "x" * MOST_BYTES, "at most 262,144 are read"),
        ("a: !!python/object/apply:os.system [exit]\n" + GOOD, "a: unknown key"),
        ("name: !!python/name:os.system ''\n" + GOOD, "is not read"),
        (GOOD + "---\n" + GOOD, "is not valid YAML"),
        ("a: [", "is not valid YAML"),
        ("\tname: x\n", "is not valid YAML"),
        ("name: *nobody\n" + GOOD, "is not valid YAML"),
        ("", "the top level: expected a mapping, found nothing"),
        ("just text", "expected a mapping, found text"),
    ],
)
def test_bombs_and_rubbish_end_at_once(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refused(tmp_path, text)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with (tmp_path / "huge.yaml").open("wb") as stream:
        stream.truncate(100 << 20)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    reasons = {"pipe.yaml": "a pipe, no file", "huge.yaml": "104,857,600 bytes", "latin.yaml": "utf-8", ".": "a folder"}
    for name, reason in reasons.items():
        with pytest.raises(RecipeError, match="Cannot read the recipe") as caught:
            load_recipe(tmp_path / name)
        assert reason in caught.value.why
    with pytest.raises(RecipeError, match="a device"):
        load_recipe(Path("/dev/zero"))
    for name in ("pipe.yaml", "huge.yaml"):
        with pytest.raises(EdgekitError, match="Cannot read the device file"):
            parse_address(str(tmp_path / name))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("trainer: {steps: 010}", "line 4: trainer.steps: 010 is octal in YAML, 8; write 10"),
        ("trainer: {steps: 1:30}", "line 4: trainer.steps: 1:30 is a number to base 60 in YAML"),
        (
            "trainer:\n  steps: 5\n  seed: 1\n  steps: 6",
            "line 7: trainer.steps: stands there twice, the first time in line 5",
        ),
        ("name: no", "line 4: name: expected text, found true/false False (YAML reads no without quotes as False;"),
        ("name: 3", "line 4: name: expected text, found a whole number 3"),
        ("trainer: {learning_rate: .nan}", "line 4: trainer.learning_rate: expected a finite number, found nan"),
        ("trainer: {learning_rate: -.inf}", "line 4: trainer.learning_rate: expected a finite number, found -inf"),
        ("objective: {jsd: .inf}", "line 4: objective.jsd: expected a finite number"),
        ("objective: {jsd: 0}", "line 4: objective: all weights are 0"),
        ("objective: {jsd: 0, taid: 0.0}", "line 4: objective: all weights are 0"),
        ("objective: {}", "line 4: objective: at least one is needed"),
        ("exports: [{target: onx}]", "line 4: exports[0].target: Unknown target 'onx'. Did you mean 'onnx'?"),
        (
            "exports:\n- {target: onnx}\n- {target: onnx, precision: int3}",
            "line 6: exports[1].precision: the target 'onnx' has no",
        ),
        ("exports: [{target: onnx, precision: int3}]", "Did you mean 'int8'? There are: fp32,"),
        ("exports: [{target: onnx, precision: 'text=int3'}]", "has no precision 'int3' for the text part"),
        (
            "exports: [{target: gguf, genai: true}]",
            "exports[0].genai: the target 'gguf' has nothing for onnxruntime-genai",
        ),
        ("exports: [{target: onnx}, {target: onnx, precision: fp32}]", "exports[1]: the same bundle as exports[0]"),
        ("trainer: {schedule: cosin}", "line 4: trainer.schedule: 'cosin' is not one of linear,"),
        ("trainer: {schedule: warmup_stable_decay}", "needs settings that a recipe does not have"),
        ("trainer: {warmup_steps: 5}", "the schedule 'constant' has no warm-up; 'constant_with_warmup' has"),
        ("trainer: {schedule: linear, steps: 9, warmup_steps: 10}", "a warm-up of 10 steps is longer than the 9 steps"),
        ("trainer: {batch_questions: 0}", "line 4: trainer.batch_questions: 0 is not at least 1"),
        ("trainer: {seed: -1}", "line 4: trainer.seed: -1 is not in [0, 2^32 - 1000)"),
        (
            "trainer: {steps: 99999999999999999999}",
            "trainer.steps: 99999999999999999999 is beyond 9,007,199,254,740,992",
        ),
        (f"trainer: {{steps: {'9' * 5000}}}", "trainer.steps: a number of more than 40 digits"),
        ("masters: {rewards: {judge: rul}}", "masters.rewards.judge: Unknown judge 'rul'. Did you mean 'rule'?"),
        (
            "masters: {gen_data: {generator: tranformers}}",
            "Unknown generator 'tranformers'. Did you mean 'transformers'?",
        ),
        ("masters: {mask: {stepp: 0.1}}", "line 4: masters.mask.stepp: unknown key, did you mean 'step'?"),
        ("masters:\n  mask:\n    scope: visio", "line 6: masters.mask.scope: 'visio' is not one of"),
        ("? [a, b]\n: 1", "line 4: the top level: a key is no text"),
        ("trainer: {<<: 3, steps: 5}", "line 4: trainer: << is followed by no mapping"),
        ("qad: {steps: 1, kl_weight: 0, ce_weight: 0}", "line 4: qad: kl_weight and ce_weight are both 0"),
        (f"name: {'a' * 300}", "has more than 100 characters"),
    ],
)
def test_refused_at_load_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    assert problem in refused(tmp_path, f"{GOOD}{line}\n")


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = refused(
        tmp_path, GOOD + "trainer: {steps: 010, batch_questions: 0, seed: -1}\nobjective: {jsd: 0}\nname: x\nname: y\n"
    )
    assert "r.yaml has 5 problems" in text
    for part in (
        "trainer.steps: 010",
        "line 4: trainer.batch_questions",
        "line 4: trainer.seed",
        "line 7: name: stands",
    ):
        assert part in text
    assert "line 5: objective: all weights" in text


def test_what_a_student_cannot_have(tmp_path: Path) -> None:
    text = refused(tmp_path, GOOD.replace('"demo:student"', '"demo:student", steps: 4'))
    assert "line 2: student.steps: is for teachers only" in text


def test_inputs_that_are_not_there_are_listed_together(tmp_path: Path) -> None:
    text = """\
teachers:
- checkpoint: "demo:techer"
student:
  checkpoint: ./nowhere
data:
  train: none.jsonl
  test: easy-vqa:test
trainer: {batch_questions: 0}
"""
    found = refused(tmp_path, text, base=tmp_path)
    assert "4 problems" in found
    for part in (
        "line 2: teachers[0].checkpoint: There is no demo model 'demo:techer'.",
        "line 4: student.checkpoint: No model at './nowhere'.",
        "line 6: data.train: No data at 'none.jsonl'.",
        "line 8: trainer.batch_questions",
    ):
        assert part in found
    load(tmp_path, text.replace("batch_questions: 0", "batch_questions: 1"))  # only its shape where no base is given


def test_overrides_are_held_to_the_same(tmp_path: Path) -> None:
    for key, value, problem in (
        ("trainer.steps", "010", "--set: trainer.steps: 010 is octal"),
        ("trainer.steps", "1:30", "--set: trainer.steps: 1:30 is a number to base 60"),
        ("trainer", "{steps: 3, steps: 4}", "--set: trainer.steps: stands there twice"),
        ("trainer.learning_rate", ".nan", "--set: trainer.learning_rate: expected a finite number"),
        ("teachers.0.r_max", "1.5", "--set: teachers[0].r_max: 1.5 is not in [0, 1)"),
        ("teachers[0].r_max", "1.5", "--set: teachers[0].r_max: 1.5 is not in [0, 1)"),
        ("trainer.stps", "5", "--set: trainer.stps: unknown key, did you mean 'steps'?"),
        ("name", "no", "quote it"),
        ("name", BOMB, "Cannot read --set name="),
        ("name", "[" * 90_000, "Cannot read --set name="),
        ("trainer.steps", "a: [", "Cannot read --set trainer.steps=a: [: it is not valid YAML"),
        ("teachers.3.r_max", "0", "there is no '3'"),
        ("[]", "0", "names no setting"),
        ("student.checkpoint.x", "0", "there is no 'x' to set"),
    ):
        assert problem in refused(tmp_path, GOOD, {key: value}), key
    recipe = load(tmp_path, GOOD + "trainer:\n", {"trainer.steps": "5", "teachers[0].steps": "3", "name": "'no'"})
    assert (recipe.trainer.steps, recipe.steps(0), recipe.name) == (5, 3, "no")
    assert (
        load(tmp_path, GOOD + "trainer: {steps: 010}\n".replace("010", "'010'"), {"trainer.steps": "7"}).trainer.steps
        == 7
    )
    with pytest.raises(RecipeError, match=r"--set trainer\.steps is given twice: 3 and 4"):
        api.parse_overrides(["trainer.steps=3", "trainer.steps=4"])


def test_what_yaml_may_say_is_still_read(tmp_path: Path) -> None:
    """Anchors, merges, words for true, hexadecimal, underscores, a byte order mark; an alias is a copy, not a link."""
    text = (
        "\ufeff"
        + GOOD.replace('[{checkpoint: "demo:teacher"}]', '[&t {checkpoint: "demo:teacher", steps: 40}, *t]')
        + (
            "trainer: {steps: 1_000, bf16: yes, seed: 0x10, learning_rate: 1e-4}\n"
            "masters: {mask: &m {r_max: 0.3, step: 0.1}}\n"
        )
    )
    recipe = load(tmp_path, text, {"teachers.0.steps": "7"})
    assert (recipe.trainer.steps, recipe.trainer.bf16, recipe.trainer.seed) == (1000, True, 16)
    assert recipe.trainer.learning_rate == 1e-4
    assert [recipe.steps(0), recipe.steps(1)] == [7, 40]
    merged = read_yaml(
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\n2024-01-01: 2024-01-01\n", "m", RecipeError
    )
    assert merged.value == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2, "z": 4},
        "2024-01-01": "2024-01-01",
    }


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(plain)
@example({"\x85": "a\x85b"})
def test_what_yaml_writes_is_read_as_it_was(value: Any) -> None:
    found = read_yaml(write_yaml(value), "here", RecipeError)
    assert found.value == value and not found.problems


def test_schedules_are_all_of_transformers() -> None:
    from transformers.trainer_utils import SchedulerType

    assert {*SCHEDULES, *_UNUSABLE} == {kind.value for kind in SchedulerType}


def test_a_kept_recipe_of_an_older_edgekit_is_still_read(tmp_path: Path) -> None:
    """One of many runs must not stop the others."""
    text = GOOD + "trainer: {warmup_steps: 5}\n"
    assert load(tmp_path, text, kept=True).trainer.warmup_steps == 5
    assert "no warm-up" in refused(tmp_path, text)


def test_the_built_in_recipes_hold(tmp_path: Path) -> None:
    load_recipe(demo_recipe_path(), base=tmp_path)


def test_the_command_says_it_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgekit.yaml").write_text(GOOD.replace("demo:student", "nowhere") + "trainer: {steps: 0}\n")
    result = CliRunner().invoke(build(), ["distill"])
    assert result.exit_code == 1 and "2 problems" in result.stderr and "line 2: student.checkpoint" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["edgekit.yaml"]


PHONE = """\
name: X
kind: iphone
chip: A
year: 2026
memory_gb: {value: 8, source: "https://example.com"}
app_limit_gb: {value: 9, source: "https://example.com"}
"""


def test_device_files_are_held_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for text, problem in (
        (PHONE, "line 6: app_limit_gb: 9 is above memory_gb, 8"),
        (PHONE.replace("value: 9", "value: 1:30"), "line 6: app_limit_gb.value: 1:30 is a number to base 60"),
        (PHONE.replace("value: 9", "vaue: 4"), "line 6: app_limit_gb.vaue: unknown key, did you mean 'value'?"),
        (PHONE + "year: 2025\n", "line 7: year: stands there twice"),
        (BOMB, "aliases"),
    ):
        path.write_text(text)
        with pytest.raises(EdgekitError) as caught:
            read_phone_file(path)
        assert problem in str(caught.value)
    path.write_text("device: ssh\ndevice: local\n")
    with pytest.raises(EdgekitError, match="stands there twice"):
        parse_address(str(path))
