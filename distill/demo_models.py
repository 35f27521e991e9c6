"""`edgekit demo train`: the demo's teacher and student, from nothing, on easy-VQA's train split.

Each phase keeps checkpoints in the work folder; the same command goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.console import note
from edgekit.data import samples
from edgekit.demo import architecture
from edgekit.distill.clock import PhaseClock
from edgekit.distill.from_scratch import LabelledPictures, Schedule, train_answers, warm_up_tower
from edgekit.errors import EdgekitError
from edgekit.files import new_folder, sha256_tree, write_json
from edgekit.processor import Processor

TRAIN, TEST = "easy-vqa:train", "easy-vqa:test"


@dataclass(frozen=True)
class Plan:
    """How one demo model is trained.

    Attributes:
        shape: Its widths and depths.
        tower: Classification of freshly drawn pictures.
        answers: Training on questions.
        labels: How many of the train split's questions it may see; None for all.
    """

    shape: architecture.Shape
    tower: Schedule
    answers: Schedule
    labels: int | None = None


PLANS = {
    "teacher": Plan(
        shape=architecture.TEACHER,
        tower=Schedule(steps=1200, batch=128, peak_lr=1e-3),
        answers=Schedule(steps=2400, batch=48, peak_lr=6e-4),
    ),
    "mid": Plan(
        shape=architecture.MID,
        tower=Schedule(steps=1000, batch=128, peak_lr=1.2e-3),
        answers=Schedule(steps=3000, batch=48, peak_lr=8e-4),
    ),
    "student": Plan(
        shape=architecture.STUDENT,
        tower=Schedule(steps=1000, batch=128, peak_lr=1.5e-3),
        answers=Schedule(steps=160, batch=48, peak_lr=1e-3),
        labels=1500,
    ),
}


def tokenizer_corpus() -> list[str]:
    """Texts the demo tokenizer learns its merges from: train questions and answers, and the turn markers."""
    texts = [text for sample in samples(TRAIN) for text in (f" {sample.text}", f" {sample.answer}")]
    return texts + ["User:", "Assistant:", "\n"] * 1000


def train(
    role: str, out: Path, work: Path, *, seed: int = 0, bf16: bool = True, threads: int | None = None
) -> dict[str, Any]:
    """Train one demo model and write it, with its card, as a Hugging Face folder.

    Args:
        role: "teacher", "mid" or "student".
        out: Folder to write; replaced when it is there.
        work: Folder for checkpoints; a run interrupted there goes on.
        seed: Of weights, data order and augmentation.
        bf16: Train under bfloat16 autocast.
        threads: CPU threads; torch's choice when None.
    Returns:
        The card.
    """
    if role not in PLANS:
        raise EdgekitError(f"Unknown demo model {role!r}.", fix=f"There are: {', '.join(PLANS)}.")
    plan = PLANS[role]
    if threads:
        torch.set_num_threads(threads)
    clock = PhaseClock(work / role / "seconds.json")
    tokenizer = architecture.build_tokenizer(tokenizer_corpus())
    torch.manual_seed(seed)
    model = architecture.build_model(plan.shape, tokenizer)
    note(f"{role}: {sum(p.numel() for p in model.parameters()):,} parameters")
    with clock.phase("tower"):
        shapes_right = warm_up_tower(model, plan.tower, work / role / "tower", seed=seed + 1, bf16=bf16)
    note(f"{role}: the tower names {shapes_right:.2%} of shapes it has not seen")
    files = work / role / "processor"
    files.mkdir(parents=True, exist_ok=True)
    architecture.write_processor(tokenizer, files)
    model.config.save_pretrained(files)
    with clock.phase("answers"):
        data = _labelled(Processor.load(files), plan.labels)
        pad_id = int(model.generation_config.pad_token_id)
        train_answers(model, data, plan.answers, work / role / "answers", pad_id=pad_id, seed=seed + 2, bf16=bf16)
    model = model.to(torch.bfloat16)
    card = {
        "role": role,
        "architecture": "Idefics3ForConditionalGeneration",
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": f"{TRAIN}, {plan.labels or 'all'} questions; tower warmed up on freshly drawn pictures",
        "seed": seed,
        "plan": asdict(plan),
        "bf16_autocast": bf16,
        "train_seconds": {name: round(value) for name, value in clock.seconds.items()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tower_shape_accuracy": shapes_right,
    }
    with new_folder(out, replace=True) as folder:
        model.save_pretrained(folder)
        architecture.write_processor(tokenizer, folder)
        card |= measure(folder)
        card["weights_sha256"] = sha256_tree(folder, names=["model.safetensors"])
        write_json(folder / "card.json", card)
    return card


def measure(folder: Path) -> dict[str, Any]:
    """Accuracy on easy-VQA's test split, greedy, of the weights as they are stored."""
    from edgekit.distill.evaluate import evaluate_checkpoint

    result = evaluate_checkpoint(folder, TEST, scoring="exact")
    return {"test_accuracy": result.accuracy, "test_accuracy_ci95": list(result.ci95), "test_questions": result.n}


def _labelled(processor: Processor, labels: int | None) -> LabelledPictures:
    pictures: dict[Path, int] = {}
    pixels: list[torch.Tensor] = []
    rows: list[list[tuple[list[int], list[int]]]] = []
    for sample in samples(TRAIN, limit=labels):
        path = sample.images[0].path
        assert path is not None
        if path not in pictures:
            pictures[path] = len(pixels)
            pixels.append(torch.from_numpy(np.array(sample.images[0].open().convert("RGB"))))
            rows.append([])
        prompt = processor.tokenizer.encode(processor.prompt(sample.messages, [(0, 0)]), add_special_tokens=False).ids
        answer = processor.tokenizer.encode(f" {sample.answer}{architecture.END}", add_special_tokens=False).ids
        rows[pictures[path]].append((prompt, answer))
    return LabelledPictures(torch.stack(pixels), rows)
