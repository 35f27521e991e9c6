"""Files that hold the same twice: the one that counts in transformers counts here, and whoever disagrees is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit import console
from edgekit.errors import CheckpointError, DataError
from edgekit.inputs.agreement import compare_inputs
from edgekit.inputs.chat import question, read_chat_template
from edgekit.inputs.official import load_processor, official_inputs
from edgekit.inputs.processor import Processor

Maker = Callable[..., Path]
PROCESSOR, OWN, JINJA, TOKENIZER = (
    "processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"
)  # fmt: skip
NAMED = "additional_chat_templates/"


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """Every test is told once."""
    console.note_once.cache_clear()


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own, without weights."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors")))


def put(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def template(word: str) -> str:
    """One that shows which it is."""
    return (
        word + "{% for m in messages %}{% for c in m.content %}"
        "{% if c.type == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}"
    )


def test_a_nested_image_processor_beside_a_stale_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a fine-tune saved by transformers 5 beside an older file: one tile, not five."""
    stale = json.loads((folder / "preprocessor_config.json").read_text()) | {"size": {"longest_edge": 128}}
    put(folder, PROCESSOR, image_processor={**stale, "do_image_splitting": False})
    (folder / "preprocessor_config.json").write_text(json.dumps({**stale, "do_image_splitting": True}))
    image = Image.fromarray(np.zeros((64, 64, 3), np.uint8) + 9)
    pixels = Processor.load(folder).encode(question("q"), [image]).pixels
    assert pixels is not None and pixels.values.shape == (1, 3, 64, 64)
    found = compare_inputs(Processor.load(folder), load_processor(folder), [(question("q"), [image])])
    assert found["prompt_ids_equal"] == 1 and found["pixel_max_abs"] == 0
    told = capsys.readouterr().err
    assert told.count(f"{PROCESSOR} and preprocessor_config.json disagree on do_image_splitting;") == 1


WHERE: list[tuple[dict[str, Any], str]] = [
    ({TOKENIZER: "t"}, "t"),
    ({TOKENIZER: "t", JINJA: "j"}, "j"),
    ({TOKENIZER: "t", JINJA: "j", OWN: "o"}, "o"),
    ({TOKENIZER: "t", JINJA: "j", OWN: "o", PROCESSOR: "p"}, "p"),
    ({JINJA: "j", PROCESSOR: "p"}, "p"),
    ({JINJA: "j", NAMED + "tool_use.jinja": "x"}, "j"),
    ({NAMED + "default.jinja": "d", NAMED + "rag.jinja": "x"}, "d"),
    ({NAMED + "default.jinja": "d", JINJA: "j"}, "j"),
    ({TOKENIZER: [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "d"}]}, "d"),
    ({TOKENIZER: {"default": "d", "rag": "x"}}, "d"),
    ({PROCESSOR: {"default": "d", "rag": "x"}, JINJA: "j"}, "d"),
    ({JINJA: "j", TOKENIZER: [{"name": "rag", "template": "x"}]}, "j"),
]  # fmt: skip


def lay(folder: Path, files: dict[str, Any]) -> None:
    """Templates in files, each as its file has them; any others are taken away."""
    for name in (PROCESSOR, TOKENIZER):
        path = folder / name
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    (folder / JINJA).unlink()

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [{**one, "template": template(one["template"])} for one in value]
        return {k: template(v) for k, v in value.items()} if isinstance(value, dict) else template(value)

    for name, value in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if name.endswith(".jinja"):
            (folder / name).write_text(template(value))
        else:
            put(folder, name, chat_template=whole(value))


@pytest.mark.parametrize(("files", "wanted"), WHERE, ids=lambda value: json.dumps(value).replace(" ", "")[:70])
def test_where_templates_are_found(
    folder: Path, files: dict[str, Any], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(folder, files)
    assert read_chat_template(folder) == read_chat_template(folder) == template(wanted)
    told = capsys.readouterr().err
    ours = Processor.load(folder).encode(question("q"), [Image.new("RGB", (64, 64), (1, 2, 3))])
    theirs = official_inputs(load_processor(folder), question("q"), [Image.new("RGB", (64, 64), (1, 2, 3))])
    np.testing.assert_array_equal(ours.ids, theirs["input_ids"])
    names = [name for name in (PROCESSOR, OWN, JINJA, TOKENIZER) if name in files]
    single = [name for name in names if not isinstance(files[name], list | dict)]
    for name in single[1:]:
        assert told.count(f"{names[0]} and {name} hold different chat templates; {names[0]} counts") == 1
    assert told == "" or len(single) > 1 or len(names) > 1


def test_equal_templates_are_not_worth_a_word(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay(folder, {TOKENIZER: "same", JINJA: "same", OWN: "same"})
    read_chat_template(folder)
    assert capsys.readouterr().err == ""


def test_templates_that_cannot_be_found(folder: Path) -> None:
    lay(folder, {})
    with pytest.raises(CheckpointError, match="no chat template"):
        read_chat_template(folder)
    put(folder, TOKENIZER, chat_template=[{"name": "rag", "template": "x"}])
    with pytest.raises(CheckpointError, match="none is named 'default'"):
        read_chat_template(folder)
    put(folder, TOKENIZER, chat_template=7)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: chat_template is no text"):
        read_chat_template(folder)
    (folder / OWN).write_text("{}")
    with pytest.raises(CheckpointError, match=r"chat_template\.json holds no chat_template"):
        read_chat_template(folder)
    put(folder, OWN, chat_template="o")
    (folder / NAMED).mkdir()
    (folder / NAMED / "rag.jinja").write_text("x")
    with pytest.raises(CheckpointError, match=r"holds chat_template\.json and additional_chat_templates/rag\.jinja"):
        Processor.load(folder)


def flag(folder: Path, content: str, **flags: bool) -> None:
    """Set the flags of an added token in tokenizer.json."""
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    tokens = [token for token in value["added_tokens"] if token["content"] == content]
    assert len(tokens) == 1
    tokens[0].update(flags)
    path.write_text(json.dumps(value))


ENDS = {
    "tiny": "<end_of_utterance>",
    "smolvlm": "<end_of_utterance>",
    "qwen2_5_vl": "<|im_end|>",
    "gemma3": "<end_of_turn>",
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("flags", [{"rstrip": True}, {"lstrip": True, "normalized": True}, {"single_word": True}])
def test_flags_of_special_tokens(
    tiny_of: Maker, folder: Path, tmp_path: Path, name: str, flags: dict[str, bool]
) -> None:
    """Idefics3's processor takes them away from its own tokens, and others leave them."""
    if name != "tiny":
        folder = Path(shutil.copytree(tiny_of(name), tmp_path / "o", ignore=shutil.ignore_patterns("*.safetensors")))
    flag(folder, ENDS[name], **flags)
    talk = [*question("what  is there?  "), {"role": "assistant", "content": [{"type": "text", "text": " a circle "}]}]
    talk += [{"role": "user", "content": [{"type": "text", "text": "  sure ? "}]}]
    image = Image.new("RGB", (64, 64), (200, 10, 10))
    ours, theirs = Processor.load(folder), load_processor(folder)
    found = compare_inputs(ours, theirs, [(talk, [image])])
    assert found["prompt_ids_equal"] == 1 and found["pixel_max_abs"] == 0
    # So it is when a bundle is read, without transformers.
    ours.text.write(folder)
    again = Processor.load(folder, prepared=True)
    assert again.encode(talk, [image]).ids.tolist() == ours.encode(talk, [image]).ids.tolist()


def test_rstrip_would_change_ids(folder: Path) -> None:
    """The input of the test above does tell: tokenizer.json alone, read as it is, gives other ids."""
    from tokenizers import Tokenizer

    flag(folder, "<end_of_utterance>", rstrip=True)
    processor = Processor.load(folder)
    text = processor.prompt(question("q", 0), [])
    plain = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert plain != processor.encode(question("q", 0), []).ids[0].tolist()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_truncation_that_a_trainer_saved(folder: Path, side: str, capsys: pytest.CaptureFixture[str]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(40, direction=side)
    tokenizer.enable_padding(length=None, pad_token="<|im_end|>", pad_id=0)
    tokenizer.save(str(folder / "tokenizer.json"))
    ours, theirs = Processor.load(folder), load_processor(folder)
    assert "cuts prompts to 40 tokens, as transformers does" in capsys.readouterr().err
    short, long = question("q"), question("what is there? " * 30)
    words = question("what is there? " * 30, 0)
    image = Image.new("RGB", (64, 64), (200, 10, 10))
    for read in (ours, None):
        if read is None:
            ours.text.write(folder)
            read = Processor.load(folder, prepared=True)
        for messages, images in ((short, [image]), (words, [])):
            expected = official_inputs(theirs, messages, images)["input_ids"]
            np.testing.assert_array_equal(read.encode(messages, images).ids, expected)
        assert read.encode(words, []).ids.shape == (1, 40)
        if side == "left":  # the image stands at the beginning
            with pytest.raises(DataError, match="cut to 40 tokens, and an image with it"):
                read.encode(long, [image])
            with pytest.raises(DataError, match="refuses this prompt"):
                official_inputs(theirs, long, [image])
        # Answers are no prompts.
        assert len(read.answer_ids(short, "a circle and more " * 30)) > 40


@pytest.mark.parametrize(
    ("values", "words"),
    [({"split_special_tokens": True}, "split_special_tokens"), ({"padding": "max_length"}, "padding")],
)
def test_settings_of_the_tokenizer_that_are_refused(folder: Path, values: dict[str, Any], words: str) -> None:
    put(folder, TOKENIZER, **values)
    with pytest.raises(CheckpointError, match=words):
        Processor.load(folder)


def test_a_tokenizer_that_begins_each_prompt(folder: Path) -> None:
    """transformers lets it, unless the template has written its beginning already."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin = tokenizer.token_to_id("<|im_start|>")
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)])
    tokenizer.save(str(folder / "tokenizer.json"))
    image = Image.new("RGB", (64, 64), (200, 10, 10))
    for word, count in (("Say: ", 1), ("<|im_start|>Say: ", 1), ("Say: <|im_start|>", 2)):
        (folder / JINJA).write_text(template(word))
        expected = official_inputs(load_processor(folder), question("q"), [image])["input_ids"]
        ids = Processor.load(folder).encode(question("q"), [image]).ids
        np.testing.assert_array_equal(ids, expected)
        assert ids[0].tolist().count(begin) == count


def test_a_class_that_builds_the_tokenizer_anew(tiny_of: Maker, tmp_path: Path) -> None:
    """Its own regular expressions and marks instead of tokenizer.json's; or it cannot, for want of an unknown token."""
    image = Image.new("RGB", (64, 64), (200, 10, 10))
    asked = question("It's  3.14, ünïcode\n\n\n'll 東京 don't 12345!")
    for name, kind in (("qwen2_5_vl", "Qwen2Tokenizer"), ("gemma3", "GemmaTokenizer")):
        place = tmp_path / name
        shutil.copytree(tiny_of(name), place, ignore=shutil.ignore_patterns("*.safetensors"))
        put(place, TOKENIZER, tokenizer_class=kind)
        ours, theirs = Processor.load(place), load_processor(place)
        assert type(theirs.tokenizer).__name__ == kind
        if name == "gemma3":
            with pytest.raises(DataError, match="<unk>"):
                ours.encode(asked, [image])
            with pytest.raises(DataError, match="<unk>"):
                official_inputs(theirs, asked, [image])
            continue
        found = compare_inputs(ours, theirs, [(asked, [image])])
        assert found["prompt_ids_equal"] == 1 and found["pixel_max_abs"] == 0
