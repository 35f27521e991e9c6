"""`edgekit bench`: each bundle and the PyTorch reference in a fresh process, on the same questions, in turns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from edgekit import __version__
from edgekit.bundle import MANIFEST, Bundle
from edgekit.checkpoint.folder import check_checkpoint, checkpoint_hash
from edgekit.console import note
from edgekit.data import samples
from edgekit.data.scoring import KEY, check_metrics
from edgekit.devices import Address, Board, Visit, parse_address
from edgekit.errors import BundleError, EdgekitError
from edgekit.files import sha256_file, sha256_json
from edgekit.held import Held, stamp
from edgekit.recipe.model import Gates
from edgekit.recipe.per_dataset import describe, pick
from edgekit.report.model import SCHEMA_VERSION, Lineage, Report, Row
from edgekit.report.write import write_report
from edgekit.runtimes import RUNTIMES, guests, placement, runtime_for
from edgekit.runtimes.examples import choose_examples
from edgekit.runtimes.gates import failures
from edgekit.runtimes.journal import Journal
from edgekit.runtimes.measure import Measured, Settings, measure, turn_lengths, turns_of_process
from edgekit.runtimes.rows import METHODS, adjust, fill
from edgekit.runtimes.worker import Job
from edgekit.schema import to_json
from edgekit.system import interrupts, machine
from edgekit.system.temporary import room

__all__ = ["Report", "Settings", "bench"]


def bench(
    bundles: Sequence[Path],
    reference: Path | None,
    settings: Settings,
    out: Path,
    *,
    gates: Gates | None = None,
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
        gates: Gates; a miss is in the report's verdict, the exit code is the caller's.
        device: Address of a device, see edgekit.devices: the bundles run there, checkpoints always here.
        run: Of the workspace, for the report.
        extra: Further checkpoints to measure beside the reference.
        prepared: Students made from the reference for a precision; a bundle of one of them is compared with the
            reference like any other, and a note says so.

    Returns:
        The report, also written to `out`.

    Raises:
        EdgekitError: bad data or metric, a bundle of another student, an unknown device.
    """
    address = parse_address(device)
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
    found = [Measured(f"{one.name} on {one.runtime}", problem=one.problem) for one in subjects]
    state = _State(subjects, found, settings, out, total, reference, gates or Gates(), run)
    try:
        _measure(state, address)
    except BaseException as error:  # Ctrl-C, or a fault of ours: what was measured by then is kept
        if state.at is not None and any(one.answers for one in found):
            state.stopped = f"{type(error).__name__} {error}".strip()
            _write(state)
            note(f"What was measured by then is in {out}; the same command goes on from there.")
        raise
    report = _write(state)
    assert state.journal is not None
    state.journal.close()
    return report


@dataclass
class _State:
    """A bench under way.

    Attributes:
        subjects, found: What is measured, and what is known of each.
        settings, out, total, reference, gates, run: As of `bench`; `total` is the number of questions.
        at, about: Where it runs, and what the device said of itself.
        timed: Rows of a device that only times bundles, and their raw samples.
        visits: Of devices that came by themselves.
        journal: On the disk.
        stopped: Why it was ended early.
    """

    subjects: Sequence[_Subject]
    found: list[Measured]
    settings: Settings
    out: Path
    total: int
    reference: Path | None
    gates: Gates
    run: str | None
    at: placement.Place | None = None
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    timed: list[tuple[Row, list[dict[str, Any]]]] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    journal: Journal | None = None
    stopped: str = ""

    def offered(self) -> list[_Subject]:
        """Bundles that are well."""
        return [one for one in self.subjects if one.target != "checkpoint" and not one.problem]

    def boards(self) -> list[Board | None]:
        """Of each subject, None for this machine."""
        assert self.at is not None
        return [None if one.target == "checkpoint" else self.at.board for one in self.subjects]


def _measure(state: _State, address: Address) -> None:
    settings = state.settings
    interrupts.say("the bench; what is measured by now is reported")
    with room("bench") as place, placement.place_at(address) as at:
        state.at = at
        boards = state.boards()
        state.about = at.described()
        state.journal = Journal(state.out, _header(state))
        jobs = [None if one.problem else one.job(settings) for one in state.subjects]
        measure(jobs, state.found, settings, place, state.total, bool(state.reference), boards, state.journal)
        for number, one in enumerate(state.subjects):
            if at.timer is not None and one.target != "checkpoint" and not one.problem:
                aside, row = place / f"timed-{number}", one.row(at.name)
                timed = placement.time_on(at.timer, one.folder, one.runtime, settings.threads, row, aside)
                state.timed.append(_held_row(one, timed))
        if at.guests is not None:
            guests.gather(at.guests, [one.folder for one in state.offered()], settings, state.visits, at.name)


def _header(state: _State) -> dict[str, Any]:
    """What an unfinished bench must have in common with this one to be taken up."""
    assert state.at is not None
    return {
        "settings": to_json(state.settings),
        "subjects": [[one.name, one.runtime, one.held.identity] for one in state.subjects],
        "device": str(state.at.address),
        "machine": machine.describe(),
        "edgekit": __version__,
    }


def _write(state: _State) -> Report:
    """Make the report of what is measured, and write it."""
    at, subjects, measured, settings = state.at, state.subjects, state.found, state.settings
    assert at is not None
    if state.stopped:
        for one in measured:
            one.problem = one.problem or (None if one.answers else "the bench was ended before it was asked anything")
    rounds = len(turn_lengths(state.total))
    devices = [placement.HOST if board is None else at.name for board in state.boards()]
    came = _guests(state)
    rows = adjust([*_rows(subjects, measured, devices, bool(state.reference)), *(one.row for one in came)])
    report = Report(
        schema_version=SCHEMA_VERSION,
        data=settings.data,
        scoring=describe(settings.scoring),
        threads=settings.threads,
        machine=machine.describe(),
        rows=(*rows, *(row for row, _ in state.timed)),
        gates={key: value for key, value in to_json(state.gates).items() if value is not None},
        run=state.run,
        versions=_versions(),
        notes=_stopped(state)
        + _notes(subjects, state.reference)
        + at.notes()
        + _told(subjects, measured)
        + tuple(note for visit in state.visits for note in visit.notes),
        devices=state.about | {visit.guest: dict(visit.about) for visit in state.visits if visit.about},
        predictions=at.predictions([one.folder for one in state.offered()]),
        turns=rounds if len(subjects) > 1 else 1,
        processes=math.ceil(rounds / turns_of_process(rounds, settings.processes)),
        methods=METHODS,
        lineage=tuple(one.lineage for one in subjects if one.lineage is not None),
    )
    verdict = f"FAIL: ended early: {state.stopped}" if state.stopped else _verdict(report, state.gates)
    report = replace(report, verdict=verdict)
    found = [*measured, *(one.measured for one in came)]
    samples_of = [one.answers for one in found] + [raw for _, raw in state.timed]
    raw = [
        {"bundle": row.bundle, "name": row.name, "runtime": row.runtime, "device": row.device, **sample}
        for row, given in zip(report.rows, samples_of, strict=True)
        for sample in given
    ]
    write_report(report, state.out, raw, choose_examples(settings.data, settings.limit, rows, found))
    return report


def _guests(state: _State) -> list[guests.Guest]:
    """Rows of devices that came by themselves; failed where their bundle was replaced meanwhile."""
    assert state.at is not None
    offered, named = state.offered(), [one.row(state.at.name) for one in state.offered()]
    base = state.found[0] if state.reference and state.found[0].problem is None else None
    found = guests.rows(state.visits, named, state.settings, base)
    return [
        replace(one, row=row, measured=replace(one.measured, answers=raw))
        for one in found
        for row, raw in [_held_row(offered[one.bundle], (one.row, one.measured.answers))]
    ]


def _stopped(state: _State) -> tuple[str, ...]:
    if not state.stopped:
        return ()
    counts = ", ".join(f"{one.title} {len(one.answers)}" for one in state.found)
    return (f"This bench was ended early ({state.stopped}). Of {state.total} questions were answered: {counts}.",)


def _held_row(subject: _Subject, timed: tuple[Row, list[dict[str, Any]]]) -> tuple[Row, list[dict[str, Any]]]:
    """The row, failed where its bundle was replaced meanwhile."""
    try:
        subject.held.check()
    except EdgekitError as error:
        return replace(timed[0], status="failed", reason=" ".join(str(error).split())), []
    return timed


def _notes(subjects: Sequence[_Subject], reference: Path | None) -> tuple[str, ...]:
    if reference is None:
        return ("No PyTorch reference was given, so nothing is compared with it.",)
    return tuple(
        f"{subject.name} was exported from {subject.student}, which was trained for that precision after "
        f"{reference.name}; it is compared with {reference.name}."
        for subject in subjects
        if subject.student is not None
    )


def _told(subjects: Sequence[_Subject], measured: Sequence[Measured]) -> tuple[str, ...]:
    """What the runtimes say of how they ran, and what there is to say of bundles."""
    own = tuple(subject.note for subject in subjects if subject.note)
    pairs = zip(subjects, measured, strict=True)
    return own + tuple(f"{subject.name}: {note}" for subject, one in pairs for note in one.figures.get("notes", ()))


@dataclass(frozen=True)
class _Subject:
    folder: Path
    name: str
    runtime: str
    target: str
    precision: str
    hash: str
    size_bytes: int
    held: Held
    problem: str | None = None
    student: str | None = None
    lineage: Lineage | None = None
    note: str = ""

    def row(self, device: str) -> Row:
        verified: Literal["device", "runtime"] = "runtime" if device == placement.HOST else "device"
        return Row(
            bundle=self.hash, name=self.name, runtime=self.runtime, target=self.target, precision=self.precision,
            device=device, status="ok", size_bytes=self.size_bytes, verified_by=verified,
        )  # fmt: skip

    def job(self, settings: Settings) -> Job:
        return Job(
            self.runtime, str(self.folder.resolve()), settings.threads, settings.data, settings.limit,
            settings.scoring, settings.max_new_tokens, self.held.as_json(), vars(settings.timeouts),
        )  # fmt: skip

    @classmethod
    def checkpoint(cls, folder: Path) -> _Subject:
        opened = stamp(folder)
        check_checkpoint(folder)
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        found = checkpoint_hash(folder)
        held = Held(folder, opened, found)
        held.check()
        return cls(folder, f"{folder.name} (reference)", "pytorch", "checkpoint", "fp32", found, size, held)

    @classmethod
    def bundle(cls, folder: Path, student: str | None, allowed: Mapping[str, str]) -> _Subject:
        if not folder.is_dir():
            raise BundleError(f"No bundle at {folder}.", fix="Make one:  edgekit export --target onnx")
        opened = stamp(folder)
        try:
            bundle = Bundle.load(folder)
        except BundleError as error:
            if not (folder / MANIFEST).exists():
                raise
            return cls(
                folder, folder.name, "unknown", "unknown", "unknown", "", 0, Held(folder, opened),
                problem=" ".join(str(error).split()),
            )  # fmt: skip
        held = Held(folder, opened, sha256_json([bundle.hash, sha256_file(folder / MANIFEST)]))
        held.check()
        manifest = bundle.manifest
        if student is not None and manifest.student_sha256 not in {student, *allowed}:
            raise BundleError(
                f"{folder} was exported from another student than the reference.",
                why=f"Its manifest names {manifest.student_sha256[:12]}, the reference is {student[:12]}.",
                fix="Export it again, or name its own checkpoint with --reference.",
            )
        return cls(
            folder, manifest.name, runtime_for(folder), manifest.target, manifest.precision.common, bundle.hash,
            bundle.size_bytes, held, student=allowed.get(manifest.student_sha256),
            lineage=Lineage(
                manifest.name, bundle.hash, manifest.student_sha256, manifest.teacher_sha256, manifest.run,
                manifest.tools,
            ), note=bundle.unsealed,
        )  # fmt: skip


def _rows(
    subjects: Sequence[_Subject], measured: Sequence[Measured], devices: Sequence[str], compare: bool
) -> list[Row]:
    base = measured[0] if compare and measured[0].problem is None else None
    rows = []
    for number, (subject, one, device) in enumerate(zip(subjects, measured, devices, strict=True)):
        row = fill(subject.row(device), one, base if number else None)
        if device != placement.HOST:  # a board's speed over this machine's says nothing of the bundle
            row = replace(row, ttft_ratio=None, ttft_ratio_ci95=None, decode_ratio=None, decode_ratio_ci95=None)
        rows.append(row)
    return rows


def _verdict(report: Report, gates: Gates) -> str:
    failed = [row.name for row in report.rows if row.status == "failed"]
    if report.gates:
        missed = failures(report.rows, gates)
        return f"FAIL: {'; '.join(missed)}" if missed else f"PASS: every bundle holds {len(report.gates)} gate(s)"
    return f"FAIL: not measured: {', '.join(failed)}" if failed else ""


def _versions() -> dict[str, str]:
    found = {"edgekit": __version__}
    packages = {package for _, runtime in RUNTIMES.working() for package in runtime.packages}
    for package in sorted(packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
