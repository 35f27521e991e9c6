"""Prompts: every template renders as transformers' apply_chat_template does, and none can do harm."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models

from edgekit.errors import DataError
from edgekit.inputs.chat import question, render

SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content %}{% set image_count.value = image_count.value + 1 %}"
    "Image {{ image_count.value }}: <|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INDENTED = """{{ bos_token }}
{% for message in messages %}
    {% if message.role == 'user' %}
        [INST] {{ message.content | map(attribute='text') | select('defined') | join(' ') | trim }} [/INST]
    {% else %}
        {{ message.content[0].text }}{{ eos_token }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
    >>
{% endif %}
"""
REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{% endfor %}"
)


def text(role: str, words: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": words}]}


TALKS = {
    "one": question("What is <this> & 'that' é?"),
    "two images": question("Which?", 2),
    "no image": question("Why?", 0),
    "turns": [
        *question("One?"),
        text("assistant", " It is.\n"),
        *question("Two?", 2),
        text("assistant", ""),
        text("user", "?"),
    ],
    "system": [text("system", "Be brief."), *question("One?")],
}


@pytest.mark.parametrize("template", [SMOLVLM, QWEN, INDENTED], ids=["smolvlm", "qwen", "indented"])
@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS)
def test_as_transformers_renders_it(template: str, talk: list[dict[str, Any]]) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    expected = theirs.apply_chat_template(talk, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert render(template, talk, {"bos_token": "<s>", "eos_token": "</s>"}) == expected


def test_smolvlm_by_hand() -> None:
    assert render(SMOLVLM, question("What?")) == ("<|im_start|>User:<image>What?<end_of_utterance>\nAssistant:")


def test_a_special_token_that_is_not_given_is_empty() -> None:
    assert render("[{{ bos_token }}]", question("q")) == "[]"
    assert render("[{{ bos_token }}]", question("q"), {"bos_token": "<s>"}) == "[<s>]"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (REFUSES, "no system turn"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 'x' }}", "can only concatenate list"),
        ("{{ messages[0].no.such }}", "has no attribute 'no'"),
        ("{{ ''.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{% set _ = messages.append(1) %}", "unsafe"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        ("{% include '/etc/passwd' %}", "no loader"),
    ],
)
def test_templates_that_refuse_fail_or_attack(template: str, why: str) -> None:
    with pytest.raises(DataError, match="chat template refuses these messages") as caught:
        render(template, TALKS["system"])
    assert why in caught.value.why


def test_a_question_has_its_images_first() -> None:
    assert [part["type"] for part in question("q", 2)[0]["content"]] == ["image", "image", "text"]
