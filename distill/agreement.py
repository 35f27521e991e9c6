"""Where a judge that asks a language model and the rule of the data set disagree, counted from a run's responses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from edgekit.console import note
from edgekit.data import Sample
from edgekit.distill.judges import KEY, rule
from edgekit.distill.questions import question
from edgekit.distill.shards import parts_of
from edgekit.recipe.model import Recipe
from edgekit.recipe.per_dataset import DEFAULT, describe, entries, pick
from edgekit.seal import read_sealed_json, write_sealed_json

FILE = "judge-agreement.json"
EXAMPLES = 50
JUDGE_ONLY, RULE_ONLY = "judge_right_rule_wrong", "judge_wrong_rule_right"
COLUMNS = ("id", "messages", "answer", "answers", "dataset", "location")  # not the images


@dataclass
class Tally:
    """Responses by what the judge and the rule gave them."""

    both_right: int = 0
    both_wrong: int = 0
    judge_only: int = 0
    rule_only: int = 0
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {JUDGE_ONLY: [], RULE_ONLY: []})

    @property
    def n(self) -> int:
        """Responses."""
        return self.both_right + self.both_wrong + self.judge_only + self.rule_only

    @property
    def agreement(self) -> float:
        """Share of the responses both give the same; 1 where there is none."""
        return (self.both_right + self.both_wrong) / self.n if self.n else 1.0

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: agreement beyond chance; None where chance alone explains it all.

        Source: Cohen, "A coefficient of agreement for nominal scales", 1960, Eq. (1).
        """
        n = self.n
        judge, by_rule = self.both_right + self.judge_only, self.both_right + self.rule_only
        chance = judge * by_rule + (n - judge) * (n - by_rule)  # times n squared: whole numbers, no rounding
        return (self.agreement * n * n - chance) / (n * n - chance) if n and chance != n * n else None

    def add(self, sample: Sample, said: str, judge: bool, by_rule: bool) -> None:
        """Count one response; the first EXAMPLES different ones of each disagreement are kept."""
        if judge == by_rule:
            self.both_right += judge
            self.both_wrong += not judge
            return
        self.judge_only += judge
        self.rule_only += by_rule
        kept = self.examples[JUDGE_ONLY if judge else RULE_ONLY]
        shown = {"id": sample.id, "question": sample.text, "answers": sorted(set(sample.answers)), "response": said}
        if len(kept) < EXAMPLES and shown not in kept:
            kept.append(shown)

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        names = ("n", "agreement", "kappa", "both_right", "both_wrong", "judge_only", "rule_only", "examples")
        return {name: getattr(self, name) for name in names}


def report_agreement(recipe: Recipe, questions: Path, responses: Path, reports: Path) -> None:
    """Write reports/judge-agreement.json and say it in one line; nothing where every data set is judged by rule.

    Args:
        recipe: Its judges and metrics.
        questions: Folder of question shards.
        responses: Folder of the passes' folders.
        reports: Where to.
    """
    if all(name == "rule" for _, name in entries(recipe.masters.rewards.judge, KEY)):
        return
    path, shards = reports / FILE, len(list(responses.glob("*/shard-*.parquet")))
    if path.exists() and read_sealed_json(path)["shards"] == shards:
        return  # no response came since
    tallies: dict[str, Tally] = {}
    by_rule = rule.make(recipe.data.scoring)
    for sample, said, r_acc in _judged(recipe, questions, responses):
        (wanted,) = by_rule([(sample, said)])
        tallies.setdefault(sample.dataset or DEFAULT, Tally()).add(sample, said, r_acc >= 0.5, wanted >= 0.5)
    value = {
        "judge": describe(recipe.masters.rewards.judge),
        "model": recipe.masters.rewards.llm.judge_model,
        "rule": describe(recipe.data.scoring),
        "shards": shards,
        "datasets": {name: tally.as_dict() for name, tally in sorted(tallies.items())},
    }
    write_sealed_json(path, value)
    shown = "; ".join(_line(name, tally) for name, tally in sorted(tallies.items()))
    note(f"Judge and rule agree: {shown}. Disagreements: {path}")


def _judged(recipe: Recipe, questions: Path, responses: Path) -> Iterator[tuple[Sample, str, float]]:
    """(question, response, R_acc) of what a language model judged, a shard at a time."""
    choice = recipe.masters.rewards.judge
    for path in sorted(questions.glob("shard-*.parquet")):
        stored = pq.ParquetFile(path)
        names = [name for name in COLUMNS if name in stored.schema_arrow.names]
        rows = [question({**row, "images": []}) for row in stored.read(names).to_pylist()]
        asked = {row.id: row for row in rows if pick(choice, row.dataset, KEY) != "rule"}
        for shard in (part for folder in sorted(responses.iterdir()) for part in parts_of(folder, path)):
            for row in pq.read_table(shard, columns=["question_id", "text", "r_acc"]).to_pylist():
                if row["question_id"] in asked:
                    yield asked[row["question_id"]], row["text"], row["r_acc"]


def _line(name: str, tally: Tally) -> str:
    kappa = "none" if tally.kappa is None else f"{tally.kappa:.2f}"
    return f"{name} {tally.agreement:.1%} of {tally.n:,} (kappa {kappa})"
