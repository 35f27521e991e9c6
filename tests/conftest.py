"""Fixtures shared by all tests: tiny models with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A busy machine is no fault of a test: how long an example takes says nothing of whether it holds.
settings.register_profile("edgekit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgekit")

CORPUS = ["what is there? yes no circle rectangle triangle red blue", "User: Assistant:\n"] * 20


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Idefics3 folder with random weights: two layers of width 32."""
    from once import made_once

    return made_once("tiny", tmp_path_factory, lambda folder: make_checkpoint(folder, seed=0))


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one with the same tokenizer, a little wider."""
    from once import made_once

    return made_once("teacher", tmp_path_factory, lambda folder: make_checkpoint(folder, seed=1, width=48))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as an ONNX bundle in fp32; do not write into it."""
    from exporting import export_checkpoint
    from once import made_once
    from tracing import traced_once

    with traced_once(tiny_checkpoint):
        return made_once(
            "onnx-fp32",
            tmp_path_factory,
            lambda out: export_checkpoint(tiny_checkpoint, "onnx", "fp32", out, prompts=2),
        )


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_of(family, **settings)`: a random checkpoint of that family, made once; do not write into it."""
    from edgekit.demo.tiny import write_checkpoint

    made: dict[tuple[object, ...], Path] = {}

    def make(family: str, **settings: Any) -> Path:
        key = (family, *sorted(settings.items()))
        if key not in made:
            made[key] = write_checkpoint(family, tmp_path_factory.mktemp(family), **{"seed": 0, **settings})
        return made[key]

    return make


@pytest.fixture(scope="session")
def checkpoint_maker() -> Callable[..., Path]:
    """`make_checkpoint`, for tests that want another one."""
    return make_checkpoint


def make_checkpoint(folder: Path, *, seed: int, width: int = 32, corpus: list[str] | None = None) -> Path:
    """Write a random Idefics3 checkpoint."""
    import torch

    from edgekit.demo.architecture import Shape, build_model, build_tokenizer, write_processor

    tokenizer = build_tokenizer(corpus or CORPUS)
    torch.manual_seed(seed)
    model = build_model(Shape(width=width, layers=2, head_dim=16, text_mlp=64), tokenizer)
    model.save_pretrained(folder)
    write_processor(tokenizer, folder)
    return folder
