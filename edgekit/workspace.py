"""Where runs live: `runs/<name>/` in the folder that holds edgekit.yaml, or in the current one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.console import note
from edgekit.errors import DamagedError, EdgekitError, RecipeError
from edgekit.files import storage_errors, write_bytes, write_text
from edgekit.recipe.model import Recipe
from edgekit.recipe.reading import dump_recipe, load_recipe, read_recipe
from edgekit.seal import BLANK, KEY, intact, read_sealed_json, sealed, write_sealed_json
from edgekit.system.locks import lock

RECIPE_NAME = "edgekit.yaml"
RECIPE, MANIFEST = "recipe.yaml", "manifest.json"


@dataclass(frozen=True)
class Run:
    """One run's folder.

    It holds recipe.yaml, manifest.json, responses/, checkpoints/, student/, perhaps student-<precision>/, bundles/ and
    reports/.

    Attributes:
        folder: Its own.
        shared: Folder of questions and responses that several runs use; its own when None.
    """

    folder: Path
    shared: Path | None = None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def questions(self) -> Path:
        """Parquet shards of the train questions."""
        return (self.shared or self.folder) / "questions"

    @property
    def responses(self) -> Path:
        """Parquet shards of Gen-Data."""
        return (self.shared or self.folder) / "responses"

    @property
    def checkpoints(self) -> Path:
        """Trainer's own."""
        return self.folder / "checkpoints"

    @property
    def student(self) -> Path:
        """The distilled student, a Hugging Face folder; there once the run is finished."""
        return self.folder / "student"

    def quantised_student(self, precision: str) -> Path:
        """The student after quantisation-aware distillation for a precision, whether or not it is there."""
        return self.folder / f"student-{precision}"

    def students(self) -> list[Path]:
        """The distilled student, then those made from it for a precision; of what is there."""
        return [path for path in (self.student, *sorted(self.folder.glob("student-*"))) if path.is_dir()]

    @property
    def bundles(self) -> Path:
        """One folder `<target>-<precision>` each."""
        return self.folder / "bundles"

    @property
    def reports(self) -> Path:
        """Of bench and verify."""
        return self.folder / "reports"

    @property
    def begun(self) -> bool:
        """Whether there is a run in this folder."""
        return any((self.folder / name).is_file() for name in (RECIPE, MANIFEST))

    def recipe(self) -> Recipe:
        """The resolved recipe the run was started with; one that was damaged is taken from the manifest.

        Raises:
            EdgekitError: neither holds it.
        """
        path = self.folder / RECIPE
        whole = intact(path.read_bytes()) if path.exists() else False
        if whole:
            return load_recipe(path, kept=True)
        kept = self._recipe_in_manifest()
        if whole is None:  # from before there were seals, or cut off before its last line
            with suppress(RecipeError):
                recipe = load_recipe(path, kept=True)
                if kept is None or kept.hash == recipe.hash:
                    return recipe
        if kept is None:
            raise DamagedError(path, f"{MANIFEST} beside it does not hold the recipe either.")
        note(f"{path} is damaged: it is made again from {MANIFEST}.")
        self.write_recipe(kept)
        return kept

    def _recipe_in_manifest(self) -> Recipe | None:
        with suppress(DamagedError, RecipeError):
            kept = self.manifest().get("recipe")
            return None if kept is None else read_recipe(kept, MANIFEST, kept=True)
        return None

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep the recipe, with a seal in its last line."""
        write_bytes(self.folder / RECIPE, sealed(f"{dump_recipe(recipe)}# {KEY}: {BLANK}\n".encode()))

    def manifest(self) -> dict[str, Any]:
        """What is known of the run so far; empty before it began.

        Raises:
            DamagedError: it is not what was written.
        """
        path = self.folder / MANIFEST
        return read_sealed_json(path) if path.exists() else {}

    def update(self, **fields: Any) -> None:
        """Add to the manifest."""
        write_sealed_json(self.folder / MANIFEST, {**self.manifest(), **fields})

    @property
    def finished(self) -> bool:
        """Whether the student is there and measured."""
        return self.manifest().get("status") == "finished" and self.student.is_dir()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of this run; the system frees it when this one ends, however it ends.

        Raises:
            EdgekitError: another process works on it.
        """
        with storage_errors(self.folder):
            stream = (self.folder / ".lock").open("w")
        with stream:
            if not lock(stream.fileno()):
                raise EdgekitError(
                    f"Another process is working on the run {self.name!r}.",
                    fix="Wait for it, or give --name another one.",
                )
            yield


@dataclass(frozen=True)
class Workspace:
    """A folder with runs."""

    folder: Path

    @classmethod
    def find(cls, start: Path) -> Workspace:
        """The nearest folder upwards with an edgekit.yaml or runs/; `start` itself where there is none."""
        for folder in (start, *start.parents):
            if (folder / RECIPE_NAME).is_file() or (folder / "runs" / "latest").is_file():
                return cls(folder)
        return cls(start)

    @property
    def recipe_path(self) -> Path:
        """The workspace's recipe, whether or not it is there."""
        return self.folder / RECIPE_NAME

    @property
    def runs(self) -> Path:
        """All runs."""
        return self.folder / "runs"

    def open_run(self, recipe: Recipe, *, name: str | None = None, fresh: bool = False) -> Run:
        """The run for a recipe: the one begun with it, else a new one.

        Args:
            recipe: Resolved.
            name: Folder name; the recipe's own when None, with a number when another recipe holds that.
            fresh: A new run even where one with the same recipe is there.

        Raises:
            EdgekitError: `name` is taken by another recipe.
        """
        wanted = name or recipe.name
        number = 1
        while True:
            run = Run(self.runs / (wanted if number == 1 else f"{wanted}-{number}"))
            if not run.begun:
                break
            if not fresh and self._is_of(run, recipe):
                return run
            if name and not fresh:
                raise EdgekitError(f"The run {name!r} was started with another recipe.", fix="Give --name another one.")
            number += 1
        run.write_recipe(recipe)
        return run

    @staticmethod
    def _is_of(run: Run, recipe: Recipe) -> bool:
        """Whether a run is of this recipe; where a power cut left nothing to tell by, the run's own name decides."""
        try:
            return run.recipe().hash == recipe.hash
        except DamagedError as error:
            if run.name != recipe.name:
                return False
            note(f"{error.what} Nothing tells of what recipe the run {run.name!r} is; it is taken for this one's.")
            run.write_recipe(recipe)
            return True

    def name_latest(self, run: Run) -> None:
        """Make this run the one that export and bench take by default."""
        write_text(self.runs / "latest", run.name + os.linesep)

    def run(self, name: str) -> Run:
        """A run by name.

        Raises:
            EdgekitError: there is none of that name.
        """
        if not name or "/" in name or not Run(self.runs / name).begun:
            there = ", ".join(run.name for run in self._all()) or "none"
            raise EdgekitError(f"No run {name!r} in {self.runs}.", fix=f"There are: {there}.")
        return Run(self.runs / name)

    def _all(self) -> list[Run]:
        """Runs that have begun, by name."""
        return [run for run in (Run(path) for path in sorted(self.runs.glob("*"))) if run.begun]

    def latest_run(self) -> Run:
        """The newest run.

        Raises:
            EdgekitError: there is none yet.
        """
        path = self.runs / "latest"
        if not path.is_file():
            raise EdgekitError(f"No run in {self.folder} yet.", fix="Start one:  edgekit distill")
        name = path.read_text(encoding="utf-8", errors="replace").strip()
        there = self._all()
        if name not in [run.name for run in there] and len(there) == 1:
            note(f"{path} names no run that is here; there is only one, {there[0].name!r}.")
            return there[0]
        return self.run(name)
