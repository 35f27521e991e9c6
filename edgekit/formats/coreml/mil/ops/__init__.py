"""The registry of MIL operations: one function is one operation, found by its name.

To add one, write a function in a file of this folder, with the operation's own input names:

    @operation
    def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
        return alpha * torch.tanh(x * beta)

The annotation says what the function gets: `Tensor` the value itself, `int`, `float`, `bool`, `str`, `Ints` or `Bools`
a Python value read out of it, `list[Tensor]` or `list[Any]` one entry for each value of a variadic input, `Weight` a
matrix that may still be compressed (stored.py), `Frame` and
`list[Block]` the running program and the operation's nested blocks. A default makes an input optional. A trailing
underscore of the function's name is dropped (`abs_` is `abs`).

Rounding: a function gets its float16 tensors widened to float32 and its float32 results are rounded to float16, so
sums are accumulated in float32 and rounded once for each operation. `exact=True` leaves the tensors as they are: for
operations that only move values, those whose float16 kernels in PyTorch already do just that, and those that see to
it themselves.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from edgekit.formats.coreml.mil.stored import Rows

F = TypeVar("F", bound=Callable[..., Any])
Ints = tuple[int, ...]
Bools = tuple[bool, ...]
Weight = Tensor | Rows
AT_ONCE = 1 << 20
"""Float32 numbers that large operations hold at a time, where they can be cut."""


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: As in a program.
        call: Takes its inputs by name; gives a value, or a tuple of values.
        kinds: What each input is given as: a key of `CONVERT`, "Frame" or "list[Block]".
        required: Inputs without a default.
    """

    name: str
    call: Callable[..., Any]
    kinds: Mapping[str, str]
    required: frozenset[str]


_REGISTRY: dict[str, Operation] = {}


def _same(value: Any) -> Any:
    return value


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [item for part in value for item in _flat(part)]
    found: list[Any] = value.reshape(-1).tolist()
    return found


def _one(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


CONVERT: dict[str, Callable[[Any], Any]] = {
    "Tensor": _same,
    "Weight": _same,
    "Any": _same,
    "str": _same,
    "list[Tensor]": _same,
    "list[Any]": _same,
    "int": lambda value: int(_one(value)),
    "float": lambda value: float(_one(value)),
    "bool": lambda value: bool(_one(value)),
    "Ints": lambda value: tuple(int(item) for item in _flat(value)),
    "Bools": lambda value: tuple(bool(item) for item in _flat(value)),
}


@overload
def operation(function: F) -> F: ...
@overload
def operation(*, exact: bool) -> Callable[[F], F]: ...
def operation(function: F | None = None, *, exact: bool = False) -> F | Callable[[F], F]:
    """Register a function as the operation of its name; see the module's text."""

    def register(function: F) -> F:
        _register(function.__name__.rstrip("_"), function, exact)
        return function

    return register if function is None else register(function)


def table(functions: Mapping[str, Callable[..., Tensor]], *inputs: str, exact: bool = False) -> None:
    """Register operations that are one call of PyTorch each; `inputs` names their tensors in order."""
    for name, function in functions.items():
        _REGISTRY[name] = Operation(
            name,
            _positional(function, inputs) if exact else _widened(_positional(function, inputs)),
            dict.fromkeys(inputs, "Tensor"),
            frozenset(inputs),
        )


def _positional(function: Callable[..., Tensor], inputs: tuple[str, ...]) -> Callable[..., Tensor]:
    return lambda **given: function(*(given[name] for name in inputs))


def _register(name: str, function: Callable[..., Any], exact: bool) -> None:
    parameters = inspect.signature(function).parameters.values()
    kinds = {part.name: str(part.annotation).removesuffix(" | None") for part in parameters}
    required = frozenset(part.name for part in parameters if part.default is inspect.Parameter.empty)
    _REGISTRY[name] = Operation(name, function if exact else _widened(function), kinds, required)


def _widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Float16 in, float32 inside, float16 out."""

    def call(**given: Any) -> Any:
        half = False
        for name, value in given.items():
            if isinstance(value, Tensor):
                if value.dtype is torch.float16:
                    given[name], half = value.float(), True
            elif isinstance(value, list) and any(isinstance(v, Tensor) and v.dtype is torch.float16 for v in value):
                given[name], half = [v.float() if v.dtype is torch.float16 else v for v in value], True
        result = function(**given)
        return narrowed(result) if half else result

    return call


def narrowed(result: Any) -> Any:
    """Float32 tensors of a result rounded to float16."""
    if isinstance(result, tuple):
        return tuple(narrowed(part) for part in result)
    return result.half() if isinstance(result, Tensor) and result.dtype is torch.float32 else result


@cache
def operations() -> Mapping[str, Operation]:
    """Every operation by its name; the files of this folder are imported by the first call."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _REGISTRY
