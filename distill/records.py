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
from edgekit.distill.teacher_stages import Checkpoint, TeacherStage
from edgekit.distill.trainer import last_complete_checkpoint
from edgekit.recipe.model import Recipe
from edgekit.schema import to_json
from edgekit.seal import read_sealed_json, read_sealed_rows, write_sealed_json, write_sealed_rows
from edgekit.workspace import Run

Thresholds = dict[str, dict[str, dict[str, float]]]
"""Teacher -> mask ratio -> layer -> threshold."""


def identity(run: Run, recipe: Recipe, student: Checkpoint, teachers: Sequence[Checkpoint]) -> dict[str, Any]:
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


def keep_thresholds(run: Run, teacher_stage: TeacherStage, ratio: float, thresholds: dict[str, float]) -> None:
    """Keep the thresholds of a stage: with the dense teacher they make its mask again."""
    if not processes.is_main():
        return
    kept = _thresholds(run)
    kept.setdefault(_name(teacher_stage), {})[f"{ratio:g}"] = thresholds
    write_sealed_json(run.folder / THRESHOLDS, kept)


def complete_records(
    run: Run, teacher_stages: Sequence[TeacherStage], masked: Callable[[Checkpoint], MaskedTeacher]
) -> None:
    """Write again what is only recorded in passing, where it was lost: thresholds, and logs of trainings.

    Args:
        run: With all its students.
        teacher stages: All of them.
        masked: Loads a teacher.
    """
    kept = _thresholds(run)
    for teacher_stage in teacher_stages:
        there = kept.get(_name(teacher_stage), {})
        if lost := [ratio for ratio in teacher_stage.ratios if f"{ratio:g}" not in there]:
            teacher = masked(teacher_stage.teacher)
            there |= {f"{ratio:g}": teacher.set_ratio(ratio) for ratio in lost}
            kept[_name(teacher_stage)] = {f"{ratio:g}": there[f"{ratio:g}"] for ratio in teacher_stage.ratios}
            write_sealed_json(run.folder / THRESHOLDS, kept)
        log = run.reports / f"training-{teacher_stage.number + 1}.json"
        if not log.exists() and (last := last_complete_checkpoint(teacher_stage.checkpoints(run))):
            state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
            write_sealed_rows(log, state["log_history"])


def trainings(run: Run, teacher_stages: Sequence[TeacherStage]) -> dict[str, Any]:
    """What the training logs say of rewards and gradients."""
    paths = [run.reports / f"training-{teacher_stage.number + 1}.json" for teacher_stage in teacher_stages]
    return training_summary([read_sealed_rows(path) for path in paths if path.exists()])


def _name(teacher_stage: TeacherStage) -> str:
    return f"teacher-{teacher_stage.number + 1}"


def _thresholds(run: Run) -> Thresholds:
    path = run.folder / THRESHOLDS
    return read_sealed_json(path) if path.exists() else {}
