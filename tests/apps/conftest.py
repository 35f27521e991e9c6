"""Bundles that the tests of the apps share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.data import Sample

SIZES = {"qwen2_5_vl": [(112, 84), (56, 56)], "qwen3_vl": [(128, 96)], "lfm2_vl": [(64, 64)]}
SIZES["qwen3_5"] = [(96, 64)]


@pytest.fixture(scope="session")
def demo_questions() -> list[Sample]:
    """The first 100 test questions."""
    from edgekit.data import samples

    return list(samples("easy-vqa:test", limit=100))


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory, demo_questions: list[Sample]) -> Callable[[str], Path]:
    """`demo_bundle(precision)`: the demo's student as an ONNX bundle, made once."""
    from exporting import export_checkpoint

    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.runtimes.golden import golden_answers

    folder = tmp_path_factory.mktemp("demo")

    def make(precision: str) -> Path:
        out = folder / f"onnx-{precision}"
        if not out.exists():
            student = resolve_checkpoint("demo:student")
            export_checkpoint(
                student, "onnx", precision, out, samples=demo_questions[:8], prompts=8, answers=golden_answers
            )
        return out

    return make


@pytest.fixture(scope="session")
def family_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_of: Callable[..., Path]) -> Callable[[str], Path]:
    """`family_bundle(family)`: a tiny random model of that family as an ONNX bundle, made once.

    With "-heads" behind it the model has two heads of keys and values, which have places in a cache.
    """
    from exporting import export_checkpoint

    from edgekit.demo.tiny import TINY
    from edgekit.runtimes.golden import golden_answers

    folder = tmp_path_factory.mktemp("families")

    def make(family: str) -> Path:
        if not (folder / family).exists():
            name, heads = family.removesuffix("-heads"), family.endswith("-heads")
            checkpoint = tiny_of(name, shape=replace(TINY, kv_heads=2)) if heads else tiny_of(name)
            export_checkpoint(
                checkpoint, "onnx", "fp32", folder / family, sizes=SIZES.get(name), prompts=4,
                answers=golden_answers,
            )  # fmt: skip
        return folder / family

    return make
