"""The forms that people's data come in: each read as its own tools read it, told by name, and written in edgekit's."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from edgekit import api
from edgekit.cli import build
from edgekit.data import BadRow, ImageRef, Sample, make_sample, open_data, samples
from edgekit.data.turns import escape, marks_in
from edgekit.errors import DataError

cli = CliRunner()


def png(shade: int = 9) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (shade, 6), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


PNG = png()
B64 = base64.b64encode(PNG).decode()
IMAGE, A, B = {"type": "image"}, ImageRef(path=Path("/base/a.png")), ImageRef(path=Path("/base/b.png"))


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def make(row: dict[str, Any]) -> Sample | BadRow:
    return make_sample(row, ident="line-7", location="here:7", base=Path("/base"))


def good(row: dict[str, Any]) -> Sample:
    made = make(row)
    assert isinstance(made, Sample), made
    return made


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def said(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(words)]}


ASKED = [user(IMAGE, text("what?"))]
ROWS: list[tuple[str, dict[str, Any], list[dict[str, Any]], tuple[ImageRef, ...]]] = [
    ("question", {"question": "what?", "image": "a.png", "answer": "cat"}, ASKED, (A,)),
    (
        "messages ending with the answer",  # TRL: texts, images beside them
        {
            "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "cat"}],
            "images": ["a.png"],
        },
        ASKED,
        (A,),
    ),
    ("messages ending with the answer", {"messages": [*ASKED, said("cat")], "images": ["a.png"]}, ASKED, (A,)),
    ("messages", {"messages": ASKED, "images": ["a.png"], "answer": "cat"}, ASKED, (A,)),
    ("messages", {"messages": json.dumps(ASKED), "images": ["a.png"], "answer": "cat"}, ASKED, (A,)),
    ("prompt and completion", {"prompt": "what?", "completion": "cat", "image": "a.png"}, ASKED, (A,)),
    ("prompt and completion", {"prompt": ASKED, "completion": [said("cat")], "images": ["a.png"]}, ASKED, (A,)),
    (
        "messages ending with the answer; images in their parts",
        {"messages": [user({"type": "image", "image": "a.png"}, text("what?")), said("cat")]},
        ASKED,
        (A,),
    ),
    (
        "messages ending with the answer; images in their parts",
        {"messages": [user({"type": "image", "url": "file:///base/a.png"}, text("what?")), said("cat")]},
        ASKED,
        (A,),
    ),
    (
        "messages ending with the answer; images in their parts",  # Qwen's, without types
        {"messages": [user({"image": "a.png"}, {"text": "what?"}), said("cat")]},
        ASKED,
        (A,),
    ),
    (
        "messages ending with the answer; image_url",
        {"messages": [user(text("what?"), {"type": "image_url", "image_url": {"url": "a.png"}}), said("cat")]},
        [user(text("what?"), IMAGE)],
        (A,),
    ),
    (
        "messages ending with the answer; image_url",
        {
            "messages": [
                user(
                    {"type": "input_text", "text": "what?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{B64}"},
                ),
                {"role": "assistant", "content": [{"type": "output_text", "text": "cat"}]},
            ]
        },
        [user(text("what?"), IMAGE)],
        (ImageRef(data=PNG),),
    ),
    (
        "conversations; <image> marks",
        {
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "cat"}],
        },
        ASKED,
        (A,),
    ),
    (
        "conversations; <image> marks",
        {
            "image": "a.png",
            "conversations": [{"from": "human", "value": "what?\n<image>"}, {"from": "gpt", "value": "cat"}],
        },
        [user(text("what?"), IMAGE)],
        (A,),
    ),
    (
        "conversations; <image> marks",  # MiniCPM-V: images by name, the order of the text counts
        {
            "image": {"<image_00>": "b.png", "<image_01>": "a.png", "<image_02>": None},
            "conversations": [
                {"role": "user", "content": "<image_01> or <image_00>?"},
                {"role": "assistant", "content": "cat"},
            ],
        },
        [user(IMAGE, text(" or "), IMAGE, text("?"))],
        (A, B),
    ),
    (
        "messages ending with the answer; <image> marks",  # ms-swift
        {
            "messages": [
                {"role": "user", "content": "<image><image>which?"},
                {"role": "assistant", "content": "cat"},
            ],
            "images": ["b.png", "a.png"],
        },
        [user(IMAGE, IMAGE, text("which?"))],
        (B, A),
    ),
    (
        "query and response; <image> marks",
        {
            "system": "be brief",
            "history": [["<image>one?", "dog"]],
            "query": "<image>two?",
            "response": "cat",
            "images": ["a.png", "b.png"],
        },
        [
            {"role": "system", "content": [text("be brief")]},
            user(IMAGE, text("one?")),
            said("dog"),
            user(IMAGE, text("two?")),
        ],
        (A, B),
    ),
    (
        "instruction and output",
        {"instruction": "name it", "input": "in a word", "output": "cat", "image": "a.png"},
        [user(IMAGE, text("name it\nin a word"))],
        (A,),
    ),
    (
        "texts",  # The Cauldron
        {
            "images": ["a.png"],
            "texts": [{"user": "one?", "assistant": "dog"}, {"user": "two?", "assistant": "cat", "source": "s"}],
        },
        [user(IMAGE, text("one?")), said("dog"), user(text("two?"))],
        (A,),
    ),
    (
        "messages ending with the answer",  # the parts' own indices say whose image is whose
        {
            "messages": [user({**IMAGE, "index": 1}, text("?"), {**IMAGE, "index": 0}), said("cat")],
            "images": ["a.png", "b.png"],
        },
        [user(IMAGE, text("?"), IMAGE)],
        (B, A),
    ),
]


@pytest.mark.parametrize(("form", "row", "messages", "images"), ROWS)
def test_each_form_is_read_and_told(
    form: str, row: dict[str, Any], messages: list[Any], images: tuple[ImageRef, ...]
) -> None:
    sample = good(row)
    assert (sample.form, sample.messages, sample.images, sample.answer) == (form, messages, images, "cat")


@pytest.mark.parametrize(("form", "row", "messages", "images"), ROWS)
def test_each_form_in_every_source(
    tmp_path: Path, form: str, row: dict[str, Any], messages: list[Any], images: tuple[ImageRef, ...]
) -> None:
    """JSONL, Parquet, `datasets` and an image folder's metadata; Arrow's nulls change nothing."""
    for name, shade in (("a.png", 9), ("b.png", 12)):
        (tmp_path / name).write_bytes(png(shade))
    row = json.loads(json.dumps(row).replace("file:///base", f"file://{tmp_path}"))
    other = {"question": "other?", "answer": "x"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(other) + "\n")
    specs = [str(tmp_path / "q.jsonl")]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "set" / "train.parquet")
    specs += [str(tmp_path / "q.parquet")]
    wanted = [tmp_path / ref.path.name if ref.path else ref.data for ref in images]
    for spec in specs:
        sample = next(iter(open_data(spec)))
        assert isinstance(sample, Sample), sample
        assert (sample.messages, sample.answer, sample.form) == (messages, "cat", form)
        assert [ref.path or ref.data for ref in sample.images] == wanted
    (streamed,) = open_data(f"datasets:{tmp_path / 'set'}:train")
    assert isinstance(streamed, Sample) and (streamed.messages, streamed.answer) == (messages, "cat")


def test_images_in_parts_of_a_datasets_folder_stay_encoded(tmp_path: Path) -> None:
    import datasets

    part = {"type": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}
    turn = {"role": datasets.Value("string"), "content": datasets.List(part)}
    row = {
        "messages": [
            user({"type": "image", "text": None, "image": {"bytes": PNG, "path": None}}, {**text("q"), "image": None}),
            {"role": "assistant", "content": [{**text("cat"), "image": None}]},
        ]
    }
    stored = datasets.Dataset.from_list([row], features=datasets.Features({"messages": datasets.List(turn)}))
    stored.save_to_disk(str(tmp_path / "set"))
    (sample,) = samples(f"datasets:{tmp_path / 'set'}:train")
    assert sample.images == (ImageRef(data=PNG),) and sample.answer == "cat"
    assert sample.messages == [user(IMAGE, text("q"))]


def test_metadata_of_an_image_folder_may_hold_a_conversation(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "cat"}]
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "conversations": turns}) + "\n")
    (sample,) = samples(str(tmp_path))
    assert sample.images[0].open().size == (9, 6) and sample.answer == "cat" and sample.messages == ASKED


@pytest.mark.parametrize("value", [f"data:image/png;base64,{B64}", B64, {"bytes": B64}, {"bytes": PNG, "path": None}])
def test_embedded_images(value: Any) -> None:
    assert good({"question": "q", "image": value}).images == (ImageRef(data=PNG),)


def test_base64_broken_into_lines_and_without_padding() -> None:
    broken = "\n".join(B64[place : place + 60] for place in range(0, len(B64), 60)).rstrip("=")
    assert good({"question": "q", "image": f"data:image/png;base64,{broken}"}).images[0].open().size == (9, 6)


def test_a_file_address_is_unquoted() -> None:
    assert good({"question": "q", "image": "file:///a%20b/c.png"}).images == (ImageRef(path=Path("/a b/c.png")),)


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "cat"}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": TURNS, "answer": "dog"}, "the conversation ends with 'cat' but the answer is 'dog'"),
        ({"messages": [TURNS[1]]}, "the last message is not the user's: before the answer"),
        ({"messages": [TURNS[0], {"role": "system", "content": "s"}]}, "the last message is not the user's, nor"),
        ({"messages": [TURNS[0], {"role": "asistant", "content": "s"}]}, "'asistant', did you mean 'assistant'?"),
        ({"messages": [user(IMAGE, text("q")), user(IMAGE, text("q"))], "images": ["a.png"]}, "2 image parts but"),
        ({"question": "<image> and <image>?", "image": "a.png"}, "2 marks <image> but there are 1 images"),
        ({"question": "what does <image> mean?"}, "1 marks <image> but there are 0 images; where a mark is meant"),
        ({"messages": [user({**IMAGE, "index": 3}, text("q"))], "images": ["a.png"]}, "the indices [3]"),
        (
            {"messages": [user({"type": "image", "image": "a.png"}, text("q"))], "images": ["a.png"]},
            "in the messages and in 'images' too",
        ),
        ({"messages": [user({"type": "image", "url": "a", "path": "b"}, text("q"))]}, "names 2 images"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": [IMAGE]}]}, "the answer holds an image"),
        (
            {"messages": [user({"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}, text("q"))]},
            "an image is a URL, 'https://a.b/c.png'",
        ),
        ({"prompt": "q", "completion": "a", "videos": ["a.mp4"]}, "'videos' are not read"),
        ({"prompt": None, "chosen": [], "rejected": []}, "a pair of 'chosen' and 'rejected' is not read"),
        ({"prompt": 3, "completion": "a"}, "'prompt' is int, neither text nor turns"),
        ({"caption": "a cat", "image": "a.png"}, "neither 'question' nor 'messages', only 'caption'"),
        (
            {"image": {"<image_00>": "a.png"}, "conversations": [{"role": "user", "content": "q"}]},
            "names 0 of the images",
        ),
    ],
)
def test_refused_with_a_reason(row: dict[str, Any], reason: str) -> None:
    bad = make(row)
    assert isinstance(bad, BadRow) and reason in bad.reason, bad


def test_nothing_remote_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for place in ("https://a.b/c.png", "HTTP://a.b/c.png", "s3://b/c.png", "hf://b/c.png", "ftp://a/c.png"):
        bad = make({"question": "q", "image": place})
        assert isinstance(bad, BadRow) and "fetch it" in bad.reason


def test_a_literal_mark_among_image_parts_is_text_and_warned_of(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    row = {"messages": [user(IMAGE, text("is <image> a tag?"))], "images": ["a.png"], "answer": "yes"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    found = api.data_check(str(tmp_path / "q.jsonl"))
    assert found.findings.good == 1 and "a literal '<image>'" in found.findings.warnings[0].reason


def test_marks_are_escaped_so_that_no_tokenizer_knows_them(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from edgekit.inputs.processor import Processor

    row = {"question": "is <image> a tag of HTML, or <img>?", "image": "a.png", "answer": "<image> is none"}
    other = {"question": "<image> or <image>?", "image": "a.png", "answer": "a"}
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(other) + "\n")
    out = tmp_path / "out" / "q.jsonl"
    assert api.data_check(str(tmp_path / "q.jsonl"), to=out).written == 0 and not out.exists()
    assert api.data_check(str(tmp_path / "q.jsonl"), to=out, escape_marks=True).written == 2
    first, second = samples(str(out))
    assert second.messages == [user(IMAGE, text("< image > or < image >?"))] and first.answer == "< image > is none"
    processor = Processor.load(tiny_checkpoint)
    ids = processor.encode(second.messages, [second.images[0].open()]).ids
    wanted = processor.encode([user(IMAGE, text("what?"))], [second.images[0].open()]).ids
    image = processor.tokenizer.token_to_id("<image>")
    assert (ids == image).sum() == (wanted == image).sum()


@given(st.lists(st.sampled_from(["<image>", "<|image_pad|>", "</img>", "<", "|", "image", ">", " ", "a"]), max_size=12))
def test_nothing_special_is_left_after_an_escape(pieces: list[str]) -> None:
    assert not marks_in(escape("".join(pieces)))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_written_and_read_again_every_form_is_the_same(tmp_path: Path, suffix: str) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(len(name)))
    lines = [
        json.dumps({"id": str(number), **row}).replace("file:///base", f"file://{tmp_path}")
        for number, (_, row, _, _) in enumerate(ROWS)
    ]
    lines.append(json.dumps({"question": "many?", "answer": ["a", "b", "b"], "dataset": "vqa"}))
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    out = tmp_path / f"out.{suffix}"
    result = cli.invoke(build(), ["data", "check", str(tmp_path / "q.jsonl"), "--to", str(out), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["written"] == len(lines) and told["forms"]["conversations; <image> marks"] == 3
    before, after = list(samples(str(tmp_path / "q.jsonl"))), list(samples(str(out)))
    assert [vars(s) | {"location": ""} for s in after] == [
        vars(s) | {"location": "", "form": "messages"} for s in before
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.png", "b.png", "q.jsonl", out.name])


def test_bad_rows_leave_no_file_unless_they_are_dropped(tmp_path: Path) -> None:
    spec, out = tmp_path / "q.jsonl", tmp_path / "out.jsonl"
    spec.write_text('{"question": "q", "answer": "a"}\n{"question": 3}\n')
    result = cli.invoke(build(), ["data", "check", str(spec), "--to", str(out)])
    assert result.exit_code == 1 and "--drop-bad writes the good ones" in result.stderr
    assert f"bad      {spec}:2: 'question' is int, not text" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]
    out.write_text("old")
    assert cli.invoke(build(), ["data", "check", str(spec), "--to", str(out)]).exit_code == 1
    assert out.read_text() == "old"
    result = cli.invoke(build(), ["data", "check", str(spec), "--to", str(out), "--drop-bad"])
    assert result.exit_code == 0 and "written  1 rows" in result.stdout
    (sample,) = samples(str(out))
    assert (sample.id, sample.text, sample.answer) == ("line-1", "q", "a")


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    for name in ("out.csv", "out"):
        with pytest.raises(DataError, match=r"neither in \.jsonl nor in \.parquet"):
            api.data_check(str(tmp_path / "q.jsonl"), to=tmp_path / name)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="it is a folder"):
        api.data_check(str(tmp_path / "q.jsonl"), to=tmp_path / "folder.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.jsonl", "q.jsonl"]


def test_parquet_is_written_as_it_streams(tmp_path: Path) -> None:
    """30 MB of embedded images: no more than a row group is held at once."""
    schema = pa.schema([("question", pa.string()), ("image", pa.binary()), ("answer", pa.string())])
    with pq.ParquetWriter(tmp_path / "q.parquet", schema) as writer:
        for _ in range(4):
            rows = [{"question": "q", "image": PNG, "answer": "a"}] * 400
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    assert api.data_check(str(tmp_path / "q.parquet"), to=tmp_path / "o.parquet").written == 1600
    assert pq.ParquetFile(tmp_path / "o.parquet").num_row_groups == 4  # 512 rows each


def test_the_form_is_shown(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"messages": TURNS}) + "\n")
    shown = cli.invoke(build(), ["data", "show", str(tmp_path / "q.jsonl")]).stdout
    assert "(messages ending with the answer)" in shown
    checked = cli.invoke(build(), ["data", "check", str(tmp_path / "q.jsonl")]).stdout
    assert "form     messages ending with the answer: 1 rows" in checked
