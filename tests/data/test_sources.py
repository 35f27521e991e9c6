"""Every data source: good rows, and each kind of bad row with its place and reason."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.data import BadRow, ImageRef, Sample, easy_vqa, make_sample, open_data, samples
from edgekit.data.jsonl import rows as jsonl_rows
from edgekit.errors import DataError, MissingExtraError


def png(color: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (8, 6)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


def noise() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(stream, "PNG")
    return stream.getvalue()


NOISE = noise()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(png())
    return tmp_path


def write_jsonl(folder: Path, *lines: Any, name: str = "q.jsonl") -> str:
    path = folder / name
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return str(path)


def test_jsonl_good_rows(images: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "two?"}]
    spec = write_jsonl(
        images,
        {"question": "one?", "image": "a.png", "answer": "yes"},
        b"\n",
        {"messages": [{"role": "user", "content": parts}], "images": ["a.png"], "answer": 3, "id": "x"},
        {"question": "no image?", "answer": None},
    )
    first, second, third = (row for row in open_data(spec))
    assert isinstance(first, Sample) and isinstance(second, Sample) and isinstance(third, Sample)
    assert (first.id, first.text, first.answer, first.location) == ("line-1", "one?", "yes", f"{spec}:1")
    assert first.images[0].open().size == (8, 6)
    assert (second.id, second.text, second.answer, second.location) == ("x", "two?", "3", f"{spec}:3")
    assert third.images == () and third.answer is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1, broken\n', "not valid JSON: Expecting property name enclosed in double quotes at column 10"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "not valid JSON: Exceeds the limit"),
        (b"[1, 2]\n", "not a JSON object but list"),
        (b'{"question": "\xff?"}\n', "not UTF-8: byte 14 is 0xff"),
        ({"answer": "yes"}, "neither 'question' nor 'messages'"),
        ({"question": "  ", "answer": "yes"}, "'question' is blank"),
        ({"question": "q", "image": 7}, "an image is int"),
        ({"question": "q", "answer": [["a"]]}, "'answer' is list, not text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}]},
            "1 image parts but there are 0 images",
        ),
        ({"messages": [{"content": "q"}]}, "a message has no role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content is neither"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "the last message is not the user's"),
        (b"[" * 100_000 + b"\n", "not valid JSON"),
    ],
)
def test_jsonl_bad_rows_name_their_line_and_do_not_stop(images: Path, line: Any, reason: str) -> None:
    good = {"question": "q", "answer": "a"}
    spec = write_jsonl(images, good, line, good)
    before, bad, after = open_data(spec)
    assert isinstance(before, Sample) and isinstance(after, Sample)
    assert isinstance(bad, BadRow)
    assert bad.location == f"{spec}:2"
    assert reason in bad.reason


def test_jsonl_with_a_byte_order_mark(images: Path) -> None:
    spec = write_jsonl(images, b"\xef\xbb\xbf" + json.dumps({"question": "q", "answer": "a"}).encode())
    assert isinstance(next(open_data(spec)), Sample)


@given(st.binary(max_size=400))
def test_jsonl_reads_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "f.jsonl"
    path.write_bytes(content)
    for row in jsonl_rows(str(path)):
        assert isinstance(row, (Sample, BadRow))


@given(st.lists(st.tuples(st.text(min_size=1).filter(str.strip), st.text()), max_size=5))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("trip") / "f.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs), encoding="utf-8")
    read = [(row.text, row.answer) for row in jsonl_rows(str(path)) if isinstance(row, Sample)]
    assert read == pairs


def test_rows_are_streamed(images: Path) -> None:
    """The hundred-thousandth line is not JSON and the file is never read that far."""
    path = images / "long.jsonl"
    with path.open("w") as stream:
        stream.writelines(json.dumps({"question": str(i), "answer": "a"}) + "\n" for i in range(100_000))
        stream.write("{broken\n")
    taken = list(itertools.islice(open_data(str(path)), 3))
    assert [row.text for row in taken if isinstance(row, Sample)] == ["0", "1", "2"]
    assert len(list(samples(str(path), limit=5))) == 5
    with pytest.raises(DataError, match=r"long\.jsonl:100001: not valid JSON"):
        list(samples(str(path)))


def test_parquet_with_bytes_structs_and_paths(images: Path) -> None:
    rows = [
        {"question": "bytes?", "images": [{"bytes": png(), "path": None}], "answer": "a"},
        {"question": "path?", "images": [{"bytes": None, "path": "a.png"}], "answer": "b"},
        {"question": None, "images": [], "answer": "c"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), images / "one.parquet")
    first, second, third = open_data(str(images / "one.parquet"))
    assert isinstance(first, Sample) and isinstance(second, Sample) and isinstance(third, BadRow)
    assert first.images[0].open().size == second.images[0].open().size == (8, 6)
    assert third.location.endswith("one.parquet row 3")


def test_parquet_folder_and_damage(images: Path) -> None:
    folder = images / "shards"
    folder.mkdir()
    for number in (1, 0):
        table = pa.Table.from_pylist([{"question": f"q{number}", "answer": "a"}])
        pq.write_table(table, folder / f"{number}.parquet")
    assert [row.text for row in open_data(str(folder)) if isinstance(row, Sample)] == ["q0", "q1"]
    whole = (folder / "0.parquet").read_bytes()
    (folder / "0.parquet").write_bytes(whole[:-9])
    bad, good = open_data(str(folder))  # the damaged shard does not stop the next one
    assert isinstance(bad, BadRow) and bad.location == str(folder / "0.parquet") and "cannot be read" in bad.reason
    assert isinstance(good, Sample) and good.text == "q1"
    with pytest.raises(DataError, match=r"0\.parquet: cannot be read"):
        list(samples(str(folder)))


def test_image_folder_by_answer_and_by_metadata(images: Path) -> None:
    for answer in ("cat", "dog"):
        (images / "sorted" / answer).mkdir(parents=True)
        (images / "sorted" / answer / "1.png").write_bytes(png())
    rows = [row for row in open_data(str(images / "sorted")) if isinstance(row, Sample)]
    assert [(row.id, row.answer, row.text) for row in rows] == [
        ("cat/1.png", "cat", "What is this?"),
        ("dog/1.png", "dog", "What is this?"),
    ]
    (images / "sorted" / "question.txt").write_text("Which animal?\n")
    assert {row.text for row in samples(str(images / "sorted"))} == {"Which animal?"}
    listed = [{"file_name": "a.png", "question": "q", "answer": "x"}, {"question": "q"}]
    write_jsonl(images, *listed, name="metadata.jsonl")
    good, bad = open_data(str(images))
    assert isinstance(good, Sample) and good.images[0].open().size == (8, 6)
    assert isinstance(bad, BadRow) and bad.reason == "no 'file_name'" and bad.location.endswith("metadata.jsonl:2")


def test_datasets_folder_and_disk(images: Path) -> None:
    import datasets

    table = {"question": ["one?", "two?"], "image": [{"bytes": png(), "path": None}] * 2, "answer": ["a", "b"]}
    stored = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    stored.save_to_disk(images / "disk")
    (images / "folder").mkdir()
    stored.to_parquet(images / "folder" / "train.parquet")
    for spec in (f"datasets:{images / 'disk'}:train", f"datasets:{images / 'folder'}:train"):
        rows = list(samples(spec))
        assert [(row.text, row.answer) for row in rows] == [("one?", "a"), ("two?", "b")]
        assert rows[0].images[0].open().size == (8, 6)
        assert isinstance(rows[0].images[0].data, bytes)  # left encoded until it is opened
    with pytest.raises(DataError, match="cannot load"):
        next(open_data(f"datasets:{images / 'nowhere'}:train"))
    with pytest.raises(DataError, match="is not datasets:"):
        next(open_data("datasets:only"))


def test_unknown_spec() -> None:
    with pytest.raises(DataError, match=r"No data at 'missing\.jsonl'"):
        open_data("missing.jsonl")


def test_empty_and_answerless(images: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        list(samples(write_jsonl(images, b"\n")))
    with pytest.raises(DataError, match="no answer"):
        list(samples(write_jsonl(images, {"question": "q"})))


@pytest.mark.parametrize(
    "content", [b"", b"hello", png()[:40], NOISE[: len(NOISE) // 2]], ids=["empty", "text", "header only", "cut short"]
)
def test_images_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match="Cannot read the image"):
        ImageRef(path=tmp_path / "bad.png").open()
    with pytest.raises(DataError, match="Cannot read the image"):
        ImageRef(data=content).open()


def test_an_image_too_large_to_be_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="decompression bomb"):
        ImageRef(data=png(size=(8, 8))).open()


def test_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No image at"):
        ImageRef(path=tmp_path / "none.png").open()


def test_easy_vqa_is_whole() -> None:
    train, test = list(samples("easy-vqa:train")), list(samples("easy-vqa:test"))
    assert (len(train), len(test)) == (38_575, 9_673)
    assert (train[0].text, train[0].answer, train[0].id) == ("what is the blue shape?", "rectangle", "train-00000")
    assert len({row.id for row in train}) == len(train)
    assert len({row.answer for row in train}) == 13
    assert train[0].images[0].open().size == (64, 64)
    folders = {row.images[0].path.parent for row in train if row.images[0].path is not None}
    assert folders.isdisjoint(row.images[0].path.parent for row in test if row.images[0].path is not None)


def test_easy_vqa_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(easy_vqa, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"edgekit\[demo\]"):
        open_data("easy-vqa:train")
    with pytest.raises(DataError, match="no split 'dev'"):
        open_data("easy-vqa:dev")


def test_make_sample_takes_bare_bytes() -> None:
    row = make_sample({"question": "q", "image": png(), "answer": "a"}, ident="1", location="here")
    assert isinstance(row, Sample) and row.images[0].open().size == (8, 6)
