"""Where runs live: `runs/<name>/` in the folder that holds edgekit.yaml, or in the current one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.files import storage_errors, write_json, write_text
from edgekit.recipe import Recipe, dump_recipe, load_recipe

RECIPE_NAME = "edgekit.yaml"


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

    def recipe(self) -> Recipe:
        """The resolved recipe the run was started with."""
        return load_recipe(self.folder / "recipe.yaml")

    def manifest(self) -> dict[str, Any]:
        """What is known of the run so far; empty before it began."""
        path = self.folder / "manifest.json"
        if not path.exists():
            return {}
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value

    def update(self, **fields: Any) -> None:
        """Add to the manifest."""
        write_json(self.folder / "manifest.json", {**self.manifest(), **fields})

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
        import fcntl

        with storage_errors(self.folder):
            stream = (self.folder / ".lock").open("w")
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise EdgekitError(
                    f"Another process is working on the run {self.name!r}.",
                    fix="Wait for it, or give --name another one.",
                ) from error
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
            if not (run.folder / "recipe.yaml").exists():
                break
            if not fresh and run.recipe().hash == recipe.hash:
                return run
            if name and not fresh:
                raise EdgekitError(f"The run {name!r} was started with another recipe.", fix="Give --name another one.")
            number += 1
        with storage_errors(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / "recipe.yaml", dump_recipe(recipe))
        return run

    def name_latest(self, run: Run) -> None:
        """Make this run the one that export and bench take by default."""
        write_text(self.runs / "latest", run.name + os.linesep)

    def run(self, name: str) -> Run:
        """A run by name.

        Raises:
            EdgekitError: there is none of that name.
        """
        if not (self.runs / name / "recipe.yaml").is_file():
            there = sorted(path.parent.name for path in self.runs.glob("*/recipe.yaml"))
            raise EdgekitError(f"No run {name!r} in {self.runs}.", fix=f"There are: {', '.join(there) or 'none'}.")
        return Run(self.runs / name)

    def latest_run(self) -> Run:
        """The newest run.

        Raises:
            EdgekitError: there is none yet.
        """
        path = self.runs / "latest"
        if not path.is_file():
            raise EdgekitError(f"No run in {self.folder} yet.", fix="Start one:  edgekit distill")
        return self.run(path.read_text(encoding="utf-8").strip())
