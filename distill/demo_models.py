"""`edgekit demo train`: the built-in teachers and students, from nothing, on easy-VQA's train split or on `scenes`.

Each phase keeps checkpoints in the work folder; the same command goes on where it was stopped.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgekit.console import note
from edgekit.data import samples
from edgekit.data.scenes import kind_of
from edgekit.demo import architecture
from edgekit.distill import scene_models
from edgekit.distill.clock import PhaseClock
from edgekit.distill.from_scratch import LabelledImages, Schedule, train_answers, warm_up_tower
from edgekit.errors import EdgekitError
from edgekit.files import new_folder, sha256_tree, write_json
from edgekit.inputs.processor import Processor
from edgekit.stats import score_interval

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TRAIN, TEST = "easy-vqa:train", "easy-vqa:test"
SCENES_TEST, SCENES_MEASURED = f"scenes:test:{'+'.join(scene_models.TAUGHT)}", 4000


@dataclass(frozen=True)
class Plan:
    """How one demo model is trained.

    Attributes:
        shape: Its widths and depths.
        tower: Classification of freshly drawn pictures.
        answers: Training on questions.
        labels: How many of the train split's questions it may see; None for all.
        snapshots: Shares of right answers at which it is kept on its way, for `scenes`.
        bf16: Under bfloat16 autocast, which takes 2.6 times as long on a CPU without instructions for it.
    """

    shape: architecture.Shape
    tower: Schedule
    answers: Schedule
    labels: int | None = None
    snapshots: tuple[float, ...] = ()
    bf16: bool = True


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
    "scenes:teacher": Plan(
        shape=architecture.SCENES_TEACHER,
        tower=Schedule(steps=100, batch=64, peak_lr=1e-3),
        answers=Schedule(steps=7200, batch=16, peak_lr=1.5e-3),  # the shipped one was trained for 2,400
        snapshots=(0.6, 0.8, 0.95),
        bf16=False,
    ),
    "scenes:mid": Plan(
        shape=architecture.SCENES_MID,
        tower=Schedule(steps=100, batch=64, peak_lr=1.5e-3),
        answers=Schedule(steps=1800, batch=16, peak_lr=1.5e-3),
        bf16=False,
    ),
    "scenes:student": Plan(
        shape=architecture.SCENES_STUDENT,
        tower=Schedule(steps=100, batch=64, peak_lr=2e-3),
        answers=Schedule(steps=600, batch=16, peak_lr=2e-3),
        bf16=False,
    ),
}


def is_scenes(role: str) -> bool:
    """Whether the model is one for `scenes`."""
    return role.startswith("scenes:")


def tokenizer_corpus(role: str = "teacher") -> list[str]:
    """Texts the tokenizer learns its merges from: train questions and answers, and the turn markers."""
    easy = (text for sample in samples(TRAIN) for text in (f" {sample.text}", f" {sample.answer}"))
    return [*(scene_models.corpus() if is_scenes(role) else easy), *["User:", "Assistant:", "\n"] * 1000]


def train(
    role: str, out: Path, work: Path, *, seed: int = 0, bf16: bool | None = None, threads: int | None = None
) -> dict[str, Any]:
    """Train one demo model and write it, with its card, as a Hugging Face folder.

    Args:
        role: "teacher", "mid" or "student", of easy-VQA; with "scenes:" before it, of `scenes`.
        out: Folder to write; replaced when it is there.
        work: Folder for checkpoints; a run interrupted there goes on.
        seed: Of weights, data order and augmentation.
        bf16: Train under bfloat16 autocast; as planned when None.
        threads: CPU threads; torch's choice when None.

    Returns:
        The card.
    """
    if role not in PLANS:
        raise EdgekitError(f"Unknown demo model {role!r}.", fix=f"There are: {', '.join(PLANS)}.")
    plan = PLANS[role]
    bf16 = plan.bf16 if bf16 is None else bf16
    if threads:
        torch.set_num_threads(threads)
    work = work / role.replace(":", "-")
    clock = PhaseClock(work / "seconds.json")
    tokenizer = architecture.build_tokenizer(tokenizer_corpus(role))
    torch.manual_seed(seed)
    model = architecture.build_model(plan.shape, tokenizer)
    note(f"{role}: {sum(p.numel() for p in model.parameters()):,} parameters")
    files = work / "processor"
    files.mkdir(parents=True, exist_ok=True)
    architecture.write_processor(tokenizer, files, plan.shape)
    model.config.save_pretrained(files)
    go = Going(role, plan, tokenizer, work, clock, seed, bf16)
    told = _train_on_scenes(model, go) if is_scenes(role) else _train_on_easy_vqa(model, go)
    model = model.to(torch.bfloat16)
    card = {
        "role": role,
        "architecture": "Idefics3ForConditionalGeneration",
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": seed,
        "plan": asdict(plan),
        "bf16_autocast": bf16,
        "train_seconds": {name: round(value) for name, value in clock.seconds.items()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **told,
    }
    with new_folder(out, replace=True) as folder:
        model.save_pretrained(folder)
        architecture.write_processor(tokenizer, folder, plan.shape)
        card |= measure(folder, role)
        card["weights_sha256"] = sha256_tree(folder, names=["model.safetensors"])
        write_json(folder / "card.json", card)
    return card


@dataclass(frozen=True)
class Going:
    """One training under way: what it is, and where it keeps what it needs to go on."""

    role: str
    plan: Plan
    tokenizer: Tokenizer
    work: Path
    clock: PhaseClock
    seed: int
    bf16: bool


def _train_on_easy_vqa(model: Any, go: Going) -> dict[str, Any]:
    """Both phases, in place; what the card says of them."""
    plan, own = go.plan, {"bf16": go.bf16}
    with go.clock.phase("tower"):
        right = warm_up_tower(model, plan.tower, go.work / "tower", seed=go.seed + 1, **own)
    note(f"{go.role}: the tower names {right:.2%} of shapes it has not seen")
    with go.clock.phase("answers"):
        data = _labelled(Processor.load(go.work / "processor"), plan.labels)
        pad_id = int(model.generation_config.pad_token_id)
        train_answers(model, data, plan.answers, go.work / "answers", pad_id=pad_id, seed=go.seed + 2, **own)
    told = f"{TRAIN}, {plan.labels or 'all'} questions; tower warmed up on freshly drawn pictures"
    return {"data": told, "tower_shape_accuracy": right}


def _train_on_scenes(model: Any, go: Going) -> dict[str, Any]:
    """Both phases, in place, with the snapshots; what the card says of them."""
    plan, own = go.plan, {"bf16": go.bf16}
    with go.clock.phase("tower"):
        heads, right = scene_models.warm_up_on_cells(model, plan.tower, go.work / "tower", seed=go.seed + 1, **own)
    note(f"{go.role}: the tower names {right:.2%} of shapes it has not seen")

    def place(level: float) -> Path:
        return go.work / "snapshots" / f"{level:.0%}".rstrip("%")

    def save(level: float, share: float, step: int) -> None:
        with new_folder(place(level), replace=True) as folder:
            deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
            architecture.write_processor(go.tokenizer, folder, plan.shape)
            write_json(
                folder / "card.json", {"role": go.role, "seed": go.seed, "step": step, "held_back_accuracy": share}
            )
        note(f"{go.role}: kept at step {step} as {place(level)}")

    snapshots = scene_models.Snapshots(
        plan.snapshots, save, lambda level: place(level).exists(), every=max(1, plan.answers.steps // 40)
    )
    with go.clock.phase("answers"):
        share = scene_models.train_scene_answers(
            model,
            heads,
            Processor.load(go.work / "processor"),
            plan.answers,
            go.work / "answers",
            seed=go.seed + 2,
            snapshots=snapshots,
            **own,
        )
    told = (
        f"{', '.join(scene_models.TAUGHT)} about freshly drawn pictures as of scenes:train; tower and connector warmed "
        "up on cells, cell loss on the connector"
    )
    kept = {f"{level:.0%}": str(place(level)) for level in plan.snapshots if place(level).exists()}
    return {"data": told, "tower_shape_accuracy": right, "held_back_accuracy": share, "snapshots": kept}


def measure(folder: Path, role: str) -> dict[str, Any]:
    """Accuracy on the task's test split, greedy, of the weights as they are stored; of `scenes` each kind beside it."""
    from edgekit.distill.evaluate import evaluate_checkpoint

    spec, limit = (SCENES_TEST, SCENES_MEASURED) if is_scenes(role) else (TEST, None)
    result = evaluate_checkpoint(folder, spec, scoring="exact", limit=limit)
    found = {"test_accuracy": result.accuracy, "test_accuracy_ci95": list(result.ci95), "test_questions": result.n}
    if not is_scenes(role):
        return found
    kinds = np.array([kind_of(name) for name in result.ids])
    by_kind = {kind: result.scores[kinds == kind] for kind in scene_models.TAUGHT}
    told = {
        kind: {"accuracy": float(own.mean()), "ci95": list(score_interval(own)), "questions": len(own)}
        for kind, own in by_kind.items()
        if len(own)
    }
    return {**found, "test_by_kind": told}


def _labelled(processor: Processor, labels: int | None) -> LabelledImages:
    images: dict[Path, int] = {}
    pixels: list[torch.Tensor] = []
    rows: list[list[tuple[list[int], list[int]]]] = []
    for sample in samples(TRAIN, limit=labels):
        path = sample.images[0].path
        assert path is not None
        if path not in images:
            images[path] = len(pixels)
            pixels.append(torch.from_numpy(np.array(sample.images[0].open().convert("RGB"))))
            rows.append([])
        prompt = processor.tokenizer.encode(processor.prompt(sample.messages, [(0, 0)]), add_special_tokens=False).ids
        answer = processor.tokenizer.encode(f" {sample.answer}{architecture.END}", add_special_tokens=False).ids
        rows[images[path]].append((prompt, answer))
    return LabelledImages(torch.stack(pixels), rows)
