"""Train the demo models from scratch on easy-VQA's train split: vision tower first, then the whole model.

Trained end to end from scratch such a model learns colours at once and leaves shapes at chance for half an hour;
a tower warmed up by plain classification on freshly drawn pictures breaks that plateau.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer

from edgekit.demo.shapes import COLORS, SHAPES, draw
from edgekit.distill.trainer import run_trainer, training_arguments

IGNORE = -100


@dataclass(frozen=True)
class Schedule:
    """Steps, batch and peak learning rate of one training phase."""

    steps: int
    batch: int
    peak_lr: float
    warmup: int = 100
    decay: str = "cosine"


class DrawnImages(Dataset[tuple[Tensor, int, int]]):
    """Image i is drawn from seed `first + i`."""

    def __init__(self, count: int, first: int) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image, shape, color = draw(self.first + index)
        return torch.from_numpy(np.array(image)), shape, color


class TowerClassifier(nn.Module):
    """Shape and colour by linear heads on the mean-pooled vision tower."""

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.shape_head = nn.Linear(width, len(SHAPES))
        self.color_head = nn.Linear(width, len(COLORS))

    def forward(self, pixel_values: Tensor, shape: Tensor, color: Tensor) -> dict[str, Tensor]:
        """pixel_values (B, 3, H, W); shape, color (B,) class indices."""
        pooled = self.tower(pixel_values=pixel_values).last_hidden_state.mean(1)
        shapes, colors = self.shape_head(pooled), self.color_head(pooled)
        loss = nn.functional.cross_entropy(shapes, shape) + nn.functional.cross_entropy(colors, color)
        return {"loss": loss, "logits": shapes}


def normalised(pixels: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1], as the demo's image processor does."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _collate_drawn(rows: list[tuple[Tensor, int, int]]) -> dict[str, Tensor]:
    pixels, shapes, colors = zip(*rows, strict=True)
    return {
        "pixel_values": normalised(torch.stack(pixels)),
        "shape": torch.tensor(shapes),
        "color": torch.tensor(colors),
    }


@dataclass(frozen=True)
class LabelledImages:
    """All training images with the token ids of their questions.

    Attributes:
        pixels: uint8 (M, H, W, 3).
        rows: For each image, (prompt ids, answer ids) of its questions.
    """

    pixels: Tensor
    rows: list[list[tuple[list[int], list[int]]]]


class QuestionSamples(Dataset[dict[str, Any]]):
    """Item i: one image, shifted and perhaps mirrored, with a few of its questions, all drawn from seed (seed, i)."""

    def __init__(self, data: LabelledImages, count: int, questions: int, seed: int) -> None:
        self.data, self.count, self.questions, self.seed = data, count, questions, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        image = int(rng.integers(len(self.data.rows)))
        rows = self.data.rows[image]
        chosen = rng.choice(len(rows), self.questions, replace=len(rows) < self.questions)
        return {"pixels": _augment(self.data.pixels[image], rng), "rows": [rows[int(k)] for k in chosen]}


def _augment(pixels: Tensor, rng: np.random.Generator, shift: int = 6) -> Tensor:
    """Shift by up to `shift` pixels onto the image's own ground colour, mirror half of the time."""
    down, right = (int(v) for v in rng.integers(-shift, shift + 1, 2))
    size = pixels.shape[0]
    ground = pixels.reshape(-1, 3).median(0).values
    moved = ground.expand_as(pixels).clone()
    moved[max(0, down) : size + min(0, down), max(0, right) : size + min(0, right)] = pixels[
        max(0, -down) : size + min(0, -down), max(0, -right) : size + min(0, -right)
    ]
    return moved.flip(1) if rng.random() < 0.5 else moved


def collate_questions(items: list[dict[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """A batch of items with `pixels` and the same number of `rows` each, (prompt ids, answer ids)."""
    rows = [row for item in items for row in item["rows"]]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORE)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for number, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[number, :end] = torch.tensor(prompt + answer)
        labels[number, len(prompt) : end] = torch.tensor(answer)
        mask[number, :end] = 1
    pixels = normalised(torch.stack([item["pixels"] for item in items]))
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}


class AnswerTrainer(Trainer):
    """Cross-entropy on answer tokens; an image is encoded once for all its questions in the batch."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy over the answer tokens of the batch."""
        # accelerate wraps only model.forward in its autocast; the parts called one by one here need it spelled out.
        with self.accelerator.autocast():
            features = image_features(model, inputs["pixel_values"])
            logits, wanted = self.answers(model, features, inputs)
        loss = nn.functional.cross_entropy(logits.float(), wanted) + self.auxiliary_loss(features, inputs)
        return (loss, {"logits": logits}) if return_outputs else loss

    def answers(self, model: nn.Module, features: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits at the batch's answer tokens, and the ids that belong there; features (M, N, D) as below."""
        return answer_logits(model, features, inputs)

    def auxiliary_loss(self, features: Tensor, inputs: dict[str, Tensor]) -> Tensor | float:
        """What is added to the cross-entropy; features (M, N, D) of the batch's M images."""
        return 0.0


def image_features(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """What the text model is given of images (M, 3, H, W): (M, N, D)."""
    vlm: Any = model
    features: Tensor = vlm.model.connector(vlm.model.vision_model(pixel_values=pixel_values).last_hidden_state)
    return features


def answer_logits(model: nn.Module, features: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (K, V) at the K answer positions, and the ids (K,) that belong there.

    Args:
        model: An Idefics3 model.
        features: (M, N, D) of the images; each has the same number of rows of the batch, which stand together.
        inputs: `input_ids`, `labels` and `attention_mask`, (B, T) each.
    """
    vlm: Any = model
    ids, labels = inputs["input_ids"], inputs["labels"]
    features = features.repeat_interleave(ids.shape[0] // features.shape[0], 0)
    embeds = vlm.get_input_embeddings()(ids)
    where = (ids == vlm.config.image_token_id).unsqueeze(-1)
    embeds = embeds.masked_scatter(where, features.to(embeds.dtype))
    hidden = vlm.model.text_model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"], use_cache=False)
    answered = labels[:, 1:] != IGNORE
    return vlm.lm_head(hidden.last_hidden_state[:, :-1][answered]), labels[:, 1:][answered]


def warm_up_tower(model: PreTrainedModel, schedule: Schedule, folder: Path, *, seed: int, bf16: bool) -> float:
    """Train the vision tower on freshly drawn pictures, in place.

    Returns:
        Share of 2,000 images it never trained on whose shape it names, in [0, 1].
    """
    tower: Any = model.model.vision_model
    torch.manual_seed(seed)
    classifier = TowerClassifier(tower, tower.config.hidden_size)
    count = schedule.steps * schedule.batch
    trainer = Trainer(
        model=classifier,
        args=phase_arguments(folder, schedule, seed=seed, bf16=bf16),
        train_dataset=DrawnImages(count, first=seed * 100_000_000),
        data_collator=_collate_drawn,
    )
    run_trainer(trainer, folder, "vision tower")
    held_out = DrawnImages(2000, first=seed * 100_000_000 + 50_000_000)
    classifier.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(held_out), 200):
            batch = _collate_drawn([held_out[i] for i in range(start, start + 200)])
            right += int((classifier(**batch)["logits"].argmax(-1) == batch["shape"]).sum())
    return right / len(held_out)


def train_answers(
    model: PreTrainedModel,
    data: LabelledImages,
    schedule: Schedule,
    folder: Path,
    *,
    pad_id: int,
    seed: int,
    bf16: bool,
    questions: int = 2,
) -> None:
    """Train the whole model on (image, question) -> answer, in place."""
    torch.manual_seed(seed)
    count = schedule.steps * schedule.batch
    trainer = AnswerTrainer(
        model=model,
        args=phase_arguments(folder, schedule, seed=seed, bf16=bf16),
        train_dataset=QuestionSamples(data, count, questions, seed),
        data_collator=lambda items: collate_questions(items, pad_id),
    )
    run_trainer(trainer, folder, "answers")


def phase_arguments(folder: Path, schedule: Schedule, *, seed: int, bf16: bool) -> Any:
    """Trainer's settings for one phase."""
    return training_arguments(
        folder,
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch,
        learning_rate=schedule.peak_lr,
        warmup_steps=min(schedule.warmup, schedule.steps // 5),
        lr_scheduler_type=schedule.decay,
        weight_decay=0.01,
        save_steps=max(50, schedule.steps // 10),
        seed=seed,
        bf16=bf16,
    )
