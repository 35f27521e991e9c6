"""Prompts from messages: the checkpoint's own chat template, rendered without transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from edgekit import strict_json
from edgekit.console import note_once
from edgekit.errors import CheckpointError, DataError
from edgekit.families import read_optional_json
from edgekit.inputs.sandbox import Exhausted, Sandbox, run

Message = dict[str, Any]
PROCESSOR, OWN, JINJA, TOKENIZER = (
    "processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"
)  # fmt: skip
NAMED = "additional_chat_templates"
MOST_TEMPLATE_BYTES = 1 << 20


def question(text: str, images: int = 1) -> list[Message]:
    """One user turn: images first, then the text."""
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def read_chat_template(folder: Path) -> str:
    """The chat template of a checkpoint: what transformers' processor has, or its tokenizer where that has none.

    In this order (`ProcessorMixin.get_processor_dict`): processor_config.json, chat_template.json, chat_template.jinja,
    tokenizer_config.json. Of several templates with names the one named `default` counts. Where files disagree a note
    on stderr names both.

    Raises:
        CheckpointError: there is none, or transformers could not tell which one counts.
    """
    found = _templates(folder)
    first, template = next(found, ("", None))
    if template is None:
        raise CheckpointError(
            f"{folder} has no chat template.", fix="Add a chat_template.jinja; the model's original folder has one."
        )
    with suppress(CheckpointError):  # what is wrong with a template that does not count is nobody's concern
        for name, other in found:
            if other != template:
                note_once(
                    f"{folder}: {first} and {name} hold different chat templates; {first} counts, as in transformers"
                )
    return template


def _templates(folder: Path) -> Iterator[tuple[str, str]]:
    """Names of files, and the template each holds, the first that counts first."""
    named = sorted((folder / NAMED).glob("*.jinja"))
    if named and (folder / OWN).exists():
        raise CheckpointError(
            f"{folder} holds {OWN} and {NAMED}/{named[0].name}.",
            why="transformers refuses to choose between them.",
            fix=f"Rename {OWN}'s template to {JINJA}.",
        )
    for name in (PROCESSOR, OWN):
        value = read_optional_json(folder / name)
        if value.get("chat_template") is not None:
            yield name, _default(folder / name, value["chat_template"])
        elif name == OWN and (folder / name).exists():
            raise CheckpointError(f"{folder / name} holds no chat_template.", fix=f"Remove it, or add a {JINJA}.")
    if (folder / JINJA).exists():
        yield JINJA, _source(folder / JINJA)
    elif named:
        texts = {path.stem: _source(path) for path in named}
        yield f"{NAMED}/default.jinja", _default(folder / NAMED, texts)
    own: Any = read_optional_json(folder / TOKENIZER).get("chat_template")
    if isinstance(own, list):  # as older tokenizers have several
        own = {one.get("name"): one.get("template") for one in own if isinstance(one, dict)}
    if own is not None:
        yield TOKENIZER, _default(folder / TOKENIZER, own)


def _source(path: Path) -> str:
    try:
        return strict_json.read_bytes(path, MOST_TEMPLATE_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:  # also UnicodeDecodeError
        raise CheckpointError(f"Cannot read {path}.", why=str(error)) from error


def _default(path: Path, value: Any) -> str:
    """A template, or the one named `default` of several."""
    found = value.get("default") if isinstance(value, dict) else value
    if isinstance(found, str):
        return found
    if isinstance(value, dict):
        names = ", ".join(map(repr, value)) or "none"
        raise CheckpointError(
            f"{path} has several chat templates, and none is named 'default'.",
            why=f"There are: {names}.",
            fix="Name the one that questions are asked by 'default'.",
        )
    raise CheckpointError(f"{path}: chat_template is no text.")


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
