"""What the verbs give back: one typed result each; `as_json` is what `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import schema

if TYPE_CHECKING:
    from edgekit.data.check import Findings
    from edgekit.distill.probe import Probe
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
        options: Of its own: the words of each, the default first, or a free text's default.
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
class Masked(Result):
    """A masked teacher: its folder, the share of each layer's weights that is masked, and how many tensors were."""

    folder: str
    ratio: float
    tensors: int


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
        why: There is none, or it failed before it could be compared.
        checks: Figures with their tolerances.
        seconds: It took.
        verified_by: As of `Said`.
    """

    family: str
    target: str
    precision: str
    passed: bool | None
    why: str = ""
    checks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    verified_by: str = ""

    def as_json(self) -> dict[str, Any]:
        """`why` alone, or what was measured."""
        found = super().as_json()
        left = ("checks", "seconds", "verified_by") if self.why else ("why",)
        return {name: value for name, value in found.items() if name not in left}


@dataclass(frozen=True)
class Probed(Result):
    """A teacher at rising mask ratios.

    Attributes:
        sweep: The rows, and the proposal for r_max.
        files: Those written.
    """

    sweep: Probe
    files: list[Path]

    def as_json(self) -> dict[str, Any]:
        """The sweep, as it lies in the first of the files."""
        return self.sweep.as_dict()


@dataclass(frozen=True)
class Gain:
    """Accuracy before and after, in [0, 1], on the same questions, with 95 % intervals.

    Attributes:
        n: Questions.
        before, after: Mean scores.
        delta: after less before; its interval is of the paired differences.
        p_value_mcnemar: Of no difference.
        test: Data spec of the questions.
        gained, lost: Questions answered right only after, and only before.
    """

    n: int
    before: float
    before_ci95: tuple[float, float]
    after: float
    after_ci95: tuple[float, float]
    delta: float
    delta_ci95: tuple[float, float]
    p_value_mcnemar: float
    test: str
    gained: int
    lost: int


@dataclass(frozen=True)
class Distilled(Result):
    """A finished run of MASTERS.

    Attributes:
        folder: The run's.
        manifest: What manifest.json holds, all of it; what the others here are read from.
        accuracy: On the test questions.
        retention: On the questions of what else it could, where the recipe names some.
        student_sha256: Of the student's weights.
    """

    folder: Path
    manifest: Mapping[str, Any]
    accuracy: Gain
    retention: Gain | None
    student_sha256: str

    @property
    def student(self) -> Path:
        """Its checkpoint."""
        return self.folder / "student"

    def as_json(self) -> dict[str, Any]:
        """The manifest."""
        return dict(self.manifest)


@dataclass(frozen=True)
class DistillPlan(Result):
    """What a run would need.

    Attributes:
        parameters: teachers (by name), student, and those of it that are trained.
        questions: train, test.
        responses: teacher, student, and tokens of both.
        memory_bytes: Of one process: training and gen_data by part, the peak, and what is not counted.
        disk_bytes: By part, and total.
        flops: By phase, and per_second of one device.
        hours: By phase, and total.
        assumptions: In sentences.
    """

    parameters: Mapping[str, Any]
    questions: Mapping[str, int]
    responses: Mapping[str, float]
    memory_bytes: Mapping[str, Any]
    disk_bytes: Mapping[str, float]
    flops: Mapping[str, float]
    hours: Mapping[str, float]
    assumptions: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """The fields, one level of names as they are."""
        return {one.name: getattr(self, one.name) for one in fields(self)}
