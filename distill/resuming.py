"""Where a run goes on: what is damaged is dropped with a line each, and what is missing is made again from before it.

Everything a run keeps is made from what came before it, so the same file comes again, byte for byte on a CPU: a shard
from its questions, a stage's student from its training, a training from its last whole checkpoint or its beginning.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgekit.asides import clear_left_behind
from edgekit.checkpoint.folder import checkpoint_hash
from edgekit.console import note
from edgekit.distill.responses import IMAGE_USE, SHARDS
from edgekit.distill.shards import shard_fault
from edgekit.distill.teacher_stages import Stage, TeacherStage
from edgekit.distill.trainer import checkpoints, last_complete_checkpoint, step_of
from edgekit.errors import DamagedError
from edgekit.seal import FOLDER_SEAL, fault_of, read_sealed_json, read_sealed_rows, write_sealed_json
from edgekit.workspace import MANIFEST, Run

THRESHOLDS, SECONDS = "mask-thresholds.json", "seconds.json"


def drop_damaged(run: Run) -> bool:
    """Remove what is not as the run wrote it, each with a line on standard error, and what dead processes left aside.

    Trainer's checkpoints are not read here: the newest one is when training goes on from it.

    Returns:
        Whether anything was damaged.
    """
    clear_left_behind(run.folder)
    if run.shared is not None:
        for folder in (run.questions, run.responses):
            clear_left_behind(folder)
    # Read through the memory map of `datasets`, never checked, and made again from the shards in no time.
    shutil.rmtree(run.checkpoints / "cache", ignore_errors=True)
    found = list(_damaged(run))
    for path, fault in found:
        shown = path.relative_to(run.folder) if path.is_relative_to(run.folder) else path
        note(f"{shown} of the run {run.name!r} is damaged: {fault}. It is made again.")
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name == IMAGE_USE:  # it is there because its teacher was looked at and did see
            write_sealed_json(path, {"checked": "earlier"})
        else:
            path.unlink()
    return bool(found)


def lacking(run: Run) -> bool:
    """Whether a finished run has not all that it made; read from its own files alone."""
    reports = [run.reports / f"accuracy-{when}.json" for when in ("before", "after")]
    files = [run.questions / "index.json", run.folder / THRESHOLDS, run.folder / SECONDS, *reports]
    if not run.student.is_dir() or not all(path.exists() for path in files):
        return True
    if run.shared is not None:
        return False  # other runs, which may not have got so far, have their shards there too
    known = read_sealed_json(run.questions / "index.json")
    if len(list(run.questions.glob("shard-*.parquet"))) * known["shard"] < known["questions"]:
        return True
    return any(_shards_lost(run, folder) for folder in run.responses.glob("*") if folder.is_dir())


def _shards_lost(run: Run, folder: Path) -> bool:
    """Whether a pass lacks a shard; before edgekit wrote them down, each question shard had one."""
    there = {path.name for path in folder.glob("shard-*.parquet")}
    if (folder / SHARDS).exists():
        return bool(set(read_sealed_json(folder / SHARDS)["files"]) - there)
    return bool({path.name for path in run.questions.glob("shard-*.parquet")} - there)


def _damaged(run: Run) -> Iterator[tuple[Path, str]]:
    """(file or folder, what is wrong with it)."""
    begun = run.folder / MANIFEST
    jsons = [begun, run.folder / THRESHOLDS, run.folder / SECONDS, *run.reports.glob("*.json")]
    jsons += [run.questions / "index.json", *run.responses.glob(f"*/{IMAGE_USE}"), *run.responses.glob(f"*/{SHARDS}")]
    yield from _of(jsons, _json_fault)
    shards = [*run.questions.glob("shard-*.parquet"), *run.responses.glob("*/shard-*.parquet")]
    if run.shared is not None:
        shards += (run.folder / "responses").glob("*/shard-*.parquet")
    yield from _of(shards, shard_fault)
    yield from _of([*run.checkpoints.glob("student-*"), *run.students()], fault_of)
    if run.student.is_dir() and not (run.student / FOLDER_SEAL).exists():  # of before there were seals
        try:
            known = run.manifest().get("student_sha256")
        except DamagedError:
            known = None
        if known not in (None, checkpoint_hash(run.student)):
            yield run.student, "it is not the student that the run was measured with"


def _of(paths: Sequence[Path], fault: Callable[[Path], str | None]) -> Iterator[tuple[Path, str]]:
    there = [path for path in sorted(paths) if path.exists()]
    with ThreadPoolExecutor(8, thread_name_prefix="check") as pool:
        for path, wrong in zip(there, pool.map(fault, there), strict=True):
            if wrong:
                yield path, wrong


def _json_fault(path: Path) -> str | None:
    try:
        (read_sealed_rows if path.name.startswith("training-") else read_sealed_json)(path)
    except DamagedError:
        return "it is not what was written there"
    return None


# ---------------------------------------------------------------------------------------------------------- the ladder


def stages_to_do(
    run: Run, teacher_stages: Sequence[TeacherStage], teacher_stage: TeacherStage, missing: Callable[[Stage], bool]
) -> list[Stage]:
    """The stages of a teacher stage that are still to be trained; what the first of them cannot go on from is removed.

    Args:
        run: Its files, the damaged ones dropped.
        teacher stages: The whole ladder.
        teacher stage: Which.
        missing: Whether the student's responses of a stage are not all there.
    """
    later = [one.student(run) for one in teacher_stages[teacher_stage.number :]]
    if run.student.is_dir() or any(folder.is_dir() for folder in later):
        return []
    last_complete_checkpoint(teacher_stage.checkpoints(run))  # the newest one left is whole
    stages = teacher_stage.stages
    there = [stage for stage in stages if teacher_stage.student(run, stage).is_dir()]
    begun = there[-1].stop if there else 0
    for step in [*(step_of(path) for path in checkpoints(teacher_stage.checkpoints(run))), 0]:
        place = next((number for number, stage in enumerate(stages) if step < stage.stop), len(stages) - 1)
        asks = stages[place - 1] if place else None
        if asks is None or teacher_stage.student(run, asks).is_dir() or not missing(stages[place]):
            break
    if step < max([begun, *map(step_of, checkpoints(teacher_stage.checkpoints(run)))]):
        note(f"Teacher {teacher_stage.number + 1}: the training goes on from step {step}.")
    for path in checkpoints(teacher_stage.checkpoints(run)):
        if step_of(path) > step:
            shutil.rmtree(path)
    for stage in stages[place:]:
        shutil.rmtree(teacher_stage.student(run, stage), ignore_errors=True)
    return stages[place:]
