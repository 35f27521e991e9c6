"""Train models for `scenes` from scratch: tower and connector name each cell first, then the whole model answers.

Trained on answers alone such a model counts and names colours but stays blind to shapes. Warmed up on cells it sees
them, and goes on seeing them where the warm-up's heads, which no longer change, stay a second loss on the connector.
Pictures are drawn as they are needed, in the manner of `scenes:train`, whose held-out compositions they never show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgekit.chat import question
from edgekit.console import note
from edgekit.data import samples
from edgekit.data.scenes import SHAPES, questions, scene
from edgekit.demo.architecture import END
from edgekit.demo.shapes import COLORS
from edgekit.distill.from_scratch import (
    AnswerTrainer,
    Schedule,
    answer_logits,
    collate_questions,
    image_features,
    normalised,
    phase_arguments,
)
from edgekit.distill.trainer import run_trainer
from edgekit.processor import Processor

CORPUS = "scenes:train:pictures=2000"
CELL_WEIGHT = 0.5
"""Of the cell loss beside the cross-entropy of the answers."""
OWN_SEED = 1_000_000
"""Training draws from seeds of the train split from here on, and looks at the test split's; data specs start at 0."""
HELD_BACK = 60
"""Pictures by which training measures itself, some 420 questions; none of `scenes:test`."""

Row = tuple[list[int], list[int]]


def corpus() -> Iterator[str]:
    """Texts that the tokenizer learns its merges from; the three models share it."""
    for sample in samples(CORPUS):
        yield f" {sample.text}"
        yield f" {sample.answer}"


class CellHeads(nn.Module):
    """Shape and colour of each cell, or that it is empty, by linear heads on what the connector gives of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape_head = nn.Linear(width, len(SHAPES) + 1)
        self.color_head = nn.Linear(width, len(COLORS) + 1)

    def loss(self, features: Tensor, cells: Tensor) -> Tensor:
        """Mean cross-entropy over cells, of shape and colour together.

        Args:
            features: (M, 16, D).
            cells: (M, 16, 2), numbers of shape and colour; 0 where empty.
        """
        features = features.float()
        shapes, colors = self.shape_head(features).flatten(0, 1), self.color_head(features).flatten(0, 1)
        wanted = cells.flatten(0, 1)
        return nn.functional.cross_entropy(shapes, wanted[:, 0]) + nn.functional.cross_entropy(colors, wanted[:, 1])


class CellClassifier(nn.Module):
    """The vision tower and connector of a model, with heads for cells."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.vision_model, self.connector = model.model.vision_model, model.model.connector
        self.heads = CellHeads(model.config.text_config.hidden_size)

    def features(self, pixel_values: Tensor) -> Tensor:
        """(M, 3, 32, 32) to (M, 16, D)."""
        found: Tensor = self.connector(self.vision_model(pixel_values=pixel_values).last_hidden_state)
        return found

    def forward(self, pixel_values: Tensor, cells: Tensor) -> dict[str, Tensor]:
        """The cell loss, as Trainer wants it."""
        return {"loss": self.heads.loss(self.features(pixel_values), cells)}


class DrawnCells(Dataset[dict[str, Tensor]]):
    """Picture i of a split and seed, with its cells."""

    def __init__(self, split: str, seed: int, count: int) -> None:
        self.split, self.seed, self.count = split, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        shown = scene(self.split, self.seed, index)
        return {"pixels": torch.from_numpy(shown.pixels()), "cells": torch.tensor(shown.cells())}


def _collate_cells(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    pixels = normalised(torch.stack([item["pixels"] for item in items]))
    return {"pixel_values": pixels, "cells": torch.stack([item["cells"] for item in items])}


def warm_up_on_cells(
    model: PreTrainedModel, schedule: Schedule, folder: Path, *, seed: int, bf16: bool
) -> tuple[CellHeads, float]:
    """Train the vision tower and the connector to name cells, in place.

    Returns:
        The heads, and the share of the shapes in 200 pictures never trained on that they name, in [0, 1].
    """
    torch.manual_seed(seed)
    classifier = CellClassifier(model)
    trainer = Trainer(
        model=classifier,
        args=phase_arguments(folder, schedule, seed=seed, bf16=bf16),
        train_dataset=DrawnCells("train", OWN_SEED + seed, schedule.steps * schedule.batch),
        data_collator=_collate_cells,
    )
    run_trainer(trainer, folder, "vision tower")
    held_back = DrawnCells("train", OWN_SEED - 1, 200)
    batch = _collate_cells([held_back[index] for index in range(len(held_back))])
    classifier.eval()
    with torch.no_grad():
        named = classifier.heads.shape_head(classifier.features(batch["pixel_values"])).argmax(-1)
    there = batch["cells"][..., 0] > 0
    return classifier.heads, float((named == batch["cells"][..., 0])[there].float().mean())


# ------------------------------------------------------------------------------------------------------------- answers


class Encoder:
    """Token ids of questions and answers about one picture; each question's text is rendered once."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._prompt = cache(self._encoded_prompt)

    def _encoded_prompt(self, text: str) -> tuple[int, ...]:
        rendered = self._processor.prompt(question(text), [(0, 0)])
        return tuple(self._processor.tokenizer.encode(rendered, add_special_tokens=False).ids)

    def row(self, text: str, answer: str) -> Row:
        """(prompt ids, answer ids with the end of the turn)."""
        answered = self._processor.tokenizer.encode(f" {answer}{END}", add_special_tokens=False).ids
        return list(self._prompt(text)), answered


class SceneQuestions(Dataset[dict[str, Any]]):
    """Picture i of a split and seed, with its cells and so many of its questions, or all."""

    def __init__(self, encoder: Encoder, split: str, seed: int, count: int, asked: int | None) -> None:
        self.encoder, self.split, self.seed, self.count, self.asked = encoder, split, seed, count, asked

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        shown = scene(self.split, self.seed, index)
        found = [self.encoder.row(text, answer) for _, text, answer in questions(shown)]
        if self.asked is not None:
            rng = np.random.default_rng((self.seed, index))
            found = [found[int(k)] for k in rng.choice(len(found), self.asked, replace=False)]
        return {"pixels": torch.from_numpy(shown.pixels()), "cells": torch.tensor(shown.cells()), "rows": found}


def _collate_scenes(items: list[dict[str, Any]], pad_id: int) -> dict[str, Tensor]:
    return {**collate_questions(items, pad_id), "cells": torch.stack([item["cells"] for item in items])}


class SceneTrainer(AnswerTrainer):
    """Cross-entropy on answer tokens, and the cell loss by heads that stay as they are.

    Args:
        heads: From the warm-up.
        settings: Trainer's.
    """

    def __init__(self, heads: CellHeads, **settings: Any) -> None:
        super().__init__(**settings)
        self.heads = heads.requires_grad_(False).to(self.args.device)

    def auxiliary_loss(self, features: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The weighed cell loss."""
        return CELL_WEIGHT * self.heads.loss(features, inputs["cells"])


@torch.no_grad()
def share_right(model: PreTrainedModel, items: list[dict[str, Any]], pad_id: int) -> float:
    """Share of the items' questions that greedy decoding answers exactly, in [0, 1].

    One forward tells: greedy decoding writes the reference just where each of its tokens is the likeliest after those
    before it.
    """
    training = model.training
    model.eval()
    right, asked = 0, 0
    for item in items:
        inputs = {name: value.to(model.device) for name, value in collate_questions([item], pad_id).items()}
        logits, wanted = answer_logits(model, image_features(model, inputs["pixel_values"]), inputs)
        row_of = (inputs["labels"][:, 1:] >= 0).nonzero()[:, 0]
        wrong = set(row_of[logits.argmax(-1) != wanted].tolist())
        asked += len(item["rows"])
        right += len(item["rows"]) - len(wrong)
    model.train(training)
    return right / asked


@dataclass(frozen=True)
class Snapshots:
    """Which states of a model are kept on its way.

    Attributes:
        levels: Shares of right answers; the first state measured at or above each is kept.
        save: Called with level, share measured and step, the first time; a level kept already is passed over.
        kept: Whether a level is there already.
        every: Optimiser steps between two measurements.
    """

    levels: tuple[float, ...]
    save: Callable[[float, float, int], None]
    kept: Callable[[float], bool]
    every: int


class KeepAtLevels(TrainerCallback):
    """Measures a model every so many steps, and keeps it where it reaches a level."""

    def __init__(self, snapshots: Snapshots, measure: Callable[[], float]) -> None:
        self.snapshots, self.measure = snapshots, measure

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by Trainer after each optimiser step."""
        missing = [level for level in self.snapshots.levels if not self.snapshots.kept(level)]
        if not missing or state.global_step % self.snapshots.every:
            return
        share = self.measure()
        note(f"step {state.global_step}: {share:.1%} of the questions held back")
        for level in missing:
            if share >= level:
                self.snapshots.save(level, share, state.global_step)


def train_scene_answers(
    model: PreTrainedModel,
    heads: CellHeads,
    processor: Processor,
    schedule: Schedule,
    folder: Path,
    *,
    pad_id: int,
    seed: int,
    bf16: bool,
    snapshots: Snapshots,
    asked: int = 3,
) -> float:
    """Train the whole model on (picture, question) -> answer with the cell loss beside, in place.

    Returns:
        Share of right answers about pictures held back, half of them with compositions never trained on, in [0, 1].
    """
    torch.manual_seed(seed)
    encoder = Encoder(processor)
    back = SceneQuestions(encoder, "test", OWN_SEED, HELD_BACK, None)
    held_back = [back[index] for index in range(len(back))]
    trainer = SceneTrainer(
        heads,
        model=model,
        args=phase_arguments(folder, schedule, seed=seed, bf16=bf16),
        train_dataset=SceneQuestions(encoder, "train", OWN_SEED + seed, schedule.steps * schedule.batch, asked),
        data_collator=lambda items: _collate_scenes(items, pad_id),
        callbacks=[KeepAtLevels(snapshots, lambda: share_right(model, held_back, pad_id))],
    )
    run_trainer(trainer, folder, "answers")
    return share_right(model, held_back, pad_id)
