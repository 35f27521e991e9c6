"""Train models for `scenes` from scratch: tower and connector name each cell first, then the whole model answers.

Trained on answers alone such a model counts and names colours but stays blind to shapes. Warmed up on cells it sees
them, and goes on seeing them where the warm-up's heads, which no longer change, stay a second loss on the connector.
Images are drawn as they are needed, in the manner of `scenes:train`, whose held-out compositions they never show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgekit.console import note
from edgekit.data import samples
from edgekit.data.scenes import GRID, KINDS, SHAPES, questions, scene
from edgekit.demo.architecture import END
from edgekit.demo.shapes import COLORS
from edgekit.distill.embedded import Embedded
from edgekit.distill.from_scratch import (
    AnswerTrainer,
    Schedule,
    image_features,
    normalised,
    phase_arguments,
)
from edgekit.distill.packing import packed_hidden
from edgekit.distill.trainer import run_trainer
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor

CORPUS = "scenes:train:pictures=2000"
CELL_WEIGHT = 0.5
"""Of the cell loss beside the cross-entropy of the answers."""
OWN_SEED = 1_000_000
"""Training draws from seeds of the train split from here on, and looks at the test split's; data specs start at 0."""
TAUGHT = ("count", "list", "description")
"""Kinds of questions the models are trained on. Where one shape is from another they do not learn in such a time: after
800 steps with those questions among them a teacher was right about 8 % of them, as after 150."""
LEVEL = ("list",)
"""By these, of some 6 tokens, it is told how far a model has come."""
HELD_BACK = 150
"""Images by which training measures itself, some 300 questions of `LEVEL`; none of `scenes:test`."""

Row = tuple[list[int], list[int]]


def corpus() -> Iterator[str]:
    """Texts that the tokenizer learns its merges from; the three models share it."""
    for sample in samples(CORPUS):
        yield f" {sample.text}"
        yield f" {sample.answer}"


class CellHeads(nn.Module):
    """Shape, colour, row and column of each cell, by linear heads on what the connector gives of it.

    Rows and columns are there so that a token says where it stands: what attention reads of it holds no position.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape_head = nn.Linear(width, len(SHAPES) + 1)
        self.color_head = nn.Linear(width, len(COLORS) + 1)
        self.row_head = nn.Linear(width, GRID)
        self.column_head = nn.Linear(width, GRID)

    def loss(self, features: Tensor, cells: Tensor) -> Tensor:
        """Mean cross-entropy over cells, of the four together.

        Args:
            features: (M, 16, D).
            cells: (M, 16, 2), numbers of shape and colour; 0 where empty.
        """
        flat, wanted = features.float().flatten(0, 1), cells.flatten(0, 1)
        place = torch.arange(GRID * GRID, device=cells.device).repeat(len(cells))
        aims = (wanted[:, 0], wanted[:, 1], place // GRID, place % GRID)
        heads = (self.shape_head, self.color_head, self.row_head, self.column_head)
        losses = [nn.functional.cross_entropy(head(flat), aim) for head, aim in zip(heads, aims, strict=True)]
        return torch.stack(losses).sum()


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
    """Image i of a split and seed, with its cells."""

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
        The heads, and the share of the shapes in 200 images never trained on that they name, in [0, 1].
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
    """Token ids of questions and answers about one image; each question's text is rendered once."""

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
    """Image i of a split and seed, with its cells and all of its questions of some kinds."""

    def __init__(
        self, encoder: Encoder, split: str, seed: int, count: int, kinds: Sequence[str] = tuple(KINDS)
    ) -> None:
        self.encoder, self.split, self.seed, self.count, self.kinds = encoder, split, seed, count, kinds

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        shown = scene(self.split, self.seed, index)
        found = [self.encoder.row(text, answer) for _, text, answer in questions(shown, self.kinds)]
        return {"pixels": torch.from_numpy(shown.pixels()), "cells": torch.tensor(shown.cells()), "rows": found}


def collate_scenes(items: list[dict[str, Any]], image_id: int) -> dict[str, Any]:
    """M images with R questions, so laid out that the tokens of an image stand there once for all of them.

    Args:
        items: Of `SceneQuestions`.
        image_id: The placeholder of an image token.

    Returns:
        `pixel_values` (M, 3, H, W), `cells` (M, 16, 2), `prompt` (P,) what all prompts begin with, to the last image
        token; `owners` and `texts`, R images' numbers and tokens behind that; `answered` bool (K,) which of all
        these K tokens are the answers'; `wanted` (A,) these.
    """
    rows = [(number, *row) for number, item in enumerate(items) for row in item["rows"]]
    first = rows[0][1]
    cut = len(first) - first[::-1].index(image_id)
    behind = [len(prompt) - cut for _, prompt, _ in rows]
    told = [[False] * count + [True] * len(answer) for count, (_, _, answer) in zip(behind, rows, strict=True)]
    return {
        "pixel_values": normalised(torch.stack([item["pixels"] for item in items])),
        "cells": torch.stack([item["cells"] for item in items]),
        "prompt": torch.tensor(first[:cut]),
        "owners": [number for number, _, _ in rows],
        "texts": [prompt[cut:] + answer for _, prompt, answer in rows],
        "answered": torch.tensor([flag for flags in told for flag in flags]),
        "wanted": torch.tensor([token for _, _, answer in rows for token in answer]),
    }


def scene_logits(model: nn.Module, features: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits (A, V) at the answer tokens of a batch of `collate_scenes`, and the ids (A,) that belong there.

    Args:
        model: An Idefics3 model.
        features: (M, N, D) of the images.
        inputs: The batch.
    """
    vlm: Any = model
    ids = inputs["prompt"].expand(len(features), -1)
    visual = ids == vlm.config.image_token_id
    embeds = vlm.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter(visual.unsqueeze(-1), features.to(embeds.dtype))
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    prompts = Embedded(embeds, torch.ones_like(ids), ids, places, visual)
    hidden = packed_hidden(vlm, prompts, inputs["owners"], inputs["texts"])
    return vlm.lm_head(hidden[inputs["answered"]]), inputs["wanted"]


class SceneTrainer(AnswerTrainer):
    """Cross-entropy on answer tokens, and the cell loss by heads that stay as they are.

    Args:
        heads: From the warm-up.
        settings: Trainer's.
    """

    def __init__(self, heads: CellHeads, **settings: Any) -> None:
        super().__init__(**settings)
        self.heads = heads.requires_grad_(False).to(self.args.device)

    def answers(self, model: nn.Module, features: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """See `scene_logits`."""
        return scene_logits(model, features, inputs)

    def auxiliary_loss(self, features: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The weighed cell loss."""
        return CELL_WEIGHT * self.heads.loss(features, inputs["cells"])


@torch.no_grad()
def share_right(model: PreTrainedModel, items: list[dict[str, Any]]) -> float:
    """Share of the items' questions that greedy decoding answers exactly, in [0, 1].

    One forward tells: greedy decoding writes the reference just where each of its tokens is the likeliest after those
    before it.
    """
    training = model.training
    model.eval()
    inputs = collate_scenes(items, model.config.image_token_id)
    logits, wanted = scene_logits(model, image_features(model, inputs["pixel_values"]), inputs)
    answers = [len(answer) for item in items for _, answer in item["rows"]]
    right = [bool(hit.all()) for hit in torch.split(logits.argmax(-1) == wanted, answers)]
    model.train(training)
    return sum(right) / len(right)


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
    seed: int,
    bf16: bool,
    snapshots: Snapshots,
) -> float:
    """Train the whole model on (image, question) -> answer with the cell loss beside, in place.

    Returns:
        Share of right answers of `LEVEL` about images held back, half of them with compositions never trained on, in
        [0, 1].
    """
    torch.manual_seed(seed)
    encoder = Encoder(processor)
    back = SceneQuestions(encoder, "test", OWN_SEED, HELD_BACK, LEVEL)
    held_back = [back[index] for index in range(len(back))]
    trainer = SceneTrainer(
        heads,
        model=model,
        args=phase_arguments(folder, schedule, seed=seed, bf16=bf16),
        train_dataset=SceneQuestions(encoder, "train", OWN_SEED + seed, schedule.steps * schedule.batch, TAUGHT),
        data_collator=lambda items: collate_scenes(items, model.config.image_token_id),
        callbacks=[KeepAtLevels(snapshots, lambda: share_right(model, held_back))],
    )
    run_trainer(trainer, folder, "answers")
    return share_right(model, held_back)
