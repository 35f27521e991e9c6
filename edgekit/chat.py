"""Prompts from messages: the checkpoint's own chat template, rendered without transformers."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from edgekit.errors import CheckpointError, DataError
from edgekit.families import read_optional_json
from edgekit.sandbox import Exhausted, Sandbox, run

Message = dict[str, Any]


def question(text: str, images: int = 1) -> list[Message]:
    """One user turn: images first, then the text."""
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def count_images(messages: list[Message]) -> int:
    """Image parts in a conversation."""
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return sum(part.get("type") == "image" for parts in contents for part in parts)


def read_chat_template(folder: Path) -> str:
    """The chat template of a checkpoint: chat_template.jinja, chat_template.json, or inside tokenizer_config.json.

    Raises:
        CheckpointError: there is none.
    """
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = read_optional_json(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
    raise CheckpointError(
        f"{folder} has no chat template.", fix="Add a chat_template.jinja; the model's original folder has one."
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **settings: Any) -> str:
    # jinja2's own escapes for HTML and sorts keys; a prompt wants the text as it is.
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **settings)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training masks; in a prompt it only shows its body."""

    tags: set[str] = {"generation"}  # noqa: RUF012 - an instance variable in the base class's eyes

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


@cache
def _environment() -> Sandbox:
    # The same settings, filters and globals as transformers' apply_chat_template, so that templates render alike.
    extensions = [_Generation, loopcontrols]
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.add_filter("tojson", _tojson)
    environment.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now}
    return environment


@cache
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


def render(
    template: str, messages: list[Message], special: dict[str, str] | None = None, *, generation_prompt: bool = True
) -> str:
    """The prompt for the assistant's next turn, or the conversation alone.

    Args:
        template: Jinja source; run in a sandbox, its steps and what it makes bounded.
        messages: Roles and contents.
        special: Special tokens the template may name, such as bos_token.
        generation_prompt: Open the assistant's turn.
    Raises:
        DataError: the template refuses these messages, or does more than one may.
    """
    given = {"messages": messages, "add_generation_prompt": generation_prompt, **(special or {})}
    try:
        return run(_compiled(template).render, given)
    except Exhausted as error:
        raise DataError(
            "The model's chat template does more than one may.", why=str(error), fix="Do not use this template."
        ) from error
    except Exception as error:  # a stranger's program: it may divide by zero as well as refuse
        why = str(error) or type(error).__name__
        raise DataError("The model's chat template refuses these messages.", why=why) from error
