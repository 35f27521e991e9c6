"""What a run writes down beside its students: who took part, the thresholds of its masks, the logs of its trainings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from edgekit import __version__
from edgekit.distill import processes
from edgekit.distill.gradients import training_summary
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.resuming import THRESHOLDS
from edgekit.distill.teacher_stages import Leg, Party
from edgekit.distill.trainer import last_complete_checkpoint
from edgekit.recipe.model import Recipe
from edgekit.schema import to_json
from edgekit.seal import read_sealed_json, read_sealed_rows, write_sealed_json, write_sealed_rows
from edgekit.workspace import Run

Thresholds = dict[str, dict[str, dict[str, float]]]
"""Teacher -> mask ratio -> layer -> threshold."""


def identity(run: Run, recipe: Recipe, student: Party, teachers: Sequence[Party]) -> dict[str, Any]:
    """What a run is, for its manifest: the recipe, the inputs and what they are worked on with."""
    import accelerate
    import transformers

    return {
        "schema_version": 1,
        "run": run.name,
        "recipe": to_json(recipe),
        "recipe_sha256": recipe.hash,
        "inputs": {"student_sha256": student.hash, "teachers_sha256": [teacher.hash for teacher in teachers]},
        "versions": {
            "edgekit": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
        },
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "seed": recipe.trainer.seed,
    }


def keep_thresholds(run: Run, leg: Leg, ratio: float, thresholds: dict[str, float]) -> None:
    """Keep the thresholds of a stage: with the dense teacher they make its mask again."""
    if not processes.is_main():
        return
    kept = _thresholds(run)
    kept.setdefault(_name(leg), {})[f"{ratio:g}"] = thresholds
    write_sealed_json(run.folder / THRESHOLDS, kept)


def complete_records(run: Run, legs: Sequence[Leg], masked: Callable[[Party], MaskedTeacher]) -> None:
    """Write again what is only recorded in passing, where it was lost: thresholds, and logs of trainings.

    Args:
        run: With all its students.
        legs: All of them.
        masked: Loads a teacher.
    """
    kept = _thresholds(run)
    for leg in legs:
        there = kept.get(_name(leg), {})
        if lost := [ratio for ratio in leg.ratios if f"{ratio:g}" not in there]:
            teacher = masked(leg.teacher)
            there |= {f"{ratio:g}": teacher.set_ratio(ratio) for ratio in lost}
            kept[_name(leg)] = {f"{ratio:g}": there[f"{ratio:g}"] for ratio in leg.ratios}
            write_sealed_json(run.folder / THRESHOLDS, kept)
        log = run.reports / f"training-{leg.number + 1}.json"
        if not log.exists() and (last := last_complete_checkpoint(leg.checkpoints(run))):
            state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
            write_sealed_rows(log, state["log_history"])


def trainings(run: Run, legs: Sequence[Leg]) -> dict[str, Any]:
    """What the training logs say of rewards and gradients."""
    paths = [run.reports / f"training-{leg.number + 1}.json" for leg in legs]
    return training_summary([read_sealed_rows(path) for path in paths if path.exists()])


def _name(leg: Leg) -> str:
    return f"teacher-{leg.number + 1}"


def _thresholds(run: Run) -> Thresholds:
    path = run.folder / THRESHOLDS
    return read_sealed_json(path) if path.exists() else {}
