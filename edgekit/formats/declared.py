"""What a bundle's programs declare, held against what its manifest says of them.

Both may come from anywhere, and an array that is made by one and used by the other is at best of a wrong size. Every
target tells in the same words what its programs declare, and is compared before anything of such a size is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import BundleError
from edgekit.manifest import Component, Manifest, TensorSpec
from edgekit.schema import listed
from edgekit.visible import one_line

SHOWN = 200
"""Characters of a program's own names in a message."""


class UpTo(int):
    """The greatest of what may be less: of a size that a program leaves open, or of a number of the manifest."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a program.

    Attributes:
        name: As the program calls it; "" where its kind has no names, and the place tells.
        dtype: NumPy's name; "" where it does not say.
        shape: A number is fixed; `UpTo` is fixed or free; anything else is free.
    """

    name: str
    dtype: str
    shape: Sequence[object]


@dataclass(frozen=True)
class Declared:
    """What one component's program takes and gives; None where it does not say."""

    inputs: Sequence[Tensor] | None
    outputs: Sequence[Tensor] | None


def check_tensors(components: Mapping[str, Component], declared: Mapping[str, Declared]) -> None:
    """Look whether programs take and give what the manifest describes.

    Args:
        components: Of the manifest.
        declared: By the names of components.

    Raises:
        BundleError: they do not; the fields that differ are named.
    """
    problems: list[str] = []
    for name, program in declared.items():
        part, at = components[name], f"components.{name}"
        problems += _differing(f"{at}.inputs", part.inputs, program.inputs)
        problems += _differing(f"{at}.outputs", part.outputs, program.outputs)
    _refuse(problems)


def check_numbers(manifest: Manifest, found: Mapping[str, int]) -> None:
    """Look whether numbers of the manifest are those of its programs.

    Args:
        manifest: Of the bundle.
        found: By the field's dotted path; `UpTo` for one that may be less.

    Raises:
        BundleError: they are not; the fields that differ are named.
    """
    problems = []
    for path, number in found.items():
        said: Any = manifest
        for step in path.split("."):
            said = said.get(step) if isinstance(said, dict) else getattr(said, step, None)
        whole = isinstance(said, int) and not isinstance(said, bool)
        if not whole or (not 0 < said <= number if isinstance(number, UpTo) else said != number):
            most = " up to" if isinstance(number, UpTo) else ""
            problems.append(f"{path}: {_short(said)}, and the program has{most} {number:,}")
    _refuse(problems)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise BundleError(
            "The bundle's programs are not those that its manifest describes:",
            why=listed(problems),
            fix="Copy or export the bundle again.",
        )


def _differing(at: str, said: Sequence[TensorSpec], found: Sequence[Tensor] | None) -> Iterator[str]:
    if found is None:
        return
    named = any(one.name for one in found)
    names = [one.name for one in found] if named else [spec.name for spec in said]
    if len(said) != len(found) or names != [spec.name for spec in said]:
        there = ", ".join(names) if named else f"{len(found)} of them"
        yield f"{at}: {_short([spec.name for spec in said])}, and the program has {_short(there or 'none')}"
        return
    for place, (spec, one) in enumerate(zip(said, found, strict=True)):
        if one.dtype and spec.dtype != one.dtype:
            yield f"{at}[{place}].dtype: {spec.name} is {spec.dtype}, and in the program {_short(one.dtype)}"
        if len(spec.shape) != len(one.shape):
            yield f"{at}[{place}].shape: {spec.name} has {len(spec.shape)} axes, and in the program {len(one.shape)}"
            continue
        for axis, (size, other) in enumerate(zip(spec.shape, one.shape, strict=True)):
            if not _fits(size, other):
                yield f"{at}[{place}].shape[{axis}]: {spec.name} has {_short(size)}, and in the program {_size(other)}"


def _fits(size: int | str, other: object) -> bool:
    """Whether a size of the manifest is one of the program's."""
    if isinstance(other, int) and not (isinstance(other, UpTo) and isinstance(size, str)):
        return size == other
    return isinstance(size, str)


def _size(other: object) -> str:
    return f"{other:,}" if isinstance(other, int) else "no fixed size"


def _short(value: object) -> str:
    plain = isinstance(value, int) and not isinstance(value, bool)
    text = f"{value:,}" if plain else one_line(str(value))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
