"""matrix: how far each family comes at each target and precision, with tiny random models."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.api import arguments, ladder
from edgekit.api.arguments import Texts, checked
from edgekit.api.results import MatrixRow
from edgekit.console import note
from edgekit.errors import EdgekitError, MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from edgekit.system.isolated import Isolated

TARGET = 4
"""The level that hangs on a target."""


@checked
def matrix(
    targets: Texts | None = None,
    families: Texts | None = None,
    precisions: Texts | None = None,
    on_row: Callable[[MatrixRow], None] | None = None,
    *,
    level: int = TARGET,
) -> list[MatrixRow]:
    """Take a tiny random checkpoint of each family up the ladder, to each target and precision.

    Nothing is remembered from elsewhere: each row is measured by this call, on this machine.

    Args:
        targets: One name or several; all when None.
        families: One name of edgekit.demo.tiny or several; all when None.
        precisions: One common name or several; all that a target has when None.
        on_row: Told each row as it is measured.
        level: The highest to try, 1 to 5, see `edgekit.api.ladder.RUNGS`. Below 4 no target is asked, and a family
            has one row.

    Returns:
        A row each, measured in a process of its own; one that ends it fails, and `why` holds its last lines.

    Raises:
        EdgekitError: there is no such level, family or target.
    """
    from edgekit.demo import tiny
    from edgekit.export import TARGETS
    from edgekit.system.isolated import Isolated
    from edgekit.system.temporary import room

    chosen = arguments.texts(families or (), "families") or list(tiny.NAMES)
    places = arguments.texts(targets or (), "targets") or [name for name, _ in TARGETS.working()]
    named = arguments.texts(precisions or (), "precisions")
    if wrong := [name for name in chosen if name not in tiny.NAMES]:
        raise EdgekitError(f"There is no tiny checkpoint of {wrong[0]!r}.", fix=f"There are: {', '.join(tiny.NAMES)}.")
    if level not in ladder.RUNGS:
        listed = "; ".join(f"{number} {name}" for number, name in ladder.RUNGS.items())
        raise EdgekitError(f"There is no level {level}.", fix=f"There are: {listed}.")
    if level < TARGET and (targets or precisions):
        raise EdgekitError(f"Level {level} asks no target.", fix="Leave targets and precisions out, or take level 4.")
    jobs = [
        (family, target, precision)
        for family in chosen
        for target in (places if level >= TARGET else [""])
        for precision in ((named or TARGETS.load(target).precisions) if target else [""])
    ]
    rows: list[MatrixRow] = []
    with room("matrix") as made, Isolated() as isolated:
        climber = Climber(isolated, made, level)
        for number, job in enumerate(jobs, 1):
            note(f"{number} of {len(jobs)}: {' '.join(job).strip()}")
            rows.append(climber.row(*job))
            if on_row is not None:
                on_row(rows[-1])
    return rows


@dataclass(frozen=True)
class Reached:
    """How far something came: the level, why no further, and the student of level 5."""

    level: int
    why: str = ""
    student: str = ""


class Climber:
    """Takes families up the ladder; what hangs on the family alone is measured once.

    Args:
        isolated: Where each rung is measured.
        folder: Where checkpoints and bundles go.
        level: The highest to try.
    """

    def __init__(self, isolated: Isolated, folder: Path, level: int) -> None:
        self._isolated, self._folder, self._level = isolated, folder, level
        self._families: dict[str, Reached] = {}
        self._students: dict[str, Reached] = {}

    def row(self, family: str, target: str, precision: str) -> MatrixRow:
        """One of the matrix; target and precision are "" where the family alone is asked for."""
        started = time.monotonic()
        row: dict[str, Any] = {"family": family, "target": target, "precision": precision}
        if family not in self._families:
            self._families[family] = self._rungs(family)
        reached = self._families[family]
        row["level"] = reached.level
        if reached.why or not target:
            return MatrixRow(**row, passed=not reached.why, why=reached.why, seconds=time.monotonic() - started)
        found = self._of_target(row, started)
        if found.level < TARGET or self._level <= TARGET:
            return found
        return self._whole(row, found, started)

    def _rungs(self, family: str) -> Reached:
        """Levels 1 to 3."""
        from edgekit.demo.tiny import BLUEPRINTS

        given: dict[int, tuple[Callable[..., str], dict[str, Any]]] = {
            1: (ladder.names, {}),
            2: (ladder.inputs, {}),
            3: (ladder.modules, {"sizes": [list(size) for size in BLUEPRINTS.load(family).sizes]}),
        }
        level = 0
        for number, (rung, more) in given.items():
            if number > self._level:
                break
            try:
                why = self._isolated.call(rung, folder=str(self._checkpoint(family)), **more)
            except EdgekitError as error:
                why = " ".join(str(error).split())
            if why:
                return Reached(level, f"level {number}, {ladder.RUNGS[number]}: {why}")
            level = number
        return Reached(level)

    def _checkpoint(self, family: str, **settings: Any) -> Path:
        from edgekit.demo.tiny import write_checkpoint
        from edgekit.system.quiet import quiet_transformers

        folder = self._folder / "-".join([family, *(f"{name}{value}" for name, value in settings.items())])
        if not folder.exists():
            with quiet_transformers():
                write_checkpoint(family, folder, **{"seed": 0, **settings})
        return folder

    def _of_target(self, row: dict[str, Any], started: float) -> MatrixRow:
        """Level 4."""
        from edgekit.export import TARGETS
        from edgekit.export.bundling import check_request
        from edgekit.report.tolerances import ALWAYS, judge, random_tolerances_of

        family, target, precision = row["family"], row["target"], row["precision"]
        try:
            check_request(target, precision)
            tolerances = random_tolerances_of(precision, target)
            checkpoint = self._checkpoint(family, **TARGETS.load(target).tiny.get(family, {}))
            place = self._folder / f"{family}-{target}-{precision}"
            figures = self._isolated.call(
                measure_row, checkpoint=str(checkpoint), target=target, precision=precision, folder=str(place)
            )
        except (MissingExtraError, UnsupportedError) as error:
            return MatrixRow(**row, passed=None, why=" ".join(str(error).split()))
        except EdgekitError as error:
            return MatrixRow(**row, passed=False, why=" ".join(str(error).split()))
        checks = judge(figures, {**ALWAYS, **tolerances})
        passed = all(check["held"] for check in checks.values())
        return MatrixRow(
            **{**row, "level": TARGET if passed else row["level"]},
            passed=passed,
            checks=checks,
            seconds=time.monotonic() - started,
            verified_by=figures["verified_by"],
        )

    def _whole(self, row: dict[str, Any], found: MatrixRow, started: float) -> MatrixRow:
        """Level 5."""
        from dataclasses import replace

        family, target, precision = row["family"], row["target"], row["precision"]
        if family not in self._students:
            self._students[family] = self._distilled(family)
        student = self._students[family]
        why = student.why
        if not why:
            place = self._folder / f"whole-{family}-{target}-{precision}"
            try:
                why = self._isolated.call(
                    ladder.benched, student=student.student, target=target, precision=precision, folder=str(place)
                )
            except EdgekitError as error:
                why = " ".join(str(error).split())
        seconds = time.monotonic() - started
        if why:
            return replace(found, passed=False, why=f"level 5, {ladder.RUNGS[5]}: {why}", seconds=seconds)
        return replace(found, level=5, seconds=seconds)

    def _distilled(self, family: str) -> Reached:
        student, teacher = self._checkpoint(family), self._checkpoint(family, seed=1)
        place = self._folder / f"run-{family}"
        try:
            made = self._isolated.call(ladder.distilled, student=str(student), teacher=str(teacher), folder=str(place))
        except EdgekitError as error:
            return Reached(TARGET, " ".join(str(error).split()))
        return Reached(5, student=made)


def measure_row(checkpoint: str, target: str, precision: str, folder: str) -> dict[str, Any]:
    """Export a tiny checkpoint, and verify the bundle; the figures of `verify_bundle`.

    Args:
        checkpoint: Its folder.
        target, precision: Names.
        folder: Where the bundle goes.
    """
    from edgekit.export.bundling import export_checkpoint
    from edgekit.export.prompts import drawn_samples
    from edgekit.runtimes.comparison import open_bundle
    from edgekit.runtimes.verify import verify_bundle

    shown = drawn_samples(16)
    bundle = export_checkpoint(Path(checkpoint), target, precision, Path(folder), opens=open_bundle, calibration=shown)
    return verify_bundle(bundle.folder, Path(checkpoint), None, 8)
