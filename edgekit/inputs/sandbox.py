"""Chat templates of strangers: Jinja with counted steps, and with bounds on what one rendering may make.

jinja2's sandbox keeps a template from the machine, and not from its time and memory: a few lines of it can multiply
strings, lists and loops without end. Here every loop, call, filter, test, operator, literal and piece of output is a
step that is counted, what a step makes is measured, and what it would make is estimated first where one step can
multiply. The bounds are some hundred times above what the templates of known models need.
"""

from __future__ import annotations

import functools
import re
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MOST_TEMPLATE = 200_000
"""Characters; the longest known have some 30,000."""
MOST_STEPS = 200_000
MOST_MADE = 16_000_000
"""Characters and items of all that a rendering makes."""
MOST_SIZE = 4_000_000
"""Characters and items of one value."""
MOST_ITEMS = 200_000
MOST_BITS = 4096
MOST_ARGUMENT = 1_000_000
"""Of a whole number given to a function."""
MOST_DEPTH = 64
MOST_SECONDS = 1.0
"""Processor time of this thread."""
COUNTED, LOOPED, JOINED = "counted", "counted_loop", "counted_concat"
# One call of these can make the product of what it is given.
MULTIPLIES = frozenset(
    ("replace", "join", "indent", "wordwrap", "xmlattr", "urlize", "tojson", "expandtabs", "translate", "maketrans")
).union(("format", "format_map", "center", "ljust", "rjust", "zfill", "batch", "slice"))


_NESTED = re.compile(r"\{[^{}]*\{")  # a width that is itself a field


class Exhausted(TemplateError):
    """A template does more than one may."""


@dataclass
class _Spent:
    """What a rendering has used."""

    began: float = field(default_factory=time.thread_time)
    steps: int = 0
    made: int = 0
    given: dict[int, int] = field(default_factory=dict)
    """Weights of what it was given, by id: they stay where they are while it runs."""

    def step(self, made: int = 0) -> None:
        """Count one."""
        self.steps += 1
        self.made += made
        if self.steps > MOST_STEPS:
            raise Exhausted(f"it takes more than {MOST_STEPS:,} steps")
        if self.made > MOST_MADE:
            raise Exhausted(f"it makes more than {MOST_MADE:,} characters")
        if time.thread_time() - self.began > MOST_SECONDS:
            raise Exhausted(f"it takes more than {MOST_SECONDS:g} s")


_SPENT: ContextVar[_Spent | None] = ContextVar("spent", default=None)


def run(render: Callable[..., str], given: dict[str, Any]) -> str:
    """Call a template's `render` within the bounds.

    Args:
        render: Of a template of `Sandbox`.
        given: What it may name.

    Raises:
        Exhausted: it does too much.
    """
    spent = _Spent()
    _weight(given, spent.given, 0)
    token = _SPENT.set(spent)
    try:
        return render(**given)
    finally:
        _SPENT.reset(token)


def _step(made: int = 0) -> None:
    if (spent := _SPENT.get()) is not None:
        spent.step(made)


def _weigh(value: Any) -> int:
    """Characters and items of a value as it would be written out, what stands twice in it twice.

    Raises:
        Exhausted: above MOST_SIZE, or nested too deep; a whole number of more than MOST_BITS.
    """
    if isinstance(value, (str, bytes)):
        if len(value) > MOST_SIZE:
            raise Exhausted(f"a text of {len(value):,} characters")
        return len(value)
    spent = _SPENT.get()
    if spent is not None and (known := spent.given.get(id(value))) is not None:
        return known
    return _weight(value, ChainMap({}, {} if spent is None else spent.given), 0)


def _holds(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, set, frozenset, Namespace))


def _weight(value: Any, known: MutableMapping[int, int], depth: int) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise Exhausted(f"a number of more than {MOST_BITS} bits")
    if not _holds(value):
        return 1
    if (weight := known.get(id(value))) is not None:
        return weight
    if depth > MOST_DEPTH:
        raise Exhausted(f"a value nested more than {MOST_DEPTH} deep")
    known[id(value)] = 1
    # A namespace answers for its attributes, so its own dictionary is asked for past it.
    inner = object.__getattribute__(value, "_Namespace__attrs") if isinstance(value, Namespace) else value
    parts = (*inner.keys(), *inner.values()) if isinstance(inner, dict) else inner
    if len(parts) > MOST_ITEMS:
        raise Exhausted(f"a value of {len(parts):,} items")
    weight = 1
    for part in parts:
        weight += _weight(part, known, depth + 1)
        if weight > MOST_SIZE:
            raise Exhausted(f"a value of more than {MOST_SIZE:,} characters")
    known[id(value)] = weight
    return weight


def _before(name: str, given: list[Any]) -> list[Any]:
    """Look at what a function is given; what is read once is read here where its length counts.

    Raises:
        Exhausted: it would make too much.
    """
    if name in MULTIPLIES:
        given = [list(one) if isinstance(one, Iterator) else one for one in given]
    sizes = []
    for one in given:
        sizes.append(_weigh(one))
        if isinstance(one, int):
            if abs(one) > MOST_ARGUMENT and name != "safe_range":  # which has a bound of its own
                raise Exhausted(f"{name} of {str(one)[:20]}")
            sizes[-1] = abs(one)
    if name in MULTIPLIES and sizes and max(1, sizes[0]) * (1 + sum(sizes[1:])) > MOST_SIZE:
        raise Exhausted(f"{name} of more than {MOST_SIZE:,} characters")
    if name in ("format", "format_map") and given:
        _check_format(given[0])
    if name == "sum" and any(map(_holds, given[1:])):
        raise Exhausted("a sum of lists")  # each adds the whole of those before it
    return given


def _check_format(text: Any) -> None:
    if isinstance(text, (str, bytes)):
        shown = text if isinstance(text, str) else text.decode(errors="replace")
        if re.search(r"\d{5}|%(\(\w*\))?[-+ #0\d.]*\*", shown) or _NESTED.search(re.sub(r"\{\{|\}\}", "", shown)):
            raise Exhausted("a format as wide as that")


def _after(value: Any) -> Any:
    """Count a step and what it made."""
    size = _weigh(value)
    _step(size if isinstance(value, (str, bytes)) else len(value) if _holds_many(value) else 0)
    return value


def _holds_many(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, set, frozenset))


class _Loop:
    """What a loop goes through, each round a step."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[Any]:
        for one in self._inner:
            _step()
            yield one

    def __len__(self) -> int:
        return len(self._inner)  # a TypeError where it has none, as of the thing itself


@pass_context
def _counted(context: Context, value: Any) -> Any:
    return _after(value)


@pass_context
def _looped(context: Context, value: Any) -> Any:
    iter(value)  # an error of its own where it is none
    return _Loop(value)


@pass_context
def _joined(context: Context, parts: Any) -> str:
    _weigh(parts)
    return str(_after("".join(str(part) for part in parts)))


@pass_context
def _shown(context: Context, value: Any) -> Any:
    """Each piece of output, constant text too."""
    _step(_weigh(value))
    return value


def _guarded(name: str, function: Any) -> Callable[..., Any]:
    """A filter or test that counts; jinja2's marks of what it is passed first are kept."""
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def counting(*args: Any, **kwargs: Any) -> Any:
        given = _before(name, [*args[passed:], *kwargs.values()])
        args = (*args[:passed], *given[: len(args) - passed])
        return _after(function(*args, **kwargs))

    return counting


def _check_product(operator: str, left: Any, right: Any, sizes: tuple[int, int]) -> None:
    """Numbers, or a text or list and a number; sizes are those of both."""
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**" and left.bit_length() * max(right, 0) > MOST_BITS:
            raise Exhausted(f"a number of more than {MOST_BITS} bits")
        return
    for count, size in ((left, sizes[1]), (right, sizes[0])):
        if operator == "*" and isinstance(count, int) and size * max(count, 0) > MOST_SIZE:
            raise Exhausted("a repetition as long as that")


class _Counting(NodeTransformer):
    """Puts the counting into a template's tree."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, LOOPED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), JOINED)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)  # which goes through `finalize`, where it is counted

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, COUNTED) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, COUNTED) if isinstance(node.arg, nodes.Slice) else node

    def _value(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, COUNTED)

    visit_List = visit_Dict = visit_Compare = _value


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates are run by `run`."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, finalize=_shown)
        self.globals.pop("lipsum")  # makes text at random
        own: dict[str, Callable[..., Any]] = {COUNTED: _counted, LOOPED: _looped, JOINED: _joined}
        self.filters.update({name: _guarded(name, function) for name, function in self.filters.items()} | own)
        self.tests.update({name: _guarded(name, function) for name, function in self.tests.items()})

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """One more filter, counted like the others."""
        self.filters[name] = _guarded(name, function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MOST_TEMPLATE:
            raise Exhausted(f"it has {len(source):,} characters")
        tree: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """As jinja2's, with an estimate before what multiplies."""
        sizes = _weigh(left), _weigh(right)
        if operator == "%":
            _check_format(left)
        if operator in ("*", "**"):
            _check_product(operator, left, right, sizes)
        return _after(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """As jinja2's, which names its arguments so that a template can use any name."""
        name = getattr(__obj, "__name__", "")
        inner = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(inner, "__self__", None)
        owned = [owner] if isinstance(owner, (str, bytes)) else []
        given = _before(str(name), [*owned, *args, *kwargs.values()])[len(owned) :]
        return _after(super().call(__context, __obj, *given[: len(args)], **kwargs))
