"""`edgekit data check` and `show`, by the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from edgekit.cli import build
from edgekit.data.check import allowed_answers, check, row_notes
from edgekit.data.scoring import exact

cli = CliRunner()


@pytest.fixture
def spec(tmp_path: Path) -> str:
    Image.new("RGB", (10, 20)).save(tmp_path / "a.png")
    Image.new("L", (30, 5)).save(tmp_path / "b.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    turned = Image.new("RGB", (4, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    rows = [
        {"question": "q", "image": "a.png", "answer": "yes"},
        {"question": "q", "image": "bad.png", "answer": "yes"},
        {"question": "q", "image": "b.png", "answer": "yess"},
        {"question": "q", "image": "turned.jpg", "answer": "no"},
        {"id": "line-1", "question": "again", "answer": "no"},
        {"question": "q", "answer": ""},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_check_names_every_bad_row(spec: str) -> None:
    result = cli.invoke(build(), ["data", "check", spec, "--closed-answers", "yes,no", "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["good"] == 2
    assert {row["location"].rpartition(":")[2]: row["reason"] for row in found["bad"]} == {
        "2": f"Cannot read the image {Path(spec).parent / 'bad.png'}. cannot identify image file"
        f" '{Path(spec).parent / 'bad.png'}'",
        "3": "the answer 'yess' is not among the 2 allowed, did you mean 'yes'?",
        "5": "the id 'line-1' was there before",
        "6": "no answer",
    }
    assert [row["location"].rpartition(":")[2] for row in found["warnings"]] == ["4"]
    assert "EXIF" in found["warnings"][0]["reason"]
    assert (found["widths"], found["heights"]) == ([4, 10], [4, 20])


def test_check_of_good_data(spec: str) -> None:
    result = cli.invoke(build(), ["data", "check", spec, "--limit", "1"])
    assert result.exit_code == 0
    assert "1 good rows, 0 bad" in result.stdout


def test_show(spec: str) -> None:
    result = cli.invoke(build(), ["data", "show", spec, "-n", "1"])
    assert result.exit_code == 0
    assert "'q' -> 'yes'  [10x20 RGB]" in result.stdout


def run(*arguments: str) -> Any:
    return cli.invoke(build(), ["data", *arguments])


def write(folder: Path, *rows: dict[str, Any], name: str = "few.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def test_the_last_word_says_how_many(spec: str, tmp_path: Path) -> None:
    result = run("check", spec)
    assert result.exit_code == 1
    assert f"3 of 6 rows of {spec} cannot be used." in result.stderr  # no closed answers: the third row is good
    assert "3 good rows, 3 bad, 1 warnings" in result.stdout
    assert f"bad      {spec}:5: the id 'line-1' was there before" in result.stdout
    empty = run("check", write(tmp_path, name="none.jsonl"))
    assert empty.exit_code == 1 and "none.jsonl holds no samples." in empty.stderr


def test_answers_are_counted_most_frequent_first(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": f"a{i}"} for i in range(25)] + [{"question": "q", "answer": "b"}] * 2
    found = check(write(tmp_path, *rows)).as_dict()
    assert next(iter(found["answers"].items())) == ("b", 2)
    assert (len(found["answers"]), found["distinct_answers"], found["good"]) == (20, 26, 27)
    assert (found["widths"], found["heights"]) == (None, None)


def test_what_is_kept_is_bounded_and_what_is_counted_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.data.check.KEPT_ROWS", 3)
    monkeypatch.setattr("edgekit.data.check.KEPT_ANSWERS", 2)
    rows = [{"question": "q", "answer": str(i % 5)} for i in range(10)] + [{"answer": "no question"}] * 7
    spec = write(tmp_path, *rows)
    found = check(spec)
    assert (len(found.bad), found.bad_count, found.good) == (3, 7, 10)
    assert found.answers == {"0": 2, "1": 2}  # known ones are still counted
    assert found.as_dict()["distinct_answers"] == 5
    shown = run("check", spec).stdout
    assert shown.count("bad      ") == 4 and "bad      and 4 more" in shown


@pytest.mark.parametrize("tags", [b"Exif\0\0MM\0\0\0\0\0\x08", b"Exif\0\0II*\0"])
def test_damaged_exif_is_a_warning(tmp_path: Path, tags: bytes) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.webp", exif=tags)
    found = check(write(tmp_path, {"question": "q", "image": "a.webp", "answer": "a"}))
    assert (found.good, found.warning_count) == (1, 1)
    assert found.warnings[0].reason.startswith("the image's EXIF tags cannot be read")


def test_closed_answers_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "allowed.txt").write_bytes(b"\xef\xbb\xbfa circle\r\n\n yes, really \n")
    assert allowed_answers(str(tmp_path / "allowed.txt")) == {"a circle", "yes, really"}
    assert allowed_answers(" yes, no,") == {"yes", "no"}
    assert len(allowed_answers(",".join(f"answer {i}" for i in range(900)))) == 900  # longer than any file name


@pytest.mark.parametrize("text", ["alowed.txt", ",", "", "a" * 5000])
def test_closed_answers_gone_wrong(spec: str, text: str) -> None:
    result = run("check", spec, "--closed-answers", text)
    assert result.exit_code == 1 and "a file with one a line" in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_nearest_answer_whatever_its_case(tmp_path: Path) -> None:
    found = check(write(tmp_path, {"question": "q", "answer": " NO"}), closed_answers={"no", "yes"})
    assert found.bad[0].reason == "the answer ' NO' is not among the 2 allowed, did you mean 'no'?"


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    told = row_notes("q.jsonl", 5000, every_s=0.0)
    told(1200)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("checking q.jsonl: 1,200 rows of 5,000 at most, ")
    row_notes("q.jsonl", every_s=1000)(1)
    assert capsys.readouterr() == ("", "")


def test_a_row_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b[2Jyes\nbad row"
    spec = write(tmp_path, {"id": hostile, "question": "q", "answer": hostile})
    for verb in ("check", "show"):
        shown = run(verb, spec).stdout
        assert "\x1b" not in shown and "\\x1b[2Jyes\\nbad row" in shown
    assert json.loads(run("show", spec, "--json").stdout)[0]["answer"] == hostile


def test_a_location_that_is_no_text_is_still_printed(tmp_path: Path) -> None:
    """A file name that is not UTF-8 must not stop the report of the others."""
    (tmp_path / "cat").mkdir()
    try:
        Image.new("RGB", (2, 2)).save(tmp_path / "cat" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    shown = run("check", str(tmp_path))
    assert shown.exit_code == 1 and "\\udcff.png: half a surrogate pair" in shown.stdout
    (row,) = json.loads(run("check", str(tmp_path), "--json").stdout)["bad"]
    assert row["location"].endswith("\udcff.png")


def test_show_of_bad_data(spec: str) -> None:
    result = run("show", spec, "-n", "2")
    assert result.exit_code == 1 and "bad.png" in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("Yes.", "yes", 1),
        (" blue  shape ", "Blue shape", 1),
        ("", "", 0),
        ("no", "yes", 0),
        ("yes, it is", "yes", 0),
        ("...", "", 0),
    ],
)
def test_exact(said: str, answer: str, right: float) -> None:
    assert exact.score(said, [answer]) == right
