"""Image folders, above all those laid out in a way that would be misread without a word."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from edgekit.data import BadRow, Sample, image_folder, open_data
from edgekit.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two answers, one image each."""
    for answer in ("cat", "dog"):
        (tmp_path / answer).mkdir()
        Image.new("RGB", (3, 2)).save(tmp_path / answer / "1.png")
    return tmp_path


def described(folder: Path) -> list[tuple[str, str]]:
    rows = [row if isinstance(row, BadRow) else (row.id, row.answer or "") for row in open_data(str(folder))]
    return [(Path(row.location).name, row.reason) if isinstance(row, BadRow) else row for row in rows]


def test_what_is_no_row_and_what_is_a_bad_one(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    Image.new("RGB", (3, 2)).save(folder / ".hidden" / "1.png")
    (folder / "cat" / "notes.txt").write_text("x")
    (folder / "cat" / ".DS_Store").write_text("x")
    (folder / "cat" / "2.HEIC").write_bytes(b"x")  # looks like an image, so it is not passed by
    (folder / "cat" / "inner").mkdir()
    Image.new("RGB", (3, 2)).save(folder / "loose.png")
    assert described(folder) == [
        ("loose.png", "an image in no answer's folder"),
        ("inner", "a folder inside an answer's folder is not read"),
        ("cat/1.png", "cat"),
        ("cat/2.HEIC", "cat"),
        ("dog/1.png", "dog"),
    ]


def test_a_name_that_is_no_text(folder: Path) -> None:
    try:
        (folder / "cat" / "1.png").rename(folder / "cat" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    bad, good = open_data(str(folder))
    assert isinstance(bad, BadRow) and "no text" in bad.reason
    assert isinstance(good, Sample)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"question\.txt is empty"), (b" \n", "is empty"), (b"\xff\xfe", r"Cannot read .*question\.txt")],
)
def test_question_file_gone_wrong(folder: Path, content: bytes, message: str) -> None:
    (folder / "question.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(str(folder))


def test_question_file_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "question.txt").write_bytes(b"\xef\xbb\xbfWhich?\r\n")
    assert {row.text for row in open_data(str(folder)) if isinstance(row, Sample)} == {"Which?"}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.parquet"])
def test_metadata_of_another_kind_is_not_overlooked(folder: Path, name: str) -> None:
    (folder / name).write_text("file_name,question\n")
    with pytest.raises(DataError, match="is not read") as caught:
        open_data(str(folder))
    assert f"datasets:{folder}:train" in str(caught.value)


def test_splits_are_not_taken_for_answers(folder: Path) -> None:
    (folder / "cat" / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match="several image folders") as caught:
        open_data(str(folder))
    assert str(folder / "cat") in str(caught.value) and str(folder / "dog") not in str(caught.value)


def test_the_images_of_a_file_are_not_taken_for_answers(folder: Path) -> None:
    (folder / "q.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"holds q\.jsonl beside folders of images"):
        open_data(str(folder))
    (folder / "q.jsonl").rename(folder / "q.parquet")
    assert not image_folder.claims(str(folder))  # shards with images beside them are the Parquet source's


def test_metadata_rows(folder: Path) -> None:
    rows = [
        {"file_name": "cat/1.png", "question": "q", "answer": "a", "images": ["other.png"]},
        {"file_names": ["cat/1.png", "dog/1.png"], "question": "two?", "answer": "b"},
        {"file_name": 3, "question": "q"},
        {"file_name": "", "question": "q"},
        {"file_name": "cat/1.png", "answer": "c"},
    ]
    path = folder / "metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "[]\n")
    first, second, *bad = open_data(str(folder))
    assert isinstance(first, Sample) and [ref.path for ref in first.images] == [folder / "cat" / "1.png"]
    assert isinstance(second, Sample) and [ref.open().size for ref in second.images] == [(3, 2), (3, 2)]
    assert bad == [
        BadRow(f"{path}:3", "no 'file_name'"),
        BadRow(f"{path}:4", "no 'file_name'"),
        BadRow(f"{path}:5", "neither 'question' nor 'messages'"),
        BadRow(f"{path}:6", "not a JSON object but list"),
    ]
