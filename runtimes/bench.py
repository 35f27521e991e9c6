"""`edgekit bench`: each bundle and the PyTorch reference in a fresh process, on the same questions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import __version__
from edgekit.bundle import MANIFEST, Bundle
from edgekit.checkpoint import check_checkpoint, checkpoint_hash
from edgekit.choice import Choice, describe, pick
from edgekit.console import progress
from edgekit.data import samples
from edgekit.data.scoring import KEY, check_metrics
from edgekit.devices import DEVICES
from edgekit.errors import BundleError, EdgekitError
from edgekit.files import write_json
from edgekit.recipe import Gates
from edgekit.report import SCHEMA_VERSION, Report, Row, write_report
from edgekit.runtimes import RUNTIMES, gates, runtime_for, worker
from edgekit.schema import to_json
from edgekit.stats import median_interval, paired, score_interval


@dataclass(frozen=True)
class Settings:
    """How a bench is run; see `edgekit bench --help`."""

    data: str
    scoring: Choice = "exact"
    limit: int | None = 1000
    threads: int = 1
    warmup: int = 5
    max_new_tokens: int = 16
    trace: int = 64


def bench(
    bundles: Sequence[Path],
    reference: Path | None,
    settings: Settings,
    out: Path,
    *,
    bars: Gates | None = None,
    device: str = "host",
    run: str | None = None,
    extra: Sequence[Path] = (),
    prepared: Sequence[Path] = (),
) -> Report:
    """Measure bundles against the PyTorch reference and write the report.

    Args:
        bundles: At least one bundle, or none to measure the reference alone.
        reference: The student's checkpoint; None leaves the comparison out and says so.
        settings: Questions and repetitions.
        out: Folder of the report.
        bars: Gates; a miss is in the report's verdict, the exit code is the caller's.
        device: Name in edgekit.devices.
        run: Of the workspace, for the report.
        extra: Further checkpoints to measure beside the reference.
        prepared: Students made from the reference for a precision; a bundle of one of them is compared with the
            reference like any other, and a note says so.
    Returns:
        The report, also written to `out`.
    Raises:
        EdgekitError: bad data or metric, a bundle of another student, an unknown device.
    """
    DEVICES.load(device)
    check_metrics(settings.scoring)
    # A question whose data set has no metric is an error here, before anything is measured.
    questions = samples(settings.data, limit=settings.limit)
    total = sum(1 for sample in questions if pick(settings.scoring, sample.dataset, KEY))
    student = None
    if reference is not None:
        check_checkpoint(reference)
        student = checkpoint_hash(reference)
    subjects = [_Subject.checkpoint(path) for path in ([reference] if reference else []) + list(extra)]
    allowed = {checkpoint_hash(path): path.name for path in prepared}
    subjects += [_Subject.bundle(path, student, allowed) for path in bundles]
    if not subjects:
        raise EdgekitError("Nothing to measure.", fix="Make a bundle:  edgekit export --target onnx")
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as place:
        measured = [
            _measure(
                subject, settings, Path(place) / str(number), total, Path(place) / "0" if reference and number else None
            )
            for number, subject in enumerate(subjects)
        ]
    rows = _rows(subjects, measured, device, bool(reference))
    report = Report(
        schema_version=SCHEMA_VERSION,
        data=settings.data,
        scoring=describe(settings.scoring),
        threads=settings.threads,
        machine=DEVICES.load(device).describe(),
        rows=tuple(rows),
        gates={key: value for key, value in to_json(bars or Gates()).items() if value is not None},
        run=run,
        versions=_versions(),
        notes=_notes(subjects, reference),
    )
    report = replace(report, verdict=_verdict(report, bars or Gates()))
    raw = [
        {"bundle": row.bundle, "name": row.name, "runtime": row.runtime, "device": device, **sample}
        for row, one in zip(rows, measured, strict=True)
        for sample in one.answers
    ]
    write_report(report, out, raw)
    return report


def _notes(subjects: Sequence[_Subject], reference: Path | None) -> tuple[str, ...]:
    if reference is None:
        return ("No PyTorch reference was given, so nothing is compared with it.",)
    return tuple(
        f"{subject.name} was exported from {subject.student}, which was trained for that precision after "
        f"{reference.name}; it is compared with {reference.name}."
        for subject in subjects
        if subject.student is not None
    )


@dataclass(frozen=True)
class _Subject:
    folder: Path
    name: str
    runtime: str
    target: str
    precision: str
    hash: str
    size_bytes: int
    problem: str | None = None
    student: str | None = None

    @classmethod
    def checkpoint(cls, folder: Path) -> _Subject:
        check_checkpoint(folder)
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        return cls(folder, f"{folder.name} (reference)", "pytorch", "checkpoint", "fp32", checkpoint_hash(folder), size)

    @classmethod
    def bundle(cls, folder: Path, student: str | None, allowed: Mapping[str, str]) -> _Subject:
        if not folder.is_dir():
            raise BundleError(f"No bundle at {folder}.", fix="Make one:  edgekit export --target onnx")
        try:
            bundle = Bundle.load(folder)
        except BundleError as error:
            if not (folder / MANIFEST).exists():
                raise
            return cls(
                folder, folder.name, "unknown", "unknown", "unknown", "", 0, problem=" ".join(str(error).split())
            )
        manifest = bundle.manifest
        if student is not None and manifest.student_sha256 not in {student, *allowed}:
            raise BundleError(
                f"{folder} was exported from another student than the reference.",
                why=f"Its manifest names {manifest.student_sha256[:12]}, the reference is {student[:12]}.",
                fix="Export it again, or name its own checkpoint with --reference.",
            )
        return cls(
            folder, manifest.name, runtime_for(folder), manifest.target, manifest.precision.common, bundle.hash,
            bundle.size_bytes, student=allowed.get(manifest.student_sha256),
        )  # fmt: skip


@dataclass(frozen=True)
class _Measured:
    answers: list[dict[str, Any]]
    figures: dict[str, Any]
    problem: str | None


def _measure(subject: _Subject, settings: Settings, out: Path, total: int, reference: Path | None) -> _Measured:
    if subject.problem:
        return _Measured([], {}, subject.problem)
    out.mkdir()
    if reference is not None and not (reference / worker.TRACE).exists():
        reference = None
    job = worker.Job(
        subject.runtime, str(subject.folder.resolve()), str(out), settings.data, settings.limit, settings.scoring,
        settings.threads, settings.warmup, settings.max_new_tokens, settings.trace,
        None if reference is None else str(reference),
    )  # fmt: skip
    write_json(out / "job.json", vars(job))
    problem = _run_worker(out, f"{subject.name} on {subject.runtime}", total, settings.threads)
    answers = []
    if (out / worker.ANSWERS).exists() and problem is None:
        answers = [json.loads(line) for line in (out / worker.ANSWERS).read_text(encoding="utf-8").splitlines()]
    figures = json.loads((out / worker.FIGURES).read_text()) if (out / worker.FIGURES).exists() else {}
    return _Measured(answers, figures, problem)


def _run_worker(out: Path, title: str, total: int, threads: int) -> str | None:
    """Run the job in a fresh process; what went wrong, or None."""
    pinned = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, "-m", "edgekit.runtimes.worker", str(out / "job.json")]
    with (out / "stderr.txt").open("w+", encoding="utf-8", errors="replace") as log, progress() as bar:
        task = bar.add_task(title, total=total)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **pinned}, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                try:
                    bar.update(task, completed=json.loads(line)["done"])
                except (ValueError, KeyError, TypeError):
                    continue  # a library's own print
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        tail = " / ".join(line.strip() for line in log.read().splitlines()[-5:] if line.strip())
    if code == 0:
        return None
    if (out / worker.ERROR).exists():
        return " ".join((out / worker.ERROR).read_text(encoding="utf-8").split())
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}{': ' + tail if tail else ''}"


def _rows(subjects: Sequence[_Subject], measured: Sequence[_Measured], device: str, compare: bool) -> list[Row]:
    base = measured[0] if compare and measured[0].problem is None else None
    return [
        _row(subject, one, device, base if number else None)
        for number, (subject, one) in enumerate(zip(subjects, measured, strict=True))
    ]


def _row(subject: _Subject, measured: _Measured, device: str, base: _Measured | None) -> Row:
    row = Row(
        bundle=subject.hash, name=subject.name, runtime=subject.runtime, target=subject.target,
        precision=subject.precision, device=device, status="ok", size_bytes=subject.size_bytes,
    )  # fmt: skip
    if measured.problem is not None:
        return replace(row, status="failed", reason=measured.problem)
    answers, figures = measured.answers, measured.figures
    scores = np.array([item["score"] for item in answers])
    ttft = [item["ttft_ms"] for item in answers]
    gaps = np.array([gap for item in answers for gap in item["itl_ms"]])
    speeds = [1000 * item["prompt_tokens"] / item["prefill_ms"] for item in answers]
    row = replace(
        row,
        n=len(scores),
        accuracy=float(scores.mean()),
        accuracy_ci95=score_interval(scores),
        mean_kl=figures.get("mean_kl"),
        pixel_max_abs=figures.get("pixel_max_abs"),
        verified_by=figures.get("verified_by", "runtime"),
        load_ms=figures["load_ms"],
        preprocess_ms=_median(answers, "preprocess_ms"),
        image_encode_ms=_median(answers, "image_encode_ms"),
        ttft_ms=float(np.median(ttft)),
        ttft_ms_ci95=median_interval(ttft),
        prefill_tokens_per_s=float(np.median(speeds)),
        peak_memory_bytes=figures["peak_memory_bytes"],
    )
    if len(gaps):
        p50, p95, p99 = (float(value) for value in np.quantile(gaps, (0.5, 0.95, 0.99)))
        row = replace(row, decode_tokens_per_s=1000 / p50, itl_ms_p50=p50, itl_ms_p95=p95, itl_ms_p99=p99)
    if base is None:
        return row
    gain = paired(scores, [item["score"] for item in base.answers])
    return replace(
        row,
        accuracy_delta=gain.delta,
        accuracy_delta_ci95=gain.ci95,
        accuracy_p=gain.p_value,
        token_agreement=_agreement(answers, base.answers),
    )


def _median(answers: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.median([item[key] for item in answers]))


def _agreement(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> float:
    """Share of the reference's tokens that come before the first difference, over all questions."""
    equal = total = 0
    for one, other in zip(ours, theirs, strict=True):
        total += len(other["token_ids"])
        for a, b in zip(one["token_ids"], other["token_ids"], strict=False):
            if a != b:
                break
            equal += 1
    return equal / total


def _verdict(report: Report, bars: Gates) -> str:
    failed = [row.name for row in report.rows if row.status == "failed"]
    if report.gates:
        missed = gates.failures(report.rows, bars)
        return f"FAIL: {'; '.join(missed)}" if missed else f"PASS: every bundle holds {len(report.gates)} gate(s)"
    return f"FAIL: not measured: {', '.join(failed)}" if failed else ""


def _versions() -> dict[str, str]:
    found = {"edgekit": __version__}
    packages = {package for name in RUNTIMES.names() for package in RUNTIMES.load(name).PACKAGES}
    for package in sorted(packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
