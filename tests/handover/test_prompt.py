"""The pieces of chat templates: found, written with, and refused by name where there are none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit import schema
from edgekit.demo import tiny
from edgekit.demo.architecture import CHAT_TEMPLATE
from edgekit.errors import BundleError, DataError
from edgekit.files import write_json
from edgekit.handover import prompt
from edgekit.handover.pieces import BLANKS, Drop, Pieces, Tokens, Unsupported, read_pieces
from edgekit.handover.prompt import assistant, find_pieces, system_text, user
from edgekit.inputs.chat import render

SPECIAL = {"bos_token": "<bos>"}
SMOLVLM, GEMMA3, LLAVA = (tiny.BLUEPRINTS.load(name).template for name in ("smolvlm", "gemma3", "llava_onevision"))
TEMPLATES = {"demo": CHAT_TEMPLATE, **{name: made.template for name, made in tiny.BLUEPRINTS.working()}}
# As the hub's folders have it: a system text is written into the first turn, in one of two forms.
GEMMA3_WHOLE = GEMMA3.replace(
    "{{ bos_token }}{%- for message in messages -%}",
    "{{ bos_token }}{%- set told = '' -%}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set told = messages[0]['content'][0]['text'] + '\n\n' -%}{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for message in messages -%}",
).replace(
    "{{ '<start_of_turn>' + role + '\n' }}", "{{ '<start_of_turn>' + role + '\n' + (told if loop.first else '') }}"
)
# LFM2.5's: a system text is no list, and what was thought is left out of earlier answers.
THINKING = (
    "{{- bos_token -}}{%- if messages[0]['role'] == 'system' -%}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' -}}"
    "{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for message in messages -%}{%- set ns = namespace(text='') -%}{%- for item in message['content'] -%}"
    "{%- set ns.text = ns.text + ('<image>' if item['type'] == 'image' else item['text']) -%}{%- endfor -%}"
    "{%- set text = ns.text -%}{%- if message['role'] == 'assistant' and '</think>' in text -%}"
    "{%- set text = text.split('</think>')[-1] | trim -%}{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + text + '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def found(template: str) -> Pieces:
    pieces = find(template)
    assert isinstance(pieces, Pieces), pieces
    return pieces


def find(template: str) -> Pieces | Unsupported:
    class Plain:
        def encode(self, text: str, add_special_tokens: bool) -> Any:
            return SimpleNamespace(ids=[5])

        def post_process(self, encoding: Any, pair: None, adds: bool) -> Any:
            return encoding

    text: Any = SimpleNamespace(tokenizer=Plain(), special=SPECIAL, limit=None)
    family = SimpleNamespace(adds_special_tokens=True)
    model: Any = SimpleNamespace(template=template, special=SPECIAL, text=text, family=family)
    return find_pieces(model)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_family_has_pieces(name: str) -> None:
    pieces = found(TEMPLATES[name])
    assert pieces.checked.conversations >= 200
    assert (pieces.system is None) == (name == "gemma3") == ("system" in pieces.refused)
    assert pieces.assistant is not None


def test_pieces_of_smolvlm_are_its_own() -> None:
    pieces = found(SMOLVLM)
    assert (pieces.begin.text, pieces.begin.image) == ("<|im_start|>User: ", "<|im_start|>User:")
    assert pieces.system is not None and pieces.system.before == "<|im_start|>System: "
    assert pieces.generation == "Assistant:" and pieces.image.piece == "<image>"
    talk = [user(None, " a "), assistant("yes"), user("b", None)]
    written = "<|im_start|>User:<image> a <end_of_utterance>\nAssistant: yes<end_of_utterance>\nUser: b<image>"
    assert pieces.render(talk) == written + "<end_of_utterance>\nAssistant:" == render(SMOLVLM, talk, SPECIAL)


def test_images_that_stand_first() -> None:
    pieces = found(LLAVA)
    assert pieces.image.first
    assert pieces.render([user("a", None)]) == "<|im_start|>user <image>\na<|im_end|><|im_start|>assistant\n"


def test_texts_that_are_trimmed() -> None:
    pieces = found(GEMMA3)
    assert pieces.user.text.trim and pieces.assistant is not None and pieces.assistant.trim
    assert "user\na<end" in pieces.render([user("\x1c\u2003 a\u0085\u3000\n")])
    assert BLANKS.strip() == "" and len(BLANKS) == 29


def test_a_system_text_inside_the_first_turn() -> None:
    pieces = found(GEMMA3_WHOLE)
    assert pieces.system is not None and not pieces.system.trim
    talk = [system_text(" be brief "), user(None, "a")]
    assert pieces.render(talk) == render(GEMMA3_WHOLE, talk, SPECIAL)
    assert "<bos><start_of_turn>user\n be brief \n\n<start_of_image>a" in pieces.render(talk)


def test_thoughts_that_later_turns_leave_out() -> None:
    pieces = found(THINKING)
    assert pieces.assistant is not None and pieces.assistant.drop == Drop("</think>", "both")
    assert pieces.system is not None and not pieces.system.as_parts
    talk = [user("a"), assistant("hm </think> no </think>\n yes \n"), user("b")]
    assert "assistant\nyes<|im_end|>" in pieces.render(talk) == render(THINKING, talk, SPECIAL)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("hello", "leaves a text out"),
        ("", "leaves a text out"),
        ("{{ 'a' * 10000000000 }}", "refuses a conversation"),
        ("{{ raise_exception('no') }}", "no"),
        (CHAT_TEMPLATE.replace("<image>", ""), "nothing for an image"),
        (SMOLVLM.replace("{{line['text']}}", "{{line['text'] | upper}}"), "leaves a text out"),
        (SMOLVLM.replace("{{line['text']}}", "{{line['text'] | replace('\n', ' ')}}"), "blanks around"),
        (SMOLVLM.replace("{{line['text']}}", "{{line['text'] | replace('12', '')}}"), "where its pieces give"),
        (SMOLVLM.replace("{{ '<image>' }}", "{{ '<image>' }}{{ loop.index }}"), ""),
        ("{{ strftime_now('%Y') }}" + SMOLVLM, "day's date"),
        (SMOLVLM + "{{ messages | length }}", ""),
    ],
)
def test_a_template_without_pieces_is_refused_by_name(template: str, why: str) -> None:
    pieces = find(template)
    assert isinstance(pieces, Unsupported) or "assistant" in pieces.refused
    if isinstance(pieces, Unsupported):
        assert why in pieces.unsupported


def test_what_does_not_fit_alone_is_refused_alone() -> None:
    twice = SMOLVLM.replace("<end_of_utterance>\n", "<end_of_utterance>\n{% if loop.index > 4 %}!{% endif %}")
    pieces = found(twice)  # wrong from the third turn on only, which no probe looks at
    assert pieces.assistant is None and "where its pieces give" in pieces.refused["assistant"]
    assert pieces.system is not None and pieces.render([user("a")])
    with pytest.raises(DataError, match="one turn"):
        pieces.render([user("a"), assistant("b"), user("c")])


def test_a_template_that_takes_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "MOST_SECONDS", -1.0)
    pieces = find(SMOLVLM + " ")  # one that was not asked before
    assert isinstance(pieces, Unsupported) and "longer than" in pieces.unsupported


def test_orders_that_are_no_conversation() -> None:
    pieces = found(SMOLVLM)
    for wrong in ([], [assistant("a")], [user("a"), user("b")], [user("a"), assistant("b")], [system_text("a")]):
        with pytest.raises(DataError, match="turns"):
            pieces.render(wrong)


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    for pieces in (found(GEMMA3), found(THINKING), Unsupported(1, "why")):
        write_json(tmp_path / "prompt.json", schema.to_json(pieces))
        assert read_pieces(tmp_path / "prompt.json") == pieces
    write_json(tmp_path / "prompt.json", {**schema.to_json(found(GEMMA3)), "format": 2})
    with pytest.raises(BundleError, match="format"):
        read_pieces(tmp_path / "prompt.json")
    with pytest.raises(BundleError, match="Cannot read"):
        read_pieces(tmp_path / "none.json")


def test_tokens_that_a_tokenizer_adds(tiny_of: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    from edgekit.inputs.processor import Processor

    processor = Processor.load(tiny_of("gemma3"))
    assert prompt.tokens_of(processor) == Tokens()
    tokenizer = processor.text.tokenizer
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)])
    assert prompt.tokens_of(processor) == Tokens((2,), (1,), "<bos>")
