"""verify and bench: a bundle beside its reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.api.runs import latest_run, made_from, reference_of, run_data, run_of
from edgekit.console import note
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.report import Report


def verify(
    bundle: Path,
    *,
    reference: Path | str | None = None,
    data: str | None = None,
    samples: int | None = None,
    threads: int = 1,
    attribute: bool = False,
) -> dict[str, Any]:
    """Check a bundle's files, and run it beside its student; also written to parity.json in the bundle.

    Args:
        bundle: Folder.
        reference: The student's checkpoint; found beside the bundle's run when None.
        data: Questions; the run's test questions, else stock questions, when None.
        samples: How many; 32, and more where the answers are short (`edgekit.bars.settling`), when None.
        threads: CPU threads of each side.
        attribute: Find out which part costs what; the target's fp32 export is made for it and thrown away.
    Returns:
        `edgekit.parity.Parity` as JSON: figures, bars, and `passed`. Both sides run in a process of their own: where
        that dies, nothing is compared, `passed` is false, and `why` says how it ended, with its last lines.
    """
    from edgekit.apart import Apart, ProcessDied
    from edgekit.bundle import Bundle
    from edgekit.runtimes.verify import died, verify_bundle

    found = reference_of(reference, [bundle])
    if reference is None and (prepared := made_from(bundle)) is not None:
        found = prepared
    questions = data or run_data([bundle])
    if found is None:
        return verify_bundle(bundle, None, questions, samples, attribution=attribute)
    Bundle.load(bundle)  # one that is not whole needs no process to say so
    asked = {"folder": str(bundle), "reference": str(found), "data": questions, "count": samples}
    try:
        with Apart() as apart:
            result: dict[str, Any] = apart.call(
                __name__, "verify_here", **asked, threads=threads, attribution=attribute
            )
    except ProcessDied as error:
        return died(bundle, str(error))
    return result


def verify_here(
    folder: str, reference: str, data: str | None, count: int | None, threads: int, attribution: bool
) -> dict[str, Any]:
    """`verify` with a reference, in this process; see `edgekit.runtimes.verify.verify_bundle`."""
    from edgekit.runtimes.verify import verify_bundle
    from edgekit.temporary import room

    bundle, found = Path(folder), Path(reference)
    if not attribution:
        return verify_bundle(bundle, found, data, count, threads=threads)
    with room("verify") as place:
        plain, why = _plain_export(bundle, found, place / "fp32")
        return verify_bundle(bundle, found, data, count, threads=threads, attribution=True, plain=plain, note=why)


def _plain_export(folder: Path, reference: Path, out: Path) -> tuple[Path | None, str]:
    """The bundle's checkpoint in the same target and sizes in fp32, or why there is none."""
    from edgekit.bundle import Bundle
    from edgekit.checkpoint import checkpoint_hash
    from edgekit.export import TARGETS
    from edgekit.export.bundling import export_checkpoint

    manifest = Bundle.load(folder).manifest
    if manifest.precision.common == "fp32":
        return None, "the bundle is fp32: nothing of it is quantised"
    if checkpoint_hash(reference) != manifest.student_sha256:
        return None, "no checkpoint to export"  # the comparison itself says so in full
    if "fp32" not in TARGETS.load(manifest.target).PRECISIONS:
        return None, f"the target {manifest.target!r} has no fp32"
    sizes = manifest.preprocessing.get("sizes")
    note("Exporting the checkpoint in fp32, for the share of quantisation.")
    export_checkpoint(reference, manifest.target, "fp32", out, sizes=sizes and [(w, h) for w, h in sizes])
    return out, ""


def bench(
    bundles: list[Path] | None = None,
    *,
    reference: Path | str | None = None,
    data: str | None = None,
    limit: int | None = None,
    threads: int | None = None,
    device: str = "host",
    out: Path | None = None,
    bars: dict[str, float | int | None] | None = None,
    prompt_tokens: Sequence[int] | None = None,
    new_tokens: Sequence[int] | None = None,
    repetitions: int | None = None,
    processes: int | None = None,
    sustain_s: float = 0.0,
    timeouts: Sequence[str] = (),
    imports: Sequence[Path] = (),
    measure: bool = True,
) -> tuple[Report, Path]:
    """Measure bundles beside the PyTorch reference.

    Args:
        bundles: Folders; all of the latest run when None.
        reference: The student's checkpoint; found from the bundles' run when None.
        data: Questions; the run's when None.
        limit: The first so many; the recipe's `bench.limit` when None, 0 for all.
        threads: Of each runtime; the recipe's when None.
        device: Where.
        out: Folder of the report; `reports/bench` of the run when None.
        bars: Fields of `Gates` that override the recipe's.
        prompt_tokens, new_tokens: Lengths of the speed tests `pp` and `tg`, 0 for none; the recipe's when None.
        repetitions: Of each speed test, 0 for none; the recipe's when None.
        processes: Fresh ones of each row, one after the other through the questions; the recipe's when None.
        sustain_s: Seconds that each row answers without a pause at the end, to see whether it slows down.
        timeouts: `PHASE=TIME` each, over the recipe's `bench.timeouts`; see `edgekit.timeouts`.
        imports: Files with results measured elsewhere, whose rows are added; see `edgekit.imports`.
        measure: False adds them to the report that lies in `out` already.
    Returns:
        The report and its folder.
    """
    from dataclasses import replace

    from edgekit.imports import read_results
    from edgekit.recipe import Bench, Gates
    from edgekit.report import add_rows
    from edgekit.runtimes.bench import Settings
    from edgekit.runtimes.bench import bench as run_bench
    from edgekit.timeouts import changed

    elsewhere = [row for path in imports for row in read_results(path)]
    if not measure:
        place = out or latest_run().reports / "bench"
        return add_rows(place, elsewhere), place
    run = latest_run() if bundles is None else run_of(bundles)
    if bundles is None and run is not None:
        bundles = sorted(path for path in run.bundles.glob("*") if (path / "manifest.json").exists())
        if not bundles:
            raise EdgekitError(
                f"The run {run.name!r} has no bundles yet.", fix="Make one:  edgekit export --target onnx"
            )
        note(f"Measuring {', '.join(path.name for path in bundles)} beside PyTorch.")
    recipe = run.recipe() if run is not None else None
    usual = recipe.bench if recipe is not None else Bench()
    spec = data or usual.data or (recipe.data.test if recipe is not None else None)
    if spec is None:
        raise EdgekitError("No questions to measure on.", fix="Name some:  --data questions.jsonl")
    settings = Settings(
        data=spec,
        scoring=recipe.data.scoring if recipe is not None else "exact",
        limit=usual.limit if limit is None else (limit or None),
        threads=threads or usual.threads,
        warmup=usual.warmup,
        max_new_tokens=usual.max_new_tokens,
        prompt_tokens=usual.prompt_tokens if prompt_tokens is None else tuple(prompt_tokens),
        new_tokens=usual.new_tokens if new_tokens is None else tuple(new_tokens),
        repetitions=usual.repetitions if repetitions is None else repetitions,
        processes=usual.processes if processes is None else processes,
        sustain_s=sustain_s,
        timeouts=changed(usual.timeouts, timeouts),
    )
    given = {key: value for key, value in (bars or {}).items() if value is not None}
    gates = replace(recipe.gates if recipe is not None else Gates(), **given)  # type: ignore[arg-type]
    place = out or (run.reports / "bench" if run is not None else Path("edgekit-bench"))
    name = run.name if run is not None else None
    report = run_bench(
        bundles or [],
        reference_of(reference, bundles or []),
        settings,
        place,
        bars=gates,
        device=device,
        run=name,
        prepared=run.students()[1:] if run is not None and reference is None else (),
    )
    if elsewhere:
        report = add_rows(place, elsewhere)
    return report, place


def compare(old: Path, new: Path, *, tolerance: float = 0.05) -> dict[str, Any]:
    """What got significantly worse from one report of `bench` to another.

    Args:
        old, new: report.json, or the folder that holds it; results.jsonl beside it makes the tests sharper.
        tolerance: Share that latency, memory or size may get worse.
    Returns:
        changes, notes, regressions (their number) and a one-line verdict.
    """
    from edgekit.compare import compare as find
    from edgekit.compare import notes, read_measured
    from edgekit.schema import to_json

    before, after = read_measured(old), read_measured(new)
    changes = find(before, after, tolerance=tolerance)
    worse = [f"{change.row}: {change.figure} {change.change}" for change in changes if change.regression]
    verdict = f"FAIL: {'; '.join(worse)}" if worse else f"PASS: nothing significantly worse in {len(changes)} figures"
    return {
        "verdict": verdict,
        "regressions": len(worse),
        "notes": notes(before, after, changes),
        "changes": to_json(changes),
    }
