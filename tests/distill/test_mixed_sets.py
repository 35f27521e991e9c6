"""A file that mixes data sets, through evaluation, bench and a whole run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekit.checkpoint.folder import load_model
from edgekit.data import samples
from edgekit.data.scoring import vqa
from edgekit.distill.evaluate import evaluate_model
from edgekit.errors import DataError, EdgekitError, RecipeError
from edgekit.inputs.processor import Processor
from edgekit.runtimes import worker
from edgekit.runtimes.bench import Settings, bench

SCORED = {"open": "anls", "ten": "vqa", "default": "exact"}


def write(path: Path, said: list[str]) -> str:
    """Four rows; each data set's references are made of what the model says to its question."""
    images = [str(sample.images[0].path) for sample in samples("easy-vqa:test", limit=4)]
    answers: list[Any] = [
        said[0] + "x" * len(said[0]),
        [said[1]] * 2 + ["no"] * 8,
        [{"answer": "no"}, {"answer": said[2]}],
    ]
    rows = [
        {"question": "what?", "image": images[0], "answer": answers[0], "dataset": "open"},
        {"question": "which?", "image": images[1], "answer": answers[1], "dataset": "ten"},
        {"question": "is it?", "image": images[2], "answer": answers[2], "dataset": "other"},
        {"question": "is it?", "image": images[3], "answer": "no such"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def spec(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("mixed") / "q.jsonl"
    model, processor = load_model(tiny_checkpoint), Processor.load(tiny_checkpoint)
    said = evaluate_model(model, processor, write(path, ["a"] * 3), scoring="exact", max_new_tokens=4).answers
    assert all(vqa.normalise(text) for text in said), said
    return write(path, said)


def test_evaluation_scores_each_set_by_its_metric(tiny_checkpoint: Path, spec: str) -> None:
    model, processor = load_model(tiny_checkpoint), Processor.load(tiny_checkpoint)
    got = evaluate_model(model, processor, spec, scoring=SCORED, max_new_tokens=4)
    assert got.scores.tolist() == pytest.approx([0.5, 0.6, 1.0, 0.0])
    with pytest.raises(DataError, match=r"data\.scoring names nothing for the data set 'ten'"):
        evaluate_model(model, processor, spec, scoring={"open": "anls"}, max_new_tokens=4)


def test_the_worker_of_bench_scores_as_evaluation_does(tiny_checkpoint: Path, spec: str, tmp_path: Path) -> None:
    mine = worker.Worker(worker.Job("pytorch", str(tiny_checkpoint), 1, spec, None, SCORED, 4))
    assert mine.load()["load_ms"] > 0
    rows = mine.ask(3, turn=0) + mine.ask(3, turn=1)
    assert [row["turn"] for row in rows] == [0, 0, 0, 1]
    assert [row["score"] for row in rows] == pytest.approx([0.5, 0.6, 1.0, 0.0])


def test_bench_wants_a_metric_for_each_set(tiny_checkpoint: Path, spec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names nothing for the data set 'other'"):
        bench([], tiny_checkpoint, Settings(spec, scoring={"open": "anls", "ten": "vqa"}), tmp_path / "out")
    with pytest.raises(EdgekitError, match="Unknown metric 'anl'"):
        bench([], tiny_checkpoint, Settings(spec, scoring={"open": "anl", "default": "vqa"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_report_of_bench_names_all_metrics(tiny_checkpoint: Path, spec: str, tmp_path: Path) -> None:
    report = bench(
        [], tiny_checkpoint, Settings(spec, scoring=SCORED, warmup=0, max_new_tokens=4, trace=1), tmp_path / "out"
    )
    assert report.rows[0].accuracy == pytest.approx(2.1 / 4), report.rows[0].reason
    assert report.scoring == "open: anls, ten: vqa, default: exact"


def test_a_run_with_a_local_judge(tiny_checkpoint: Path, tiny_teacher: Path, spec: str, tmp_path: Path) -> None:
    """From the recipe to the report of agreement; a run begun without what its judge needs writes nothing."""
    import yaml

    from edgekit import api

    for name, folder in (("student", tiny_checkpoint), ("teacher", tiny_teacher)):
        shutil.copytree(folder, tmp_path / name)
    rewards: dict[str, Any] = {"judge": {"open": "local", "default": "rule"}}
    value = {
        "name": "mixed",
        "teachers": [{"checkpoint": "teacher"}],
        "student": {"checkpoint": "student"},
        "data": {"train": spec, "test": spec, "scoring": SCORED},
        "masters": {
            "mask": {"r_max": 0.0},
            "gen_data": {"check_teacher": False, "max_new_tokens": 3, "teacher_responses": 2, "student_responses": 2},
            "rewards": rewards,
        },
        "trainer": {"steps": 1, "batch_questions": 2},
    }
    (tmp_path / "edgekit.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(RecipeError, match="needs masters"):
        api.distill(workspace=tmp_path)
    assert not (tmp_path / "runs").exists()
    rewards["llm"] = {"judge_model": "student", "judge_concurrency": 4}
    (tmp_path / "edgekit.yaml").write_text(yaml.safe_dump(value))
    assert api.distill(workspace=tmp_path).accuracy.n == 4
    run = tmp_path / "runs" / "mixed"
    found = json.loads((run / "reports" / "judge-agreement.json").read_text())
    assert {name: one["n"] for name, one in found["datasets"].items()} == {"open": 4}
    assert 1 <= len((run / "verdicts.jsonl").read_text().splitlines()) <= 4
