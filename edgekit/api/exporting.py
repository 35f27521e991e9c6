"""export: from a student to bundles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace as replace_fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.api import arguments
from edgekit.api.arguments import told
from edgekit.api.runs import latest_run
from edgekit.api.settings import ExportSettings, Sizes
from edgekit.console import note
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.bundle import Bundle
    from edgekit.data import Sample
    from edgekit.recipe.model import Export
    from edgekit.workspace import Run


@told(ExportSettings)
def export(asked: ExportSettings) -> list[Bundle]:
    """Export a checkpoint, or the student of the latest run, to each target and precision.

    Returns:
        A bundle each.

    Raises:
        EdgekitError: an argument, or the checkpoint, cannot be used; nothing is written.
    """
    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.data import samples as read_samples
    from edgekit.export.bundling import check_request, export_checkpoint
    from edgekit.precision import canonical, folder_name
    from edgekit.report.tolerances import MOST_PROMPTS
    from edgekit.runtimes.comparison import open_bundle
    from edgekit.runtimes.golden import golden_answers

    names = arguments.texts(asked.targets, "targets")
    precisions = arguments.texts(asked.precisions or (), "precisions")
    place = None if asked.out is None else arguments.path(asked.out, "out")
    wanted, chosen = _sizes(asked.sizes), arguments.overrides(asked.options, "options")
    run = latest_run() if asked.checkpoint is None else None
    given = resolve_checkpoint(arguments.model(asked.checkpoint or "", "checkpoint")) if run is None else run.student
    data, calibration_data = asked.data, asked.calibration_data
    jobs = [
        replace_fields(item, precision=canonical(item.precision))
        for name in names
        for item in _exports(run, name, precisions, asked.calibrate, asked.with_genai)
    ]
    modules = [check_request(job.target, job.precision, chosen) for job in jobs]
    for job in jobs:
        if job.genai and job.target != "onnx":
            raise EdgekitError(f"Target {job.target!r} has nothing for onnxruntime-genai.", fix="Use --target onnx.")
    if run is not None:
        data = data or run.recipe().data.test
        calibration_data = calibration_data or run.recipe().data.train
    shown = [
        _calibration(calibration_data, job.calibrate, job.precision) if module.needs_calibration(job.precision) else []
        for job, module in zip(jobs, modules, strict=True)
    ]
    questions = list(read_samples(data, limit=asked.samples or MOST_PROMPTS, need_answer=False)) if data else []
    lineage: dict[str, Any] = {}
    if run is not None:
        teachers = run.manifest()["inputs"]["teachers_sha256"]
        lineage = {"run": run.name, "teacher_sha256": teachers[-1]}
    bundles = []
    for job, calibration in zip(jobs, shown, strict=True):
        folder = given if run is None else student_for(run, job.target, job.precision)
        name = f"{job.target}-{folder_name(job.precision)}"
        if place is not None:
            into = place / name if len(jobs) > 1 else place
        else:
            into = run.bundles / name if run is not None else Path(f"{folder.name}-{name}")
        note(f"Exporting {folder} to {into}")
        bundles.append(
            export_checkpoint(
                folder,
                job.target,
                job.precision,
                into,
                opens=open_bundle,
                sizes=wanted,
                samples=questions,
                prompts=asked.samples,
                calibration=calibration,
                with_genai=job.genai,
                options=chosen,
                replace=asked.replace,
                answers=golden_answers,
                **lineage,
            )
        )
    return bundles


def _sizes(sizes: Sizes | None) -> list[tuple[int, int]] | None:
    """Image sizes as (width, height): one pair or text, or several."""
    from edgekit.families.sizes import read_size

    if sizes is None:
        return None
    if not isinstance(sizes, Iterable):
        raise arguments.wrong("sizes", sizes, "(width, height) in pixels, a text such as 448x336, or several of these")
    many: list[Any] = [sizes] if isinstance(sizes, str) else list(sizes)
    if len(many) == 2 and all(isinstance(edge, Integral) for edge in many):
        many = [many]
    found = []
    for place, size in enumerate(many):
        pair = read_size(size) if isinstance(size, str) else tuple(arguments.counts(size, f"sizes[{place}]"))
        if len(pair) != 2:
            raise arguments.wrong(f"sizes[{place}]", size, "(width, height) in pixels, or a text such as 448x336")
        found.append((pair[0], pair[1]))
    return found


def _calibration(data: str | None, count: int, precision: str) -> list[Sample]:
    """The questions an export is calibrated with.

    Raises:
        EdgekitError: no data are named, and there is no run to take them from.
    """
    from edgekit.data import samples

    if data is None:
        raise EdgekitError(
            f"{precision} needs questions to calibrate with, and a checkpoint alone names none.",
            fix="Name some, of the train kind:  --calibration-data SPEC",
        )
    return list(samples(data, limit=count, need_answer=False))


def student_for(run: Run, target: str, precision: str) -> Path:
    """The student prepared for just the weights that this export writes, where the run has one; else the student."""
    from edgekit.export import TARGETS
    from edgekit.formats.onnx.precisions import PRECISIONS

    prepared = run.quantised_student(precision)
    written, trained = (known.get(precision) for known in (TARGETS.load(target).precisions, PRECISIONS))
    scheme = None if written is None else written.scheme
    if scheme is None or trained is None or scheme != trained.scheme or not prepared.is_dir():
        return run.student
    note(f"Taking {prepared.name}, the student after quantisation-aware distillation for {precision}.")
    return prepared


def _exports(
    run: Run | None, target: str, precisions: list[str] | None, calibrate: int | None, genai: bool | None
) -> list[Export]:
    """What to export to a target: as asked, and as the run's recipe says where nothing is asked."""
    from edgekit.recipe.model import Export

    written = [item for item in run.recipe().exports if item.target == target] if run is not None else []
    if precisions:
        written = [next((x for x in written if x.precision == name), Export(target, name)) for name in precisions]
    return [
        replace_fields(
            item,
            calibrate=item.calibrate if calibrate is None else calibrate,
            genai=item.genai if genai is None else genai,
        )
        for item in written or [Export(target)]
    ]
