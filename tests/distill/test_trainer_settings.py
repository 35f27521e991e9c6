"""Settings of the recipe's trainer: each changes what it should and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from edgekit import api
from edgekit.checkpoint.folder import load_model
from edgekit.distill import lora, qad, trackers, training
from edgekit.errors import EdgekitError, RecipeError
from edgekit.recipe.model import Lora
from edgekit.recipe.reading import ablation_recipe_path, load_recipe
from edgekit.workspace import Run

Distil = Callable[..., Path]


@pytest.fixture
def distil(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> Distil:
    """Distil tiny models with the given trainer settings; returns the run's folder."""
    colours = ["red", "blue"]
    for colour in colours:
        Image.new("RGB", (20, 10), colour).save(tmp_path / f"{colour}.png")
    rows = [
        {"question": f"is it {k}?", "image": f"{colours[k % 2]}.png", "answer": "yes" if k % 3 else "no"}
        for k in range(12)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    questions = str(tmp_path / "q.jsonl")

    def run(name: str, **trainer: Any) -> Path:
        recipe = {
            "teachers": [{"checkpoint": str(tiny_teacher)}],
            "student": {"checkpoint": str(tiny_checkpoint)},
            "data": {"train": questions, "test": questions, "test_limit": 2},
            "masters": {"mask": {"r_max": 0.2, "step": 0.2}, "gen_data": {"check_teacher": False, "max_new_tokens": 3}},
            "trainer": {
                "steps": 4,
                "batch_questions": 4,
                "learning_rate": 1e-3,
                "threads": 1,
                "logging_steps": 1,
                "report_to": [],
                **trainer,
            },
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        api.distill(tmp_path / "recipe.yaml", name=name, workspace=tmp_path)
        return tmp_path / "runs" / name

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run / "student/model.safetensors")
    return found


def furthest(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def losses(run: Path) -> list[float]:
    rows = json.loads((run / "reports/training-1.json").read_text())
    return [row["loss"] for row in rows if "loss" in row]


def test_each_setting_reaches_trainer(tmp_path: Path) -> None:
    """Each from its own field, by the names that transformers has for them; no two are the same number."""
    settings = {
        "schedule": "cosine", "warmup_steps": 3, "learning_rate": 0.25, "weight_decay": 0.125, "max_grad_norm": 7.0,
        "bf16": "true", "save_steps": 11, "logging_steps": 13, "seed": 17, "batch_questions": 6,
        "gradient_accumulation": 5, "gradient_checkpointing": "true",
    }  # fmt: skip
    recipe = load_recipe(ablation_recipe_path(), {f"trainer.{name}": str(value) for name, value in settings.items()})
    made = training._arguments(recipe, tmp_path / "here", 29, ["tensorboard", "wandb"], "mine")
    assert {name: getattr(made, name) for name in (
        "lr_scheduler_type", "warmup_steps", "learning_rate", "weight_decay", "max_grad_norm", "bf16", "save_steps",
        "logging_steps", "seed", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
        "run_name", "output_dir", "save_total_limit",
    )} == {
        "lr_scheduler_type": "cosine", "warmup_steps": 3, "learning_rate": 0.25, "weight_decay": 0.125,
        "max_grad_norm": 7.0, "bf16": True, "save_steps": 11, "logging_steps": 13, "seed": 17,
        "per_device_train_batch_size": 6, "gradient_accumulation_steps": 5, "max_steps": 29, "run_name": "mine",
        "output_dir": str(tmp_path / "here"), "save_total_limit": None,
    }  # fmt: skip
    assert made.report_to == ["wandb"]  # the losses' parts go to tensorboard by edgekit's own callback
    plain = training._arguments(load_recipe(ablation_recipe_path()), tmp_path, 1, [], "")
    assert (plain.weight_decay, plain.max_grad_norm, plain.bf16) == (0.0, 1.0, False)


def test_each_setting_reaches_the_quantised_stage(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`qad` names steps, batch and rate; what it does not name is the trainer's, each from its own field."""

    class Seen(BaseException):
        pass

    def caught(folder: Path, **settings: Any) -> None:
        raise Seen(folder, settings)

    recipe = load_recipe(ablation_recipe_path(), {
        "qad.steps": "6", "qad.batch_questions": "4", "qad.learning_rate": "0.5", "trainer.batch_questions": "2",
        "trainer.learning_rate": "0.25", "trainer.weight_decay": "0.125", "trainer.max_grad_norm": "7.0",
        "trainer.bf16": "true", "trainer.save_steps": "11", "trainer.seed": "17",
    })  # fmt: skip
    run, reference = Run(tmp_path / "run"), SimpleNamespace(model=torch.nn.Linear(1, 1))
    shutil.copytree(tiny_checkpoint, run.student)
    monkeypatch.setattr(qad, "training_arguments", caught)
    with pytest.raises(Seen) as seen:
        qad.distil_quantised(recipe, run, lambda: reference, 300, tmp_path / "c", tmp_path / "out")  # type: ignore[arg-type, return-value]
    assert seen.value.args == (tmp_path / "c", {
        "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 0.5, "lr_scheduler_type": "cosine",
        "weight_decay": 0.125, "max_grad_norm": 7.0, "bf16": True, "save_steps": 11, "seed": 17,
    })  # fmt: skip
    assert not reference.model.weight.requires_grad and not (tmp_path / "out").exists()


def test_accumulation_and_checkpointing_change_nothing_but_memory(distil: Distil, tiny_checkpoint: Path) -> None:
    whole = distil("whole")
    moved = furthest(weights(whole), load_file(tiny_checkpoint / "model.safetensors"))
    assert moved > 1e-3
    halves = distil("halves", batch_questions=2, gradient_accumulation=2)
    # Means of two halves against one mean: fp32 rounding, which AdamW's first steps enlarge.
    assert losses(halves) == pytest.approx(losses(whole), abs=1e-5)
    assert furthest(weights(halves), weights(whole)) < moved / 50
    again = distil("again", gradient_checkpointing=True)
    assert losses(again) == pytest.approx(losses(whole), abs=1e-6)
    assert furthest(weights(again), weights(whole)) < moved / 1000


def test_gradient_checkpointing_reaches_the_layers(distil: Distil, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import modeling_utils

    calls = []
    real = modeling_utils.checkpoint
    monkeypatch.setattr(modeling_utils, "checkpoint", lambda *a, **k: calls.append(1) or real(*a, **k))
    distil("again", gradient_checkpointing=True, steps=1)
    assert len(calls) == 4  # two layers of the tower and two of the decoder, once each


def test_lora_is_merged_into_a_plain_student(distil: Distil, tiny_checkpoint: Path) -> None:
    pytest.importorskip("peft")
    run = distil("lora", lora={"rank": 2, "alpha": 4.0, "target_modules": ["q_proj", "v_proj"]})
    before, after = load_file(tiny_checkpoint / "model.safetensors"), weights(run)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "v_proj.weight"))}
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-6) <= 2
    assert not list((run / "student").glob("adapter*"))
    stored = load_file(next((run / "checkpoints/teacher-1").glob("checkpoint-4")) / "adapter_model.safetensors")
    assert all("lora_" in name for name in stored)  # a checkpoint holds the adapters, not the model again


def test_adapters_by_hand(tiny_checkpoint: Path) -> None:
    """Merged, a weight is W + alpha / rank B A; A is drawn from the seed, and B begins at 0."""
    pytest.importorskip("peft")
    settings = Lora(rank=2, alpha=6.0, dropout=0.25, target_modules=("q_proj", "v_proj"))
    wrapper = lora.attach(load_model(tiny_checkpoint), settings, 3)
    kept = wrapper.peft_config["default"]
    assert (kept.r, kept.lora_alpha, kept.lora_dropout, kept.bias) == (2, 6.0, 0.25, "none")
    state = wrapper.state_dict()
    again, other = (lora.attach(load_model(tiny_checkpoint), settings, seed).state_dict() for seed in (3, 4))
    first = {name for name in state if "lora_A" in name}
    assert all(torch.equal(state[name], again[name]) and not torch.equal(state[name], other[name]) for name in first)
    second = {name: value for name, value in state.items() if "lora_B" in name}
    assert len(second) == len(first) > 2 and not any(value.any() for value in second.values())
    assert {name for name, one in wrapper.named_parameters() if one.requires_grad} == first | set(second)
    state |= {name: torch.ones_like(value) for name, value in second.items()}
    before, after = (
        load_file(tiny_checkpoint / "model.safetensors"),
        lora.merged(load_model(tiny_checkpoint), settings, state),
    )
    whole = {name.removeprefix("base_model.model.").replace(".lora_A.default", ""): state[name] for name in first}
    for name, a in whole.items():
        weight = after.state_dict()[name]
        wanted = before[name] + 3 * torch.ones(len(weight), 2) @ a
        torch.testing.assert_close(weight, wanted)
    model: Any = load_model(tiny_checkpoint)
    linear = {name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)} - {"lm_head"}
    every = lora.attach(model, Lora())
    assert {name.split(".lora_A")[0] for name in every.state_dict() if "lora_A" in name} == {
        f"base_model.model.{name}" for name in linear
    }


def test_lora_resumes_where_it_was_stopped(distil: Distil, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    settings = {"lora": {"rank": 2, "dropout": 0.1}, "save_steps": 2}
    straight = distil("straight", **settings)
    from edgekit.distill.joint import JointTrainer

    real = JointTrainer.compute_loss

    def stop(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return real(self, *arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(JointTrainer, "compute_loss", stop)
        distil("stopped", **settings)
    assert furthest(weights(distil("stopped", **settings)), weights(straight)) == 0


def test_lora_gone_wrong(distil: Distil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(RecipeError, match="nothing_like_it cannot take adapters"):
        distil("wrong", lora={"target_modules": ["nothing_like_it"]})
    with pytest.raises(RecipeError, match=r"lora.rank: 0 is not at least 1\n.*lora.dropout: 1.0 is not in \[0, 1\)"):
        distil("wrong", lora={"rank": 0, "dropout": 1.0})
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(EdgekitError, match="needs peft"):
        lora.check(Lora())


def test_trackers(distil: Distil, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.integrations as integrations

    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["wandb", "tensorboard"])
    assert trackers.chosen(None) == ["tensorboard"]
    assert trackers.chosen(("wandb", "tensorboard")) == ["wandb", "tensorboard"]
    assert trackers.chosen(()) == trackers.chosen(("none",)) == []
    with pytest.raises(RecipeError, match="no tracker 'wandbb'"):
        trackers.chosen(("wandbb",))
    for name in ("mlflow", "trackio"):
        with pytest.raises(EdgekitError, match=f"pip install {name}"):
            trackers.chosen((name,))
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", list)
    assert trackers.chosen(None) == []


def test_tensorboard_gets_the_losses_parts(distil: Distil) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = distil("board", report_to=None, steps=2)
    events = EventAccumulator(str(run / "logs/teacher-1"))
    events.Reload()
    assert {"train/loss", "train/jsd", "train/r_acc", "train/mask"} <= set(events.Tags()["scalars"])
    assert [round(event.value, 4) for event in events.Scalars("train/loss")] == [round(x, 4) for x in losses(run)]
    # Trackers say nothing of the student: the same run goes on with others.
    assert (
        load_recipe(run / "recipe.yaml").hash
        == load_recipe(run / "recipe.yaml", {"trainer.report_to": "[wandb]", "trainer.logging_steps": "7"}).hash
    )
