"""Names of plug-ins without importing them; a plug-in is imported when it is used.

A plug-in is one module. Built-in ones are the files of a package (`edgekit.export` holds the targets); a third
party adds one by an entry point in the group of the same name:

    [project.entry-points."edgekit.export"]
    mytarget = "mypackage.mytarget"
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from edgekit.errors import EdgekitError


class BrokenPlugInError(EdgekitError):
    """Another package's module cannot be loaded, or lacks what it must hold."""


@dataclass(frozen=True)
class Registry:
    """The modules of one package that offer one attribute each.

    Args:
        package: Dotted name of the package, also the entry-point group.
        kind: What one of them is called in messages, in the singular.
        helpers: File names in the package that are no plug-ins.
        needs: What a module of another package must hold, or it is broken.
    """

    package: str
    kind: str
    helpers: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """All names, built-in and third-party, sorted; nothing is imported."""
        return sorted({*_files(self.package, self.helpers), *_entry_points(self.package)})

    def load(self, name: str) -> ModuleType:
        """Import the module behind a name.

        Raises:
            EdgekitError: no such name, the message lists those that exist; or another package's module is broken.
        """
        spelled = name.replace("-", "_")
        if spelled in _files(self.package, self.helpers):
            return importlib.import_module(f"{self.package}.{spelled}")
        if name in (found := _entry_points(self.package)):
            return self._load_entry_point(name, found[name])
        raise self.unknown(name)

    def working(self) -> Iterator[tuple[str, ModuleType]]:
        """All names with their modules, imported; another package's that is broken is left out."""
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

    def _load_entry_point(self, name: str, module: str) -> ModuleType:
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
        if lacking := [one for one in self.needs if not hasattr(loaded, one)]:
            raise self._broken(name, f"Its module {module!r} lacks {', '.join(lacking)}.")
        return loaded

    def _broken(self, name: str, why: str) -> BrokenPlugInError:
        fix = "Reinstall or remove that package."
        return BrokenPlugInError(f"The {self.kind} {name!r} cannot be loaded.", why=why, fix=fix)

    def unknown(self, name: str) -> EdgekitError:
        """The error for a name that is not there, with the nearest one that is."""
        near = difflib.get_close_matches(name, self.names(), n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        return EdgekitError(f"Unknown {self.kind} {name!r}.", fix=f"{hint}There are: {', '.join(self.names())}.")


@cache
def _files(package: str, helpers: frozenset[str]) -> frozenset[str]:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    stems = {path.stem for folder in folders for path in Path(folder).glob("*.py")}
    return frozenset(stem for stem in stems if not stem.startswith("_") and stem not in helpers)


@cache
def _entry_points(group: str) -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=group)}


def missing_extra(error: ModuleNotFoundError, packages: set[str]) -> bool:
    """Whether an import failed for one of the named packages, and not for a fault inside one."""
    return (error.name or "").partition(".")[0] in packages
