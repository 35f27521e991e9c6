"""verify and bench: a bundle beside its reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.api import arguments
from edgekit.api.arguments import Folder, Folders, PathLike, checked, told
from edgekit.api.results import Comparison
from edgekit.api.runs import latest_run, made_from, reference_of, run_data, run_of
from edgekit.api.settings import BenchSettings, VerifySettings
from edgekit.console import note
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.recipe.model import Gates
    from edgekit.report.model import Report
    from edgekit.report.parity import Parity
    from edgekit.runtimes.bench import Settings
    from edgekit.workspace import Run


@told(VerifySettings)
def verify(asked: VerifySettings) -> Parity:
    """Check a bundle's files, and run it beside its student; also written to parity.json in the bundle.

    Returns:
        Figures, tolerances, and `passed`. Both sides run in a process of their own: where that dies, nothing is
        compared, `passed` is false, and `why` says how it ended, by its last lines.
    """
    from edgekit.report.parity import of_verify
    from edgekit.runtimes import asking

    with asking(asked.runtime):
        return of_verify(_verified(asked), str(asked.bundle))


def _verified(asked: VerifySettings) -> dict[str, Any]:
    from edgekit.bundle import Bundle
    from edgekit.handover import PROMPT
    from edgekit.runtimes.verify import died, verify_bundle
    from edgekit.system.isolated import Isolated, ProcessDied

    place = arguments.folder(asked.bundle, "bundle")
    found = reference_of(_model(asked.reference), [place])
    if asked.reference is None and (prepared := made_from(place)) is not None:
        found = prepared
    questions = run_data([place]) if asked.data is None else str(arguments.path(asked.data, "data"))
    whole = Bundle.load(place)  # one that is not whole needs no process to say so
    if found is None and (asked.attribute or PROMPT not in whole.manifest.files):  # nothing of it is run
        return verify_bundle(place, None, questions, asked.samples, attribution=asked.attribute)
    try:
        with Isolated() as isolated:
            return isolated.call(
                verify_here, folder=str(place), reference=None if found is None else str(found), data=questions,
                count=asked.samples, threads=asked.threads, attribution=asked.attribute,
                runtime=asked.runtime,
            )  # fmt: skip
    except ProcessDied as error:
        return died(place, str(error))


def _model(reference: Folder | None) -> str | None:
    return None if reference is None else arguments.model(reference, "reference")


def verify_here(
    folder: str,
    reference: str | None,
    data: str | None,
    count: int | None,
    threads: int,
    attribution: bool,
    runtime: str | None = None,
) -> dict[str, Any]:
    """`verify` in this process; see `edgekit.runtimes.verify.verify_bundle`."""
    from edgekit.runtimes import asking

    with asking(runtime):
        return _verified_here(folder, reference, data, count, threads, attribution)


def _verified_here(
    folder: str, reference: str | None, data: str | None, count: int | None, threads: int, attribution: bool
) -> dict[str, Any]:
    from edgekit.runtimes.verify import verify_bundle
    from edgekit.system.temporary import room

    bundle, found = Path(folder), None if reference is None else Path(reference)
    if found is None or not attribution:
        return verify_bundle(bundle, found, data, count, threads=threads)
    with room("verify") as place:
        plain, why = _plain_export(bundle, found, place / "fp32")
        return verify_bundle(bundle, found, data, count, threads=threads, attribution=True, plain=plain, note=why)


def _plain_export(folder: Path, reference: Path, out: Path) -> tuple[Path | None, str]:
    """The bundle's checkpoint in the same target and sizes in fp32, or why there is none."""
    from edgekit.bundle import Bundle
    from edgekit.checkpoint.folder import checkpoint_hash
    from edgekit.export import TARGETS
    from edgekit.export.bundling import export_checkpoint
    from edgekit.runtimes.comparison import open_bundle

    manifest = Bundle.load(folder).manifest
    if manifest.precision.common == "fp32":
        return None, "the bundle is fp32: nothing of it is quantised"
    if checkpoint_hash(reference) != manifest.student_sha256:
        return None, "no checkpoint to export"  # the comparison itself says so in full
    if "fp32" not in TARGETS.load(manifest.target).precisions:
        return None, f"the target {manifest.target!r} has no fp32"
    sizes = manifest.preprocessing.get("sizes")
    note("Exporting the checkpoint in fp32, for the share of quantisation.")
    baked = sizes and [(w, h) for w, h in sizes]
    export_checkpoint(reference, manifest.target, "fp32", out, opens=open_bundle, sizes=baked)
    return out, ""


@checked
def bench(bundles: Folders | None = None, settings: BenchSettings = BenchSettings()) -> tuple[Report, Path]:
    """Measure bundles beside the PyTorch reference; every answer is plain greedy decoding.

    Args:
        bundles: One or several, as text, Path or `Bundle`; all of the latest run when None.
        settings: How, and where.

    Returns:
        The report and its folder.
    """
    from edgekit.external_results import read_results
    from edgekit.report.files import add_rows
    from edgekit.runtimes import asking
    from edgekit.runtimes.bench import bench as run_bench

    elsewhere = [
        row for path in arguments.paths(settings.external_results, "external_results") for row in read_results(path)
    ]
    out = None if settings.out is None else arguments.path(settings.out, "out")
    if not settings.measure:
        place = out or latest_run().reports / "bench"
        return add_rows(place, elsewhere), place
    run, chosen = _subjects(bundles)
    place = out or (run.reports / "bench" if run is not None else Path("edgekit-bench"))
    with asking(settings.runtime):
        report = run_bench(
            chosen,
            reference_of(_model(settings.reference), chosen),
            _resolved(settings, run),
            place,
            gates=_gates(settings.gates, run),
            device=settings.device,
            run=run.name if run is not None else None,
            prepared=run.students()[1:] if run is not None and settings.reference is None else (),
        )
    if elsewhere:
        report = add_rows(place, elsewhere)
    return report, place


def _subjects(bundles: Folders | None) -> tuple[Run | None, list[Path]]:
    """The run that a call means, and the bundles: those named, else all of the latest run's."""
    if bundles is not None:
        chosen = arguments.folders(bundles, "bundles")
        return run_of(chosen), chosen
    run = latest_run()
    chosen = sorted(path for path in run.bundles.glob("*") if (path / "manifest.json").exists())
    if not chosen:
        raise EdgekitError(f"The run {run.name!r} has no bundles yet.", fix="Make one:  edgekit export --target onnx")
    note(f"Measuring {', '.join(path.name for path in chosen)} beside PyTorch.")
    return run, chosen


def _resolved(asked: BenchSettings, run: Run | None) -> Settings:
    """What is asked for, and for the rest what the run's recipe says."""
    from edgekit.recipe.model import Bench
    from edgekit.runtimes.bench import Settings
    from edgekit.system.timeouts import changed

    recipe = run.recipe() if run is not None else None
    usual = recipe.bench if recipe is not None else Bench()
    data = None if asked.data is None else str(arguments.path(asked.data, "data"))
    data = data or usual.data or (recipe.data.test if recipe is not None else None)
    if data is None:
        raise EdgekitError("No questions to measure on.", fix="Name some:  --data questions.jsonl")
    return Settings(
        data=data,
        scoring=recipe.data.scoring if recipe is not None else "exact",
        limit=usual.limit if asked.limit is None else (asked.limit or None),
        threads=asked.threads or usual.threads,
        warmup=usual.warmup,
        max_new_tokens=usual.max_new_tokens,
        prompt_tokens=_lengths(asked.prompt_tokens, usual.prompt_tokens, "prompt_tokens"),
        new_tokens=_lengths(asked.new_tokens, usual.new_tokens, "new_tokens"),
        repetitions=usual.repetitions if asked.repetitions is None else asked.repetitions,
        processes=usual.processes if asked.processes is None else asked.processes,
        sustain_s=asked.sustain_s,
        timeouts=changed(usual.timeouts, arguments.texts(asked.timeouts, "timeouts")),
    )


def _lengths(given: int | Iterable[int] | None, usual: tuple[int, ...], name: str) -> tuple[int, ...]:
    return usual if given is None else tuple(arguments.counts(given, name))


def _gates(given: Mapping[str, float | int | None], run: Run | None) -> Gates:
    """The recipe's gates, and over them those given.

    Raises:
        EdgekitError: one is not a gate's name, or no number.
    """
    from dataclasses import fields, replace

    from edgekit.recipe.model import Gates

    names = [field.name for field in fields(Gates)]
    for name, value in given.items():
        if name not in names:
            raise EdgekitError(f"There is no gate {name!r}.", fix=f"There are: {', '.join(names)}.")
        if value is not None:
            arguments.reals(value, f"gates[{name!r}]")
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(run.recipe().gates if run is not None else Gates(), **changes)


MOST_NAMED = 12
"""Regressions in a verdict of one line."""


@checked
def compare(old: PathLike, new: PathLike, *, tolerance: float = 0.05) -> Comparison:
    """What got significantly worse from one report of `bench` to another.

    Args:
        old, new: report.json, or the folder that holds it, as text or Path; results.jsonl beside it makes the tests
            sharper.
        tolerance: Share that latency, memory or size may get worse.

    Returns:
        Every change, and a one-line verdict.
    """
    from edgekit.report.compare import compare as find
    from edgekit.report.compare import notes
    from edgekit.report.files import read_measured

    before, after = read_measured(arguments.path(old, "old")), read_measured(arguments.path(new, "new"))
    changes = find(before, after, tolerance=tolerance)
    worse = [f"{change.row}: {change.figure} {change.change}" for change in changes if change.regression]
    more = f"; and {len(worse) - MOST_NAMED} more" if len(worse) > MOST_NAMED else ""
    verdict = (
        f"FAIL: {'; '.join(worse[:MOST_NAMED])}{more}"
        if worse
        else f"PASS: nothing significantly worse in {len(changes)} figures"
    )
    return Comparison(verdict, len(worse), notes(before, after, changes), changes)
