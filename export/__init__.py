"""Export targets, one file each, holding a `TARGET`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from edgekit.precision import TargetPrecision, by_part, is_mixed
from edgekit.recipe import model as recipe
from edgekit.recipe.model import EXPORT_HELPERS as HELPERS
from edgekit.registry import Registry

if TYPE_CHECKING:
    from edgekit.families import Split
    from edgekit.inputs.processor import Inputs
    from edgekit.manifest import Component

__all__ = ["HELPERS", "NO_OPTIONS", "TARGETS", "Options", "Target", "Written", "vision_name"]
Options: TypeAlias = Mapping[str, str]
NO_OPTIONS: Options = MappingProxyType({})
Written: TypeAlias = "tuple[dict[str, Component], dict[str, str]]"
"""The components by name, and the versions of the tools."""


@dataclass(frozen=True)
class Target:
    """What a checkpoint can be exported to.

    Attributes:
        name: Of its file.
        precisions: By common name; `edgekit.precision.by_name` makes it.
        extra: Of edgekit's pyproject.toml; "" where another package brings the target.
        packages: Import name -> distribution of what it needs.
        hosts: Operating systems it can be exported on, by `platform.system()`.
        runtimes: Names in edgekit.runtimes that run its bundles.
        write: (split, precision, the bundle's folder, prompts to calibrate with, options) -> the components by name and
            the versions of the tools; tokenizer and processor files are there by then.
        parts: Of vision, embedding and text the precisions each can have, where a bundle can mix them.
        options: Of its own, by name: a tuple of choices, the default first, or a free text's default.
        plan: (precision, options): refuses those that do not go together, before anything is loaded.
        label: (folder, components, digest): writes into the program which export it belongs to.
        details: What the manifest of the folder's bundle keeps as `details`.
        appends_in_place: (split, the decoder's precision) -> whether such a decoder appends to one buffer that it takes
            as past and as present.
        knows: Kinds of inputs and states that it can hold beside `decoding.USUAL`, and pack, as `Split.needs` asks.
        lacks: Of such kinds that it cannot hold why, in a sentence, where more is known than that it knows of none.
        tiny: Family -> settings of its tiny checkpoint, where the target cannot take the plain one.
    """

    name: str
    precisions: Mapping[str, TargetPrecision]
    extra: str
    packages: Mapping[str, str]
    hosts: tuple[str, ...]
    runtimes: tuple[str, ...]
    write: Callable[[Split, str, Path, Sequence[Inputs], Options], Written]
    parts: Mapping[str, Mapping[str, TargetPrecision]] | None = None
    options: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    plan: Callable[[str, Options], Any] | None = None
    label: Callable[[Path, Mapping[str, Component], str], None] | None = None
    details: Callable[[Path], dict[str, Any]] | None = None
    appends_in_place: Callable[[Split, str], bool] | None = None
    knows: frozenset[str] = frozenset()
    lacks: Mapping[str, str] = field(default_factory=dict)
    tiny: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse precisions that are not `TargetPrecision`, or stand under another name than their own.

        Raises:
            TypeError: there are some.
        """
        places: dict[str, Any] = {"precisions": self.precisions, **(self.parts or {})}
        for where, known in places.items():
            for name, one in known.items() if isinstance(known, Mapping) else ():  # else the registry says so
                if not isinstance(one, TargetPrecision):
                    raise TypeError(f"{where}: {name!r} is a {type(one).__name__}, no TargetPrecision")
                if one.name != name:
                    raise TypeError(f"{where}: {name!r} is the precision {one.name!r}")

    def native(self, precision: str) -> str:
        """The target's own name of a precision, or for each part of a mixture."""
        if self.parts is None or not is_mixed(precision):
            return self.precisions[precision].native
        return "; ".join(f"{part}: {one.native}" for part, one in self.of_parts(precision).items())

    def needs_calibration(self, precision: str) -> bool:
        """Whether it must be shown prompts to write this precision."""
        return any(one.calibrated for one in self.of_parts(precision).values())

    def of_parts(self, precision: str) -> dict[str, TargetPrecision]:
        """Each part's precision, in a mixture as the part has it; that of a whole bundle under "whole"."""
        if self.parts is None or not is_mixed(precision):
            return {"whole": self.precisions[precision]}
        return {part: self.parts[part][own] for part, own in by_part(precision).items()}

    def missing(self, precision: str | None = None) -> dict[str, str]:
        """Import name -> distribution of what it needs, for all or for one precision, and is not installed."""
        ones = self.precisions.values() if precision is None else self.of_parts(precision).values()
        return {name: package for name, package in self._needed(ones).items() if find_spec(name) is None}

    def distributions(self) -> tuple[str, ...]:
        """All that it needs, whatever the precision."""
        return tuple(self._needed(self.precisions.values()).values())

    def install(self) -> str:
        """The command that installs what it needs."""
        if self.extra:
            return f"pip install 'edgekit[{self.extra}]'"
        return f"pip install {' '.join(self.distributions())}"

    def _needed(self, ones: Iterable[TargetPrecision]) -> dict[str, str]:
        return {**self.packages, **{name: package for one in ones for name, package in one.packages.items()}}

    def in_place(self, decoder: Component, split: Split) -> bool:
        """Whether its decoder takes one buffer as past and as present."""
        return self.appends_in_place is not None and self.appends_in_place(split, decoder.precision or "")


TARGETS: Registry[Target] = recipe.TARGETS


def vision_name(bucket: str) -> str:
    """A bucket's component in a bundle: vision_encoder, or vision_encoder_448x448."""
    return f"vision_encoder_{bucket}" if bucket else "vision_encoder"
