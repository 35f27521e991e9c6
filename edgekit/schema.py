"""Frozen dataclasses to and from JSON values, and their JSON Schema; every problem is listed at once.

Recipes, manifests and reports are all read by this one reader, so a mistyped key gets the same did-you-mean anywhere.
Field docs are the docstrings under each field.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import itertools
import math
import textwrap
import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from edgekit.errors import EdgekitError, did_you_mean, nearest

T = TypeVar("T")
MOST_PROBLEMS = 20
"""Shown of one document, and so many that are looked for: a stranger's file may hold a million."""
MOST_SHOWN = 80
"""Characters of a value in a message."""


def read(cls: type[T], value: Any, problems: list[str], path: str = "") -> T | None:
    """A dataclass from a JSON value.

    Args:
        cls: A dataclass whose fields are bool, int, float, str, Literal, optional, tuple, dict or dataclasses.
        value: What YAML or JSON gave.
        problems: Collects one line for each problem, with the dotted path to it.
        path: Dotted path of `value` itself.

    Returns:
        The instance; None when this part has a problem.
    """
    if not isinstance(value, dict):
        problems.append(f"{path or 'the top level'}: expected a mapping, found {_kind(value)}")
        return None
    fields, hints = _shape_of(typing.cast(Any, cls))  # mypy does not take a type[T] for hashable
    before = len(problems)
    for key in itertools.islice((key for key in value if key not in fields), 2 * MOST_PROBLEMS):
        near = nearest(str(key)[:MOST_SHOWN], fields, cutoff=0.5)
        problems.append(f"{_join(path, key)}: unknown key" + (f", did you mean {near!r}?" if near else ""))
    given: dict[str, Any] = {}
    for key, field in fields.items():
        if key in value:
            given[field.name] = _read_value(hints[field.name], value[key], problems, _join(path, key))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{_join(path, key)}: missing")
    return cls(**given) if len(problems) == before else None


def read_document(cls: type[T], value: Any, *, newest: int, what: str, source: str, error: type[EdgekitError]) -> T:
    """A versioned document from its JSON value.

    Args:
        cls: A dataclass with a `schema_version`.
        value: What JSON gave.
        newest: The newest version this edgekit reads.
        what: The document's kind, for messages.
        source: Where it was read, for messages.
        error: Raised when it is newer or not valid; every problem is listed.
    """
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > newest:
        raise error(
            f"{source} has {what} schema {version}; this edgekit reads up to {newest}.",
            fix="Upgrade it:  pip install --upgrade edgekit",
        )
    problems: list[str] = []
    document = read(cls, value, problems)
    if document is None:
        raise error(f"{source} is not a valid {what}:", why=listed(problems))
    return document


def listed(problems: Sequence[str]) -> str:
    """Problems for a message, a line each; the first few where there are very many."""
    left = len(problems) - MOST_PROBLEMS
    return "\n".join([*problems[:MOST_PROBLEMS], *([f"... and {left:,} more problems"] if left > 0 else [])])


def to_json(value: Any) -> Any:
    """The JSON value of a dataclass, without the computed properties; the inverse of `read`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key_of(field): to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def key_of(field: dataclasses.Field[Any]) -> str:
    """A field's key in YAML and JSON: its name, without the underscore that keeps `from_` apart from Python's own."""
    return field.name.removesuffix("_")


def json_schema(cls: type[Any]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a dataclass, with the field docs as descriptions."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema_of(cls)}


@cache
def field_docs(cls: type[Any]) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    docs: dict[str, str] = {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docs[node.target.id] = inspect.cleandoc(text.value)
    return docs


@cache
def _shape_of(cls: type[Any]) -> tuple[dict[str, dataclasses.Field[Any]], dict[str, Any]]:
    """A dataclass's fields by key, and the types by name: once for a class, since a stranger's file may hold a hundred
    thousand of them and their text is compiled anew at each asking."""
    return {key_of(field): field for field in dataclasses.fields(cls)}, typing.get_type_hints(cls)


def _read_value(hint: Any, value: Any, problems: list[str], path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(args, value, problems, path)
    if origin is Literal:
        return _read_literal(args, value, problems, path)
    if dataclasses.is_dataclass(hint):
        return read(typing.cast(type[Any], hint), value, problems, path)
    if origin in (tuple, list):
        return _read_sequence(origin, args, value, problems, path)
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{path}: expected a mapping, found {_kind(value)}")
            return {}
        return {str(key): _read_value(args[1], item, problems, _join(path, key)) for key, item in value.items()}
    return _read_scalar(hint, value, problems, path)


def _read_scalar(hint: Any, value: Any, problems: list[str], path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            problems.append(f"{path}: expected a finite number, found one of hundreds of digits")
            return value
    if hint is float and isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-6 (no dot) as text
            value = float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{path}: expected a finite number, found {value}")
        return value
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        problems.append(f"{path}: expected {_name(hint)}, found {_kind(value)} {_shown(value)}")
    return value


def _read_union(args: tuple[Any, ...], value: Any, problems: list[str], path: str) -> Any:
    if value is None and type(None) in args:
        return None
    attempts: list[list[str]] = []
    for hint in (arg for arg in args if arg is not type(None)):
        found: list[str] = []
        result = _read_value(hint, value, found, path)
        if not found:
            return result
        attempts.append(found)
    if len(attempts) == 1:
        problems += attempts[0]
    else:
        names = " or ".join(_name(arg) for arg in args)
        problems.append(f"{path}: expected {names}, found {_kind(value)} {_shown(value)}")
    return None


def _read_literal(args: tuple[Any, ...], value: Any, problems: list[str], path: str) -> Any:
    if not any(value == arg and type(value) is type(arg) for arg in args):
        hint = did_you_mean(str(value)[:MOST_SHOWN], map(str, args), cutoff=0.5)
        problems.append(f"{path}: {_shown(value)} is not one of {', '.join(map(repr, args))}. {hint}".rstrip())
    return value


def _read_sequence(origin: Any, args: tuple[Any, ...], value: Any, problems: list[str], path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        problems.append(f"{path}: expected a list, found {_kind(value)} {_shown(value)}")
        return ()
    if (origin is tuple and len(args) == 2 and args[1] is Ellipsis) or origin is list:
        hints = [args[0]] * len(value)
    else:
        hints = list(args)
        if len(hints) != len(value):
            problems.append(f"{path}: expected {len(hints)} values, found {len(value)}")
            return ()
    items, most = [], len(problems) + 2 * MOST_PROBLEMS
    for i, (hint, item) in enumerate(zip(hints, value, strict=True)):
        items.append(_read_value(hint, item, problems, f"{path}[{i}]"))
        if len(problems) > most:
            break
    return origin(items)


def _schema_of(hint: Any) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints, docs = typing.get_type_hints(hint), field_docs(hint)
        properties = {}
        required = []
        for field in dataclasses.fields(hint):
            key = key_of(field)
            properties[key] = _schema_of(hints[field.name])
            if field.name in docs:
                properties[key] = {**properties[key], "description": docs[field.name]}
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                required.append(key)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema_of(arg) for arg in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return {
            "type": "array",
            "prefixItems": [_schema_of(arg) for arg in args],
            "minItems": len(args),
            "items": False,
        }
    if origin in (tuple, list):
        return {"type": "array", "items": _schema_of(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(args[1])}
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return {"type": names[hint]}


def _join(path: str, key: object) -> str:
    name = str(key) if len(str(key)) <= 1024 else f"{str(key)[:MOST_SHOWN]}..."
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long; a number of many digits takes long to write, and is refused by it."""
    try:
        text = repr(value)
    except ValueError:
        text = "of thousands of digits"
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {
        bool: "true/false",
        int: "a whole number",
        float: "a number",
        str: "text",
        dict: "a mapping",
        list: "a list",
    }
    return names.get(type(value), type(value).__name__)


def _name(hint: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing"}
    if get_origin(hint) is dict:
        return "a mapping"
    return names.get(hint, getattr(hint, "__name__", str(hint)))
