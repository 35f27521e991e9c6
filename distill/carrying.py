"""From one teacher of the ladder to the next: a learning rate that goes on, and the optimiser's moments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgekit.console import note
from edgekit.distill import processes
from edgekit.distill.trainer import last_complete_checkpoint
from edgekit.errors import RecipeError
from edgekit.recipe.model import Recipe

STATE = "optimizer.pt"
"""Trainer's file of the optimiser's state."""


@dataclass(frozen=True)
class Span:
    """A teacher stage's place in a schedule over the whole ladder.

    Attributes:
        first: Optimiser steps with the teachers before.
        total: With all of them.
        before: Checkpoints of the teacher before; None for the first.
    """

    first: int
    total: int
    before: Path | None


def check(recipe: Recipe) -> None:
    """Refuse where the optimiser's state does not lie in one file.

    Raises:
        RecipeError: FSDP or DeepSpeed share it out.
    """
    shared = [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"]
    if recipe.trainer.across_teachers == "continue" and shared and len(recipe.teachers) > 1:
        raise RecipeError(
            f"trainer.across_teachers: continue does not work under {shared[0]}.",
            why="Its optimiser's state lies in pieces, in files of its own kind.",
            fix="Leave it at  anew , or launch without it.",
        )


def shifted(scheduler: LambdaLR, first: int) -> LambdaLR:
    """The same schedule as it stands after `first` steps, counted from 0 again."""
    for group in scheduler.optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    return LambdaLR(scheduler.optimizer, [partial(_later, one, first) for one in scheduler.lr_lambdas])


def _later(rate: Any, first: int, step: int) -> float:
    return float(rate(first + step))


class CarriedMoments(TrainerCallback):
    """Gives a teacher stage's new optimiser the moments that the teacher stage before ended with.

    Args:
        before: Its checkpoints.
    """

    def __init__(self, before: Path) -> None:
        self.before = before

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        """A teacher stage that is resumed has the moments in its own checkpoint."""
        if state.global_step:
            return
        found = processes.from_main(lambda: last_complete_checkpoint(self.before))
        if found is None or not (found / STATE).exists():
            note(f"{self.before} has no whole checkpoint any more: the optimiser starts anew with this teacher.")
            return
        kept = torch.load(found / STATE, map_location="cpu", weights_only=True)["state"]
        now = optimizer.state_dict()
        now["state"] = _fitting(kept, optimizer)
        optimizer.load_state_dict(now)


def _fitting(kept: dict[int, dict[str, Any]], optimizer: Any) -> dict[int, dict[str, Any]]:
    """The moments of those parameters that have the shape they had; an objective's own layers may have another."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    return {
        number: moments
        for number, moments in kept.items()
        if number < len(parameters)
        and all(
            value.shape == parameters[number].shape
            for value in moments.values()
            if isinstance(value, torch.Tensor) and value.dim()
        )
    }
