"""Several accepted references: every spelling in every source, and what each reader of samples makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from edgekit.cli import build
from edgekit.data import BadRow, Sample, make_sample, open_data, samples
from edgekit.data.check import check
from edgekit.distill.questions import QUESTIONS, write_questions
from edgekit.distill.questions import question as stored_question
from edgekit.inputs.chat import question
from edgekit.recipe.model import Data

TEN = ["yes"] * 6 + ["no"] * 4


def make(**row: Any) -> Sample | BadRow:
    return make_sample({"question": "q", **row}, ident="i", location="here")


@pytest.mark.parametrize(
    ("row", "answer", "answers"),
    [
        ({"answer": "a"}, "a", ("a",)),
        ({"answer": ["b", "a", "a"]}, "a", ("b", "a", "a")),  # the most frequent
        ({"answer": ["b", "a"]}, "b", ("b", "a")),  # then the first
        ({"answers": ["b", 3]}, "b", ("b", "3")),
        ({"answers": "a"}, "a", ("a",)),
        ({"answer": [{"answer": "a", "answer_id": 1, "confidence": "yes"}, {"answer": "b"}]}, "a", ("a", "b")),
        ({"answers": {"answer": ["a", "b"], "answer_id": [1, 2]}}, "a", ("a", "b")),
        ({"answer": "b", "answers": ["a", "b"]}, "b", ("a", "b")),
        ({"answer": None, "answers": []}, None, ()),
        ({"answer": []}, None, ()),
    ],
)
def test_spellings(row: dict[str, Any], answer: str | None, answers: tuple[str, ...]) -> None:
    made = make(**row)
    assert isinstance(made, Sample) and (made.answer, made.answers) == (answer, answers)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "c", "answers": ["a", "b"]}, "'answer' 'c' is not among 'answers'"),
        ({"answer": ["a"], "answers": ["a"]}, "'answer' is a list and there are 'answers' too"),
        ({"answer": ["a", None]}, "an answer of the list is null"),
        ({"answer": [{"text": "a"}]}, "an entry of the answers has no 'answer' but 'text'"),
        ({"answer": "a", "answers": {}}, "an entry of the answers has no 'answer' but nothing"),
        ({"answers": {"answer": [["a"]]}}, "'answer' is list, not text"),
        ({"answer": ["a", True]}, "'answer' is True, not text"),
        ({"answers": ["a", "\ud800"]}, "half a surrogate pair"),
        ({"answer": "a", "dataset": ["x"]}, "'dataset' is list, not text"),
        ({"answer": "a", "dataset": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_refused(row: dict[str, Any], reason: str) -> None:
    bad = make(**row)
    assert isinstance(bad, BadRow) and reason in bad.reason


def test_a_sample_made_by_hand() -> None:
    assert Sample("a", (), question("q", 0), "x").answers == ("x",)
    assert Sample("a", (), question("q", 0), answers=("y", "x", "x")).answer == "x"
    assert Sample("a", (), question("q", 0)).answers == ()


ROWS: list[dict[str, Any]] = [
    {"question": "one?", "answer": TEN, "dataset": "vqa"},
    {"question": "two?", "answer": ["Paris", "paris"], "dataset": "docvqa"},
]


@pytest.fixture(params=["jsonl", "parquet", "structs", "datasets"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same two rows in each source."""
    rows = ROWS
    if request.param == "structs":
        rows = [{**row, "answer": [{"answer": a, "answer_id": k} for k, a in enumerate(row["answer"])]} for row in ROWS]
    if request.param == "jsonl":
        (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / "q.jsonl")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    return f"datasets:{tmp_path}:train" if request.param == "datasets" else str(tmp_path / "q.parquet")


def test_every_source_and_the_shards_keep_them(spec: str, tmp_path: Path) -> None:
    read = list(samples(spec))
    assert [row.answers for row in read] == [tuple(TEN), ("Paris", "paris")]
    assert [(row.answer, row.dataset) for row in read] == [("yes", "vqa"), ("Paris", "docvqa")]
    asked: list[str | None] = []
    write_questions(Data(spec, spec), tmp_path / "out", 8, 0, lambda sample: asked.append(sample.dataset))
    assert asked == ["vqa", "docvqa"]
    rows = pq.read_table(tmp_path / "out" / "shard-00000.parquet").to_pylist()
    assert [stored_question(row) for row in rows] == read


def test_shards_of_an_older_run_are_read() -> None:
    row = {name: None for name in QUESTIONS.names if name not in ("answers", "dataset")}
    sample = stored_question({**row, "id": "a", "messages": "[]", "answer": "x", "location": "", "images": []})
    assert (sample.answers, sample.dataset) == (("x",), None)


def test_check_and_show(tmp_path: Path) -> None:
    spec = tmp_path / "q.jsonl"
    spec.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = check(str(spec), closed_answers={"yes", "no", "Paris"})
    assert found.good == 1 and dict(found.answers) == {"yes": 1}
    assert found.bad[0].reason == "the answer 'paris' is not among the 3 allowed, did you mean 'Paris'?"
    cli = CliRunner()
    shown = cli.invoke(build(), ["data", "show", str(spec)]).stdout.splitlines()
    assert shown[0] == "line-1           'one?' -> 'yes' (of 10, 2 different)  [no image]  vqa  (question)"
    (first, _) = json.loads(cli.invoke(build(), ["data", "show", str(spec), "--json"]).stdout)
    assert (first["answer"], first["answers"], first["dataset"]) == ("yes", TEN, "vqa")


def test_an_empty_list_is_no_answer(tmp_path: Path) -> None:
    spec = tmp_path / "q.jsonl"
    spec.write_text('{"question": "q", "answer": []}\n')
    assert check(str(spec)).bad[0].reason == "no answer"
    (row,) = open_data(str(spec))
    assert isinstance(row, Sample) and row.answer is None
