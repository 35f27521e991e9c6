"""What an ablation found: report.json as a typed document."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.distill.outcomes import Outcome
from edgekit.distill.recommend import Recommendation

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Untouched:
    """The student before any training.

    Attributes:
        accuracy: On the test questions, in [0, 1].
        ci95: Its 95 % interval over questions.
        retention: Accuracy on the questions about something else; None without such questions.
    """

    accuracy: float
    ci95: tuple[float, float]
    retention: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For report.json; without `retention` where nothing else was asked."""
        found: dict[str, Any] = {"accuracy": self.accuracy, "ci95": list(self.ci95)}
        return found if self.retention is None else {**found, "retention": self.retention}


@dataclass(frozen=True)
class AblationReport:
    """The arms of an ablation beside plain distillation.

    Attributes:
        recipe_sha256: Of the ablation's recipe.
        test: Data spec of the test questions.
        questions: How many.
        seeds: Of each arm's runs.
        untouched: The student before.
        baseline: The arm that the others are compared with.
        tuning: What the learning rates were chosen among, with which seed, on how many questions; None without.
        arms: The baseline first.
        recommendation: The arm to train with, and the command.
    """

    recipe_sha256: str
    test: str
    questions: int
    seeds: list[int]
    untouched: Untouched
    baseline: str
    tuning: Mapping[str, Any] | None
    arms: list[Outcome]
    recommendation: Recommendation

    def as_dict(self) -> dict[str, Any]:
        """What report.json holds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe_sha256": self.recipe_sha256,
            "test": self.test,
            "questions": self.questions,
            "seeds": self.seeds,
            "untouched": self.untouched.as_dict(),
            "baseline": self.baseline,
            "tuning": self.tuning,
            "arms": [outcome.as_dict() for outcome in self.arms],
            "recommendation": dataclasses.asdict(self.recommendation),
        }
