"""Names of plug-ins without importing them; a plug-in is imported when it is used.

A plug-in is one module that holds one object: `edgekit.export` holds the targets, and each file of it a `TARGET`, made
from the `Target` of that package, whose fields are the contract. Another package adds a module by an entry point in
the group of the same name:

    [project.entry-points."edgekit.export"]
    mytarget = "mypackage.mytarget"
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from edgekit.errors import EdgekitError, did_you_mean

T = TypeVar("T")


class BrokenPlugInError(EdgekitError):
    """Another package's module cannot be loaded, or lacks what it must hold."""


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The plug-ins of one package, one a module; each module holds its own under the registry's attribute.

    Args:
        package: Dotted name of the package, also the entry-point group.
        kind: What one of them is called in messages, in the singular.
        base: Name in the package of the class that a plug-in is made from, or inherits from where it is a class itself.
        attribute: The module's name for it; in capitals an object, else a class.
        helpers: Names in the package that are no plug-ins.
        file: Where a plug-in is a folder of the package, the file of it that holds the object.
    """

    package: str
    kind: str
    base: str
    attribute: str
    helpers: frozenset[str] = frozenset()
    file: str = ""

    def names(self) -> list[str]:
        """All names, built-in and third-party, sorted; nothing is imported."""
        return sorted({*_files(self.package, self.helpers, self.file), *_entry_points(self.package)})

    def own(self, name: str) -> bool:
        """Whether a name is of edgekit itself and not of another package."""
        return name.replace("-", "_") in _files(self.package, self.helpers, self.file)

    def load(self, name: str) -> T:
        """Import the module behind a name, and give its plug-in.

        Raises:
            EdgekitError: no such name, the message lists those that exist; or another package's plug-in is broken.
        """
        spelled = name.replace("-", "_")
        if spelled in _files(self.package, self.helpers, self.file):
            module = f"{self.package}.{spelled}" + (f".{self.file}" if self.file else "")
            return self._plug_in(importlib.import_module(module))
        if name in (found_elsewhere := _entry_points(self.package)):
            return self._load_entry_point(name, found_elsewhere[name])
        raise self.unknown(name)

    def working(self) -> Iterator[tuple[str, T]]:
        """All names with their plug-ins, imported; another package's that is broken is left out."""
        for name in self.names():
            try:
                yield name, self.load(name)
            except BrokenPlugInError:
                continue

    def broken(self) -> list[tuple[str, BrokenPlugInError]]:
        """Other packages' modules that cannot be loaded, and why; all of them are imported for it."""
        found = []
        for name in _entry_points(self.package):
            try:
                self.load(name)
            except BrokenPlugInError as error:
                found.append((name, error))
        return found

    def _load_entry_point(self, name: str, module: str) -> T:
        try:
            loaded = importlib.import_module(module)
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises is the fault of that one alone
            gone = isinstance(error, ModuleNotFoundError) and (
                error.name == module or module.startswith(f"{error.name}.")
            )
            raise self._broken(
                name,
                f"An installed package announces it as module {module!r}, which is not there."
                if gone
                else f"Importing {module!r} ended with {type(error).__name__}: {error}",
            ) from error
        if lacking := self._lacking(loaded):
            raise self._broken(name, f"Its module {module!r} {lacking}.")
        return self._plug_in(loaded)

    def _plug_in(self, module: ModuleType) -> T:
        found: T = getattr(module, self.attribute)
        return found

    def _lacking(self, module: ModuleType) -> str:
        """What a module of another package lacks to hold a plug-in of this kind; "" where it is whole."""
        base: type[T] = getattr(importlib.import_module(self.package), self.base)
        if not hasattr(module, self.attribute):
            return f"lacks {self.attribute}, a {self.base} of {self.package}"
        wrong = _wrong(getattr(module, self.attribute), base, as_class=self.attribute != self.attribute.upper())
        return f"holds {self.attribute}, but {wrong}" if wrong else ""

    def _broken(self, name: str, why: str) -> BrokenPlugInError:
        fix = "Reinstall or remove that package."
        return BrokenPlugInError(f"The {self.kind} {name!r} cannot be loaded.", why=why, fix=fix)

    def unknown(self, name: str) -> EdgekitError:
        """The error for a name that is not there, with the nearest one that is."""
        there = f"There are: {', '.join(self.names())}."
        return EdgekitError(
            f"Unknown {self.kind} {name!r}.", fix=f"{did_you_mean(name, self.names())} {there}".lstrip()
        )


def _wrong(found: Any, base: type[Any], *, as_class: bool) -> str:
    """Why something is no plug-in made from `base`, or no class of its kind; "" where it is."""
    if isinstance(found, type) and as_class:
        return "" if issubclass(found, base) else f"the class {found.__name__} is no {base.__name__}"
    if isinstance(found, type):
        return f"it is the class {found.__name__}, not one made from it"
    if not isinstance(found, base):
        return f"it is of the type {type(found).__name__}, no {base.__name__}"
    fields = dataclasses.fields(found) if dataclasses.is_dataclass(found) else ()
    wrong = [f"{one.name} is no {word}" for one in fields if (word := _unfit(one.type, getattr(found, one.name)))]
    return ", ".join(wrong)


def _unfit(annotation: Any, value: Any) -> str:
    """What a field should be, where its annotation tells and its value is something else."""
    for kind, word, holds in _KINDS:
        if str(annotation).startswith(kind):
            absent = value is None and str(annotation).endswith("None")
            return "" if absent or holds(value) else word
    return ""


_KINDS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("Callable[", "function", callable),
    ("tuple[str", "tuple of texts", lambda value: isinstance(value, tuple) and all(isinstance(x, str) for x in value)),
    ("tuple[", "tuple", lambda value: isinstance(value, tuple)),
    ("frozenset[", "set", lambda value: isinstance(value, Set)),
    ("Mapping[", "mapping", lambda value: isinstance(value, Mapping)),
    ("str", "text", lambda value: isinstance(value, str)),
    ("bool", "truth value", lambda value: isinstance(value, bool)),
    ("int", "whole number", lambda value: isinstance(value, int)),
)
"""Beginnings of annotations, the first one that fits first."""


@cache
def _files(package: str, helpers: frozenset[str], file: str) -> frozenset[str]:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    pattern = f"*/{file}.py" if file else "*.py"
    found = [path for folder in folders for path in Path(folder).glob(pattern)]
    stems = {path.parent.name if file else path.stem for path in found}
    return frozenset(stem for stem in stems if not stem.startswith("_") and stem not in helpers)


@cache
def _entry_points(group: str) -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=group)}


def missing_extra(error: ModuleNotFoundError, packages: set[str]) -> bool:
    """Whether an import failed for one of the named packages, and not for a fault inside one."""
    return (error.name or "").partition(".")[0] in packages
