"""Rows of every spelling to samples, and the kinds that are refused with a reason."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.data import BadRow, ImageRef, Sample, jsonl, make_sample, open_data, samples
from edgekit.errors import DataError


def make(**row: Any) -> Sample | BadRow:
    return make_sample(row, ident="line-7", location="here:7", base=Path("/base"))


def good(**row: Any) -> Sample:
    made = make(**row)
    assert isinstance(made, Sample), made
    return made


def turn(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": 5}, "'question' is int, not text"),
        ({"question": "q", "id": ["a"]}, "'id' is list, not text"),
        ({"question": "q", "answer": True}, "'answer' is True, not text"),
        ({"question": "q", "answer": float("nan")}, "'answer' is nan, not text"),
        ({"question": "q", "answer": b"yes"}, "'answer' is bytes, not text"),
        ({"question": "\ud800"}, "half a surrogate pair, '\\ud800', is no text"),
        ({"question": "q", "answer": "a\udfff"}, "half a surrogate pair, '\\udfff', is no text"),
        ({"question": "q", "id": "\ud800"}, "half a surrogate pair, '\\ud800', is no text"),
        ({"question": "q", "image": ""}, "an image path is empty"),
        ({"question": "q", "image": "https://a.b/c.png"}, "an image is a URL, 'https://a.b/c.png'; only files"),
        ({"question": "q", "image": "s3://a/b.png"}, "an image is a URL, 's3://a/b.png'; only files"),
        ({"question": "q", "image": "data:image/png,abc"}, "an image is a data URI without ';base64,'"),
        ({"question": "q", "image": "data:image/png;base64,A*=="}, "an image's data URI is no base64"),
        ({"question": "q", "image": "file://host/a.png"}, "an image is on another machine, 'file://host/a.png'"),
        ({"question": "q", "image": {"bytes": None, "path": None}}, "an image has neither bytes nor a path"),
        ({"question": "q", "image": {"bytes": "aGVsbG8="}}, "an image's 'bytes' is str, not bytes"),
        ({"question": "q", "image": {"path": 3}}, "an image is int, not a path or bytes"),
        ({"question": "q", "images": ["a.png", None]}, "an image is NoneType, not a path or bytes"),
        ({"messages": []}, "neither 'question' nor 'messages'"),
        ({"messages": "q"}, "neither 'question' nor 'messages'"),
        ({"messages": ["q"]}, "a message has no role"),
        ({"messages": turn({"type": "text"})}, "a message's content is neither text nor a list"),
        ({"messages": turn({"type": "video", "video": "a.mp4"})}, "but holds a part of type 'video'"),
        ({"messages": turn("bare")}, "a message's content is neither text nor a list"),
        ({"messages": turn({"type": "image"}), "images": []}, "have 1 image parts but there are 0 images"),
        ({"messages": [{"role": "user", "content": "q", "raw": b"x"}]}, "the messages are not plain JSON"),
    ],
)
def test_refused_with_a_reason(row: dict[str, Any], reason: str) -> None:
    bad = make(**row)
    assert isinstance(bad, BadRow)
    assert bad.location == "here:7" and reason in bad.reason


def test_null_is_absent() -> None:
    """Arrow gives every row every column."""
    row = good(id=None, question="q", messages=None, image="a.png", images=None, answer=None)
    assert (row.id, row.answer, row.images) == ("line-7", None, (ImageRef(path=Path("/base/a.png")),))


def test_null_keys_of_messages_are_dropped() -> None:
    """A template that asks `'image' in part` would take every text part of a Parquet file for an image."""
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "q", "image": None}]
    row = good(messages=[{"role": "user", "content": parts, "tool_calls": None, "name": "me"}], images=["a.png"])
    assert row.messages == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}], "name": "me"}
    ]
    assert row.text == "q"


def test_numbers_and_paths() -> None:
    row = good(question="q", id=12, answer=3, images=["../up.png", "/abs.png"])
    assert (row.id, row.answer) == ("12", "3")
    assert [ref.path for ref in row.images] == [Path("/base/../up.png"), Path("/abs.png")]


def test_an_embedded_image_says_where_it_was() -> None:
    (ref,) = good(question="q", image=b"no image").images
    with pytest.raises(DataError, match="Cannot read the image embedded in here:7"):
        ref.open()
    assert ref == ImageRef(data=b"no image")  # the place is no part of the image


@pytest.mark.parametrize("error", [RuntimeError("plug-in"), struct.error("short"), EOFError("cut")])
def test_whatever_a_decoder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def decode(*_: Any, **__: Any) -> None:
        raise error

    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", decode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(DataError, match=str(error)):
        ImageRef(path=tmp_path / "a.png").open()


# --------------------------------------------------------------------------------------------------------------- JSONL


def test_a_line_too_long_is_read_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "LONGEST_LINE_BYTES", 100)
    line = b'{"question": "q"}'
    fits = line[:-1] + b" " * (99 - len(line)) + b"}\n"
    path = tmp_path / "q.jsonl"
    path.write_bytes(fits + b"x" * 5000 + b"\n" + line + b"\n" + b'"' + b"y" * 3_000_000)
    first, second, third, fourth = jsonl.rows(str(path))
    assert isinstance(first, Sample) and isinstance(third, Sample) and third.location.endswith(":3")
    for number, row in ((2, second), (4, fourth)):
        assert row == BadRow(f"{path}:{number}", "the line is longer than 100 bytes")


class Watched(io.BytesIO):
    """Remembers the most it was asked for, and how far it was read."""

    largest = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        """As asked; a line without a bound is a failure."""
        assert size is not None and size > 0
        self.largest = max(self.largest, size)
        return super().readline(size)


def test_no_line_is_ever_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "LONGEST_LINE_BYTES", 1000)
    stream = Watched(b"x" * 10_000_000 + b"\n{}\n")
    lines = jsonl._lines(stream)
    assert next(lines) is None
    assert stream.largest <= 1 << 20
    assert next(lines) == b"{}\n"


def test_lines_are_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ends(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            """Three lines; asking for a fourth is a failure."""
            line = super().readline(size)
            assert line, "read further than asked"
            return line

    monkeypatch.setattr(Path, "open", lambda *_, **__: Ends(b'{"question": "q"}\n' * 3))
    rows = jsonl.rows(str(tmp_path / "q.jsonl"))
    assert [next(rows).location.rpartition(":")[2] for _ in range(3)] == ["1", "2", "3"]
    with pytest.raises(AssertionError, match="read further than asked"):
        next(rows)


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("{}\n")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"Cannot read .*q\.jsonl"):
        list(open_data(str(path)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
parts = st.fixed_dictionaries({}, optional={"type": st.sampled_from(["image", "text", "x"]), "text": json_values})
turns = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", 1]), "content": st.lists(parts) | st.text()}
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "question": json_values,
        "messages": st.lists(turns, max_size=2) | json_values,
        "images": st.lists(json_values, max_size=2) | json_values,
        "image": json_values | st.fixed_dictionaries({"bytes": json_values, "path": json_values}),
        "answer": json_values,
    },
)


@given(st.lists(rows, max_size=4))
def test_any_json_row_gives_a_sample_or_a_reason(tmp_path_factory: pytest.TempPathFactory, written: list[Any]) -> None:
    path = tmp_path_factory.mktemp("any") / "f.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    read = list(jsonl.rows(str(path)))
    assert len(read) == len(written)
    for number, row in enumerate(read, 1):
        assert row.location == f"{path}:{number}"
        if isinstance(row, Sample):  # can be stored and fed to a tokenizer
            json.dumps([row.id, row.messages, row.answer], ensure_ascii=False, allow_nan=True).encode()
            assert row.messages[-1]["role"] == "user" and isinstance(row.text, str)


# ---------------------------------------------------------------------------------------------------------- open_data


@pytest.mark.parametrize("spec", ["a" * 5000, "a\0b", "", "none.jsonl", "nowhere/"])
def test_what_is_no_data(spec: str) -> None:
    with pytest.raises(DataError, match="No data at"):
        open_data(spec)


@pytest.mark.parametrize("spec", ["", "  "])
def test_nothing_is_not_the_current_folder(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert [row.answer for row in open_data(".") if isinstance(row, Sample)] == ["cat"]
    with pytest.raises(DataError, match="No data at"):
        open_data(spec)


def test_a_file_of_another_kind_is_told_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="It exists, but is neither"):
        open_data(str(tmp_path / "q.csv"))
    with pytest.raises(DataError, match="It is neither"):
        open_data(str(tmp_path / "p.csv"))


def test_the_command_named_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "my questions.jsonl"
    path.write_text("nonsense\n")
    with pytest.raises(DataError, match=r"edgekit data check '.*my questions\.jsonl'"):
        list(samples(str(path)))
