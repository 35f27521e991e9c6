"""What the verbs on the way to a student give back, as `edgekit.api.results` has those of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.api.results import Result

if TYPE_CHECKING:
    from edgekit.distill.ablation_report import AblationReport
    from edgekit.distill.probe import Probe


@dataclass(frozen=True)
class Masked(Result):
    """A masked teacher: its folder, the share of each layer's weights that is masked, and how many tensors were."""

    folder: str
    ratio: float
    tensors: int


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


@dataclass(frozen=True)
class Ablated(Result):
    """The arms of an ablation beside plain distillation.

    Attributes:
        folder: The ablation's.
        report: The arms, their differences, and the recommendation.
    """

    folder: Path
    report: AblationReport

    def as_json(self) -> dict[str, Any]:
        """The report, as it lies in report.json."""
        return self.report.as_dict()


@dataclass(frozen=True)
class KindAccuracy:
    """Accuracy on the test questions of one kind, in [0, 1], with its 95 % interval."""

    accuracy: float
    ci95: tuple[float, float]
    questions: int


@dataclass(frozen=True)
class DemoCard(Result):
    """What a demo model is, how it was trained, and what it can do.

    Attributes:
        record: What card.json holds, all of it; what the others here are read from.
        architecture: Its class in transformers.
        parameters: How many.
        data: That it was trained on, in words.
        seed: Of weights, data order and augmentation.
        train_seconds: By phase.
        threads: CPU threads of the training.
        step: After which it is a snapshot of a longer training; None of a whole one.
        test_accuracy: In [0, 1].
        test_accuracy_ci95: Its 95 % interval over questions.
        test_questions: How many.
        test_by_kind: Kind of question -> accuracy; of the task `scenes` alone.
        snapshots: Level -> folder of each kept on the way; of a training that kept some.
    """

    record: Mapping[str, Any]
    architecture: str
    parameters: int
    data: str
    seed: int
    train_seconds: Mapping[str, int]
    threads: int
    step: int | None
    test_accuracy: float
    test_accuracy_ci95: tuple[float, float]
    test_questions: int
    test_by_kind: Mapping[str, KindAccuracy]
    snapshots: Mapping[str, str]

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> DemoCard:
        """The card that a card.json of edgekit's own holds."""
        low, high = record["test_accuracy_ci95"]
        kinds = {
            kind: KindAccuracy(own["accuracy"], (own["ci95"][0], own["ci95"][1]), own["questions"])
            for kind, own in record.get("test_by_kind", {}).items()
        }
        return cls(
            record=record,
            architecture=record["architecture"],
            parameters=record["parameters"],
            data=record["data"],
            seed=record["seed"],
            train_seconds=record["train_seconds"],
            threads=record["threads"],
            step=record.get("step"),
            test_accuracy=record["test_accuracy"],
            test_accuracy_ci95=(low, high),
            test_questions=record["test_questions"],
            test_by_kind=kinds,
            snapshots=record.get("snapshots", {}),
        )

    def as_json(self) -> dict[str, Any]:
        """The card, as it lies in card.json."""
        return dict(self.record)
