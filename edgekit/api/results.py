"""What the verbs give back: one typed result each; `as_json` is what `--json` prints. Those on the way to a student are
in `edgekit.api.distilling_results`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgekit import schema

if TYPE_CHECKING:
    from edgekit.data.check import Findings
    from edgekit.report.compare import Change
    from edgekit.runtimes.generate import Timings


@dataclass(frozen=True)
class Result:
    """What every result can do."""

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        found: dict[str, Any] = schema.to_json(self)
        return found


@dataclass(frozen=True)
class HowGenerated(Result):
    """How an answer was made.

    Attributes:
        mode: model or greedy.
        settings: Of the model's own (generation_config.json), those that acted.
        not_followed: Those that were not.
    """

    mode: str
    settings: dict[str, Any]
    not_followed: tuple[str, ...]


@dataclass(frozen=True)
class Said(Result):
    """An answer of `run`, or of a turn of `chat`.

    Attributes:
        text: Without special tokens.
        token_ids: The end token included, when it came.
        finish: What ended it: eos, stop or length.
        generation: How it was made.
        runtime: That made it.
        verified_by: runtime, or evaluator where the target's own runtime is not here.
        timings: Of its parts, milliseconds.
        timing_note: What must be known of them; None where they are a device's own.
    """

    text: str
    token_ids: list[int]
    finish: Literal["eos", "stop", "length"]
    generation: HowGenerated
    runtime: str
    verified_by: str
    timings: Timings
    timing_note: str | None

    def as_json(self) -> dict[str, Any]:
        """TTFT, a sum of the timings, among them."""
        return {**super().as_json(), "timings": self.timings.as_dict()}


@dataclass(frozen=True)
class SideBySide(Result):
    """One model's answer beside others'; of one that could not answer `problem` alone.

    Attributes:
        name, model: Of the folder, and the folder.
        runtime: That was asked.
        problem: Why there is no answer; "" where there is one.
        load_ms: From nothing to ready.
        text, token_ids, finish, generation: As of `Said`.
        timings: Milliseconds, as of `Said`.
        same: Whether its tokens are the first model's.
    """

    name: str
    model: str
    runtime: str
    problem: str = ""
    load_ms: float = 0.0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish: str = ""
    generation: HowGenerated | None = None
    timings: dict[str, Any] = field(default_factory=dict)
    same: bool = False

    def as_json(self) -> dict[str, Any]:
        """`problem` alone, or the answer."""
        found = super().as_json()
        kept = ("name", "model", "runtime", "problem") if self.problem else found.keys() - {"problem"}
        return {name: value for name, value in found.items() if name in kept}


@dataclass(frozen=True)
class Ready(Result):
    """A thing that `doctor` looked at, and what to do where it is missing."""

    name: str
    ready: bool
    detail: str
    fix: str


@dataclass(frozen=True)
class TargetStatus(Result):
    """An export target.

    Attributes:
        target: Its name.
        precisions: Common names.
        options: Of its own: the choices of each, the default first, or a free text's default.
        hosts: Operating systems it can be exported on.
        runtimes: That run its bundles.
        ready: Whether it can be exported here and now.
        missing: What to do where it is not; "" where it is.
    """

    target: str
    precisions: list[str]
    options: dict[str, str | list[str]]
    hosts: list[str]
    runtimes: list[str]
    ready: bool
    missing: str


@dataclass(frozen=True)
class DeviceStatus(Result):
    """Whether a device can be used now, and what it is or why it cannot."""

    device: str
    ready: bool
    detail: str


@dataclass(frozen=True)
class DataCheck(Result):
    """What `data check` found, and what it wrote.

    Attributes:
        findings: Rows that can be used, those that cannot, and what stands in them.
        to: The file asked for; None without one.
        written: Rows in it.
    """

    findings: Findings
    to: str | None = None
    written: int = 0

    def as_json(self) -> dict[str, Any]:
        """The findings; with a file, `to` and `written`."""
        return self.findings.as_dict() | ({} if self.to is None else {"to": self.to, "written": self.written})


@dataclass(frozen=True)
class ImageSize(Result):
    """An image as it is stored: pixels, and Pillow's mode."""

    width: int
    height: int
    mode: str


@dataclass(frozen=True)
class SampleShown(Result):
    """A row of a data set.

    Attributes:
        id: Of the row.
        form: That it came in.
        question, answer: Texts.
        answers: Of several people, where there are some.
        dataset: Of a mixture, the one it is of.
        messages: What a model is asked.
        images: Sizes.
        location: File and line.
    """

    id: str
    form: str
    question: str
    answer: str | None
    answers: list[str]
    dataset: str | None
    messages: list[Any]
    images: list[ImageSize]
    location: str


@dataclass(frozen=True)
class AppWritten(Result):
    """An app around a bundle.

    Attributes:
        platform: Its name.
        out: The app's folder.
        files: Name -> bytes.
        bytes: Of all of them.
        model_bytes: Of the model.
        model_url: That it is downloaded from; "" where it is in the app.
        start: What to do next.
        written: False of a dry run.
    """

    platform: str
    out: str
    files: dict[str, int]
    bytes: int
    model_bytes: int
    model_url: str
    start: str
    written: bool


@dataclass(frozen=True)
class Comparison(Result):
    """Two reports beside each other.

    Attributes:
        verdict: One line.
        regressions: Figures that got significantly worse.
        notes: What must be known of the comparison.
        changes: Every figure.
    """

    verdict: str
    regressions: int
    notes: list[str]
    changes: list[Change]


@dataclass(frozen=True)
class MatrixRow(Result):
    """A tiny model of a family, exported, run, and compared with PyTorch.

    Attributes:
        family, target, precision: Names.
        passed: None where there was nothing to measure: for want of a package, or of a place for such a model.
        level: The highest of `edgekit.api.ladder.RUNGS` that held; 1 to 3 are the family's alone.
        why: There is none, or it failed before it could be compared, or behind that.
        checks: Figures with their tolerances.
        seconds: It took.
        verified_by: As of `Said`.
    """

    family: str
    target: str
    precision: str
    passed: bool | None
    level: int = 0
    why: str = ""
    checks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    verified_by: str = ""

    def as_json(self) -> dict[str, Any]:
        """`why` alone where nothing was measured, and what was measured."""
        found = super().as_json()
        left: tuple[str, ...] = (
            () if self.why and self.checks else ("checks", "seconds", "verified_by") if self.why else ("why",)
        )
        return {name: value for name, value in found.items() if name not in left}


@dataclass(frozen=True)
class CardWritten(Result):
    """A model card.

    Attributes:
        folder: It lies in.
        text: README.md.
        files: Names of all that was written.
    """

    folder: str
    text: str
    files: list[str]


@dataclass(frozen=True)
class Pushed(Result):
    """What went to the hub, or would go.

    Attributes:
        repository: `ORG/NAME`.
        files: Bytes by name.
        url: Of the commit; "" of a dry run.
    """

    repository: str
    files: dict[str, int]
    url: str
