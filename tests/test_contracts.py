"""Recipe, workspace and report: read, refused, and round trips."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgekit import schema
from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.errors import BundleError, CheckpointError, EdgekitError, RecipeError, StorageError
from edgekit.files import inside, new_folder, write_text
from edgekit.recipe.model import Recipe
from edgekit.recipe.reading import demo_recipe_path, dump_recipe, load_recipe, read_recipe
from edgekit.report.files import read_report
from edgekit.report.model import Report, Row
from edgekit.report.text import escape, markdown, to_csv
from edgekit.workspace import Workspace

MINIMAL = {
    "teachers": [{"checkpoint": "t"}],
    "student": {"checkpoint": "s"},
    "data": {"train": "a.jsonl", "test": "b.jsonl"},
}


# -------------------------------------------------------------------------------------------------------------- recipe


def test_defaults_are_the_papers() -> None:
    recipe = read_recipe(MINIMAL)
    mask, gen = recipe.masters.mask, recipe.masters.gen_data
    assert (mask.r_max, mask.step, recipe.masters.kl_beta, recipe.objective) == (0.2, 0.05, 0.1, {"jsd": 1.0})
    assert (gen.teacher_responses, gen.student_responses) == (4, 4)
    assert (gen.temperature, gen.top_p, gen.top_k, gen.repetition_penalty) == (1.0, 0.9, 50, 1.05)
    assert (recipe.trainer.learning_rate, recipe.trainer.schedule) == (1e-6, "constant")


def test_every_problem_at_once_with_did_you_mean() -> None:
    wrong: dict[str, Any] = {
        **MINIMAL,
        "masters": {"mask": {"rmax": 0.2, "scope": "visio"}, "kl_beta": "high"},
        "trainer": {"step": 10, "steps": True},
        "exports": [{"precision": "fp32"}],
    }
    with pytest.raises(RecipeError) as caught:
        read_recipe(wrong, "my.yaml")
    text = str(caught.value)
    assert "my.yaml has 6 problems" in text
    for part in (
        "masters.mask.rmax: unknown key, did you mean 'r_max'?",
        "masters.mask.scope: 'visio' is not one of 'all', 'language', 'vision'. Did you mean 'vision'?",
        "masters.kl_beta: expected a number, found text 'high'",
        "trainer.step: unknown key, did you mean 'steps'?",
        "trainer.steps: expected a whole number, found true/false True",
        "exports[0].target: missing",
    ):
        assert part in text


def test_ranges_and_names_are_checked() -> None:
    wrong: dict[str, Any] = {
        **MINIMAL,
        "teachers": [{"checkpoint": "t", "r_max": 1.0}],
        "name": "../up",
        "objective": {"jds": 1.0},
        "masters": {"gen_data": {"temperature": 0, "teacher_responses": 0, "student_responses": 0}},
        "data": {**MINIMAL["data"], "scoring": "exct"},  # type: ignore[dict-item]
    }
    with pytest.raises(RecipeError) as caught:
        read_recipe(wrong)
    for part in (
        "teachers[0].r_max: 1.0 is not in [0, 1)",
        "'../up' is no plain folder name",
        "Unknown objective 'jds'. Did you mean 'jsd'?",
        "masters.gen_data.temperature: 0.0 is not above 0",
        "are both 0",
        "Unknown metric 'exct'. Did you mean 'exact'?",
    ):
        assert part in str(caught.value)


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    recipe = load_recipe(path, {"trainer.learning_rate": "1e-6", "teachers.0.r_max": "0.4", "masters.mask.step": "0.1"})
    assert (recipe.trainer.learning_rate, recipe.r_max(0), recipe.masters.mask.step) == (1e-6, 0.4, 0.1)
    with pytest.raises(RecipeError, match="there is no '3'"):
        load_recipe(path, {"teachers.3.r_max": "0.4"})


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "\x00"])
def test_what_is_no_recipe(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="Cannot read"):
        load_recipe(tmp_path / "none.yaml")


def test_round_trip_and_hash() -> None:
    recipe = load_recipe(demo_recipe_path())
    again = read_recipe(yaml.safe_load(dump_recipe(recipe)))
    assert again == recipe and again.hash == recipe.hash
    value = schema.to_json(recipe)
    value["bench"]["limit"] = 7
    assert read_recipe(value).hash == recipe.hash  # says nothing of the student
    value["trainer"]["seed"] = 7
    assert read_recipe(value).hash != recipe.hash


def test_schema_describes_every_key() -> None:
    described = schema.json_schema(Recipe)
    assert described["properties"]["masters"]["properties"]["mask"]["properties"]["scope"]["enum"] == [
        "all", "language", "vision",
    ]  # fmt: skip
    assert described["required"] == ["teachers", "student", "data"]
    assert "mid teachers first" in described["properties"]["teachers"]["description"]


def test_checkpoints_that_are_not_there() -> None:
    with pytest.raises(CheckpointError, match="no demo model 'demo:big'"):
        resolve_checkpoint("demo:big")
    with pytest.raises(CheckpointError, match="No model at 'some/where/else'"):
        resolve_checkpoint("some/where/else")
    assert (resolve_checkpoint("demo:student") / "model.safetensors").exists()


# ----------------------------------------------------------------------------------------------------------- workspace


def test_runs_resume_by_recipe(tmp_path: Path) -> None:
    place = Workspace.find(tmp_path)
    recipe = read_recipe(MINIMAL)
    run = place.open_run(recipe)
    assert place.open_run(recipe) == run
    other = read_recipe({**MINIMAL, "objective_settings": {"jsd": {"beta": 0.3}}})
    assert place.open_run(other).name == "masters-2"
    assert place.open_run(other).name == "masters-2"
    assert place.open_run(recipe, fresh=True).name == "masters-3"
    with pytest.raises(EdgekitError, match="another recipe"):
        place.open_run(other, name="masters")
    with pytest.raises(EdgekitError, match="No run in"):
        place.latest_run()
    place.name_latest(run)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert Workspace.find(tmp_path / "deep" / "er").latest_run() == run
    with run.lock(), pytest.raises(EdgekitError, match="Another process"), run.lock():
        pass
    with pytest.raises(EdgekitError, match="There are: masters, masters-2, masters-3"):
        place.run("none")


# -------------------------------------------------------------------------------------------------------------- report

words = st.text(min_size=1, max_size=8)
floats = st.none() | st.floats(0, 1e6)
shares = st.none() | st.floats(0, 1)
intervals = st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda ends: (min(ends), max(ends)))
rows = st.builds(
    Row, bundle=words, name=st.text(), runtime=words, target=words, precision=words, device=words,
    status=st.sampled_from(["ok", "failed"]), reason=st.none() | st.text(), n=st.none() | st.integers(0, 9999),
    accuracy=shares, accuracy_ci95=intervals, accuracy_delta=floats, accuracy_delta_ci95=intervals, ttft_ms=floats,
    itl_ms_p95=floats, size_bytes=st.none() | st.integers(0, 10**15),
)  # fmt: skip
reports = st.builds(
    Report, schema_version=st.just(1), data=words, scoring=words, threads=st.integers(1, 9),
    machine=st.dictionaries(words, words, max_size=2), rows=st.lists(rows, max_size=3).map(tuple),
)  # fmt: skip


@given(reports)
def test_report_round_trip_and_table_shape(report: Report) -> None:
    assert read_report(json.loads(json.dumps(schema.to_json(report)))) == report
    lines = [line for line in markdown(report).splitlines() if line.startswith("|")]
    well = sum(row.status == "ok" for row in report.rows)
    assert len(lines) == 2 + len(report.rows) + (2 + well if well else 0)
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines]
    both = bars[: 2 + len(report.rows)], bars[2 + len(report.rows) :]
    assert len(set(both[0])) == 1 and len(set(both[1])) <= 1  # no cell can add a column or a row
    assert to_csv(report).startswith("bundle,") or not report.rows


def test_hostile_text_stays_text() -> None:
    assert escape("<script>alert(1)</script> | **x**\n# y") == (
        "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\*\\*x\\*\\* \\# y"
    )


def test_newer_report() -> None:
    with pytest.raises(EdgekitError, match="report schema 9"):
        read_report({"schema_version": 9})


# --------------------------------------------------------------------------------------------------------------- files


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.txt"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    class Boom(Exception):
        pass

    with pytest.raises(Boom), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise Boom
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("x")
    with pytest.raises(StorageError, match="exists already"), new_folder(tmp_path / "out"):
        pass
    with new_folder(tmp_path / "out", replace=True) as folder:
        (folder / "other").write_text("y")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_inside(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b") == tmp_path / "a/b"
    with pytest.raises(BundleError):
        inside(tmp_path, "../b")


def test_nan_is_never_written(tmp_path: Path) -> None:
    from edgekit.files import write_json

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"v": math.nan})


def test_a_message_stays_short_whatever_it_quotes() -> None:
    error = EdgekitError("It is damaged.", why="x" * 50_000_000, fix="Fetch it again.")
    assert str(error).endswith("x... (49,992,000 more characters)\n  Fetch it again.") and len(str(error)) < 8100
