"""`edgekit data check` and `show`, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from edgekit.cli import build
from edgekit.data.scoring import exact

cli = CliRunner()


@pytest.fixture
def spec(tmp_path: Path) -> str:
    Image.new("RGB", (10, 20)).save(tmp_path / "a.png")
    Image.new("L", (30, 5)).save(tmp_path / "b.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
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
    assert exact.score(said, answer) == right
