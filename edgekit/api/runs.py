"""What the verbs share: the run that a call means, and what it says of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.console import note
from edgekit.errors import DamagedError, EdgekitError

if TYPE_CHECKING:
    from edgekit.workspace import Run


def latest_run() -> Run:
    """The workspace's latest run, and a line that says which.

    Raises:
        EdgekitError: there is none, or it is not finished.
    """
    from edgekit.workspace import Workspace

    run = Workspace.find(Path.cwd()).latest_run()
    note(f"Using the latest run, {run.name!r}.")
    if not run.finished:
        raise EdgekitError(f"The run {run.name!r} is not finished.", fix="Go on with it:  edgekit distill")
    check_student(run)
    return run


def check_student(run: Run) -> None:
    """Refuse the student of a finished run that is not the one it was measured with.

    Raises:
        DamagedError: what is wrong with it.
    """
    from edgekit.checkpoint.folder import checkpoint_hash
    from edgekit.seal import FOLDER_SEAL, check_folder

    check_folder(run.student)
    # Students of before there were seals: the manifest holds the same, for weights, configuration and tokenizer.
    if not (run.student / FOLDER_SEAL).exists() and checkpoint_hash(run.student) != run.manifest()["student_sha256"]:
        raise DamagedError(run.student, "It is not the student that the run was measured with.")


def run_of(bundles: list[Path]) -> Run | None:
    """The run whose bundles/ folder the first bundle lies in."""
    from edgekit.workspace import Run

    folder = bundles[0].resolve().parent.parent if bundles else None
    return Run(folder) if folder is not None and Run(folder).begun else None


def reference_of(given: Path | str | None, bundles: list[Path]) -> Path | None:
    """The checkpoint to compare bundles with: as given, else the student of their run, where there is one."""
    from edgekit.checkpoint.folder import resolve_checkpoint

    if given is not None:
        return resolve_checkpoint(str(given))
    run = run_of(bundles)
    return run.student if run is not None and run.student.is_dir() else None


def made_from(bundle: Path) -> Path | None:
    """The student of the bundle's run that it was exported from: one made for a precision is not the first one."""
    from edgekit.bundle import Bundle
    from edgekit.checkpoint.folder import checkpoint_hash

    run = run_of([bundle])
    students = run.students() if run is not None else []
    if len(students) < 2:
        return None
    wanted = Bundle.load(bundle, verify=False).manifest.student_sha256
    return next((folder for folder in students if checkpoint_hash(folder) == wanted), None)


def run_data(bundles: list[Path]) -> str | None:
    """The test questions of the bundles' run, where they lie in one."""
    run = run_of(bundles)
    return run.recipe().data.test if run is not None else None
