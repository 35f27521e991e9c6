"""YAML that people write, read with limits and without YAML's surprises; every value knows its line.

A bomb of aliases, a file of 100 MB, brackets a hundred thousand deep or a pipe end in a message at once. What YAML 1.1
reads otherwise than it is meant is a problem with its line: a key that stands twice, `1:30` (a number to base 60) and
`010` (octal). Keys are always the text that stands there. Nothing but mappings, lists, texts, numbers, true, false and
null is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edgekit.errors import EdgekitError
from edgekit.files import read_regular

MOST_BYTES = 1 << 18
MOST_VALUES = 20_000
"""Values of a document, those that an alias repeats counted again."""
DEEPEST = 24

_TAG = "tag:yaml.org,2002:"
_OCTAL = re.compile(r"[-+]?0[0-7]+")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Document:
    """What was read.

    Attributes:
        value: Mappings, lists, texts, numbers, true, false, None; no part of it is shared.
        lines: Where each value stands, by its dotted path: `teachers[0].r_max` -> `line 3`.
        spelled: Words such as `no` that YAML took for true or false, by path.
        problems: What is wrong, each with its line.
        flawed: Paths of the values that these are about; something of the same kind stands in their place.
    """

    value: Any = None
    lines: dict[str, str] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    flawed: set[str] = field(default_factory=set)

    def all_problems(self, found: list[str]) -> list[str]:
        """The document's own problems, and those found in its values, each with its line."""
        return self.problems + [self.told(one) for one in found if one.partition(": ")[0] not in self.flawed]

    def told(self, problem: str) -> str:
        """A problem that begins with the path of its value (`trainer.steps: ...`), with the line where that stands."""
        path = problem.partition(": ")[0]
        if (word := self.spelled.get(path)) is not None:
            problem += f" (YAML reads {word} without quotes as {word.lower() in ('yes', 'on')}; quote it)"
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{self.lines[path]}: {problem}" if path else problem


def read_yaml_file(path: Path, what: str, error: type[EdgekitError]) -> Document:
    """A document from a file.

    Args:
        path: A regular file of at most MOST_BYTES.
        what: What it is, for messages: "the recipe".
        error: Raised for what cannot be read at all.
    """
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as cause:
        fix = "edgekit init  writes one." if what == "the recipe" else ""
        raise error(f"Cannot read {what} {path}.", why=str(cause), fix=fix) from cause
    return read_yaml(text, str(path), error)


def read_yaml(text: str, source: str, error: type[EdgekitError], *, path: str = "", line: str = "") -> Document:
    """A document from its text.

    Args:
        text: One YAML document.
        source: Where it was read, for messages.
        error: Raised when it is no YAML, or beyond a limit.
        path: Dotted path of the value itself, where it is part of another.
        line: What to call its place instead of `line N`.
    """
    try:
        _check_limits(text)
        node = yaml.compose(text, Loader=_LOADER)
        built = _Builder(line)
        built.document.value = built.value(node, path, 0) if node is not None else None
    except yaml.YAMLError as cause:
        raise error(f"Cannot read {source}: it is not valid YAML.", why=str(cause)) from cause
    except _TooMuchError as cause:
        raise error(f"Cannot read {source}: it is too large.", why=str(cause)) from cause
    return built.document


class _TooMuchError(Exception):
    """A limit was passed."""


def write_yaml(value: Any, **settings: Any) -> str:
    """The YAML of plain values, in their order, letters of all scripts as they are.

    Args:
        value: Of mappings, lists, texts, numbers, booleans and None.
        settings: Of `yaml.safe_dump`.
    """
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, **settings)
    if "\x85" in text:  # written as it is, and read as the end of a line, by PyYAML itself
        text = yaml.safe_dump(value, sort_keys=False, **settings)
    return text


def _check_limits(text: str) -> None:
    """Depth and number of what stands there, before anything is built."""
    if len(text) > MOST_BYTES:
        raise _TooMuchError(f"It has {len(text):,} characters; at most {MOST_BYTES:,} are read.")
    depth = count = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.NodeEvent)
        if depth > DEEPEST:
            raise _TooMuchError(f"It is more than {DEEPEST} levels deep.")
        if count > MOST_VALUES:
            raise _TooMuchError(f"It holds more than {MOST_VALUES:,} values.")


class _Builder:
    """Turns nodes into a document.

    Args:
        line: What to call every place; "" for `line N`.
    """

    def __init__(self, line: str) -> None:
        self.document = Document()
        self._line = line
        self._count = 0

    def value(self, node: Any, path: str, depth: int) -> Any:
        """The value of a node, each alias built anew."""
        self._count += 1
        if depth > DEEPEST or self._count > MOST_VALUES:
            raise _TooMuchError(f"Its aliases make it more than {MOST_VALUES:,} values, or {DEEPEST} levels deep.")
        self.document.lines.setdefault(path, self._place(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}[{place}]", depth + 1) for place, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: Any, path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in node.value:
            if key.tag == f"{_TAG}merge":
                self._merge(found, item, path, depth)
        seen: dict[str, Any] = {}
        for key, item in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, path, "a key is no text")
                continue
            inner = f"{path}.{key.value}" if path else key.value
            if key.value in seen:
                self._problem(key, inner, f"stands there twice, the first time in {self._place(seen[key.value])}")
                continue
            seen[key.value] = key
            self.document.lines[inner] = self._place(key)
            found[key.value] = self.value(item, inner, depth + 1)
        return found

    def _merge(self, found: dict[str, Any], node: Any, path: str, depth: int) -> None:
        """Keys of `<<: *other`, or of a list of such, the first of which counts."""
        for own in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(own, yaml.MappingNode):
                self._problem(own, path, "<< is followed by no mapping")
                continue
            for key, value in self._mapping(own, path, depth + 1).items():
                found.setdefault(key, value)

    def _scalar(self, node: Any, path: str) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind in ("str", "timestamp", "value"):
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return self._truth(text, path)
        if kind in ("int", "float"):
            return self._number(node, kind, path)
        self._problem(node, path, f"a value of the kind {node.tag!r} is not read")
        return None

    def _truth(self, text: str, path: str) -> bool:
        if text.lower() not in ("true", "false"):
            self.document.spelled[path] = text
        return text.lower() in ("true", "yes", "on")

    def _number(self, node: Any, kind: str, path: str) -> int | float:
        plain = node.value.replace("_", "")
        if ":" in plain:
            self._problem(node, path, f"{plain} is a number to base 60 in YAML; quote it, or write the number")
        elif len(plain) > 40:
            self._problem(node, path, "a number of more than 40 digits")
        elif kind == "float":
            return float(plain.lower().replace(".inf", "inf").replace(".nan", "nan"))
        elif _OCTAL.fullmatch(plain):
            decimal = plain.lstrip("+-0") or "0"
            self._problem(node, path, f"{plain} is octal in YAML, {int(plain, 8)}; write {decimal}")
            return int(decimal)
        else:
            return int(plain, 0)
        return 1

    def _place(self, node: Any) -> str:
        return self._line or f"line {node.start_mark.line + 1}"

    def _problem(self, node: Any, path: str, text: str) -> None:
        self.document.flawed.add(path)
        self.document.problems.append(f"{self._place(node)}: {path or 'the top level'}: {text}")


def below(paths: dict[str, Any], path: str) -> Iterator[str]:
    """Those of the paths that name `path` or something inside it."""
    return (one for one in list(paths) if one == path or one.startswith((f"{path}.", f"{path}[")))
