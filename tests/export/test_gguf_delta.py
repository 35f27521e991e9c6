"""Qwen3.5's layers in llama.cpp's order, worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint

from edgekit.demo.tiny import TINY
from edgekit.errors import CheckpointError
from edgekit.export._gguf_delta import in_turns, interval, metadata, problems, recast

L, F = "linear_attention", "full_attention"
# Two heads of keys, two of values for each, all of width 1: values are a0 a1 b0 b1, and llama.cpp wants a0 b0 a1 b1.
SHARED = SimpleNamespace(linear_num_key_heads=2, linear_key_head_dim=1, linear_value_head_dim=1)


def column(*numbers: float) -> Any:
    return np.array(numbers, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("in_proj_z", [0, 1, 10, 11], [0, 10, 1, 11]),
        ("in_proj_a", [0, 1, 10, 11], [0, 10, 1, 11]),
        ("in_proj_qkv", [5, 6, 7, 8, 0, 1, 10, 11], [5, 6, 7, 8, 0, 10, 1, 11]),  # queries and keys stay
        ("conv1d", [5, 6, 7, 8, 0, 1, 10, 11], [5, 6, 7, 8, 0, 10, 1, 11]),
    ],
)
def test_heads_of_values_in_turns(name: str, given: list[float], wanted: list[float]) -> None:
    found = in_turns(f"model.layers.0.linear_attn.{name}.weight", column(*given), SHARED)
    assert found[:, 0].tolist() == wanted


def test_what_reads_them_has_its_columns_in_turns() -> None:
    name = "model.layers.0.linear_attn.out_proj.weight"
    rows = np.array([[0, 1, 10, 11], [2, 3, 12, 13]], dtype=np.float32)
    assert in_turns(name, rows, SHARED).tolist() == [[0, 10, 1, 11], [2, 12, 3, 13]]
    assert in_turns(name, rows[0], SHARED).tolist() == [0, 10, 1, 11]  # of each column its importance
    wide = SimpleNamespace(linear_num_key_heads=2, linear_key_head_dim=3, linear_value_head_dim=2)
    whole = np.arange(8, dtype=np.float32)  # heads of two numbers stay whole
    assert in_turns(name, whole, wide).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_weights_are_recast() -> None:
    at = "model.layers.0."
    assert recast(f"{at}linear_attn.A_log", np.log(np.float32([1, 2, 3, 4])), SHARED)[1].tolist() == pytest.approx(
        [-1, -3, -2, -4]
    )
    name, bias = recast(f"{at}linear_attn.dt_bias", np.float32([1, 2, 3, 4]), SHARED)
    assert name == f"{at}linear_attn.dt_proj.bias" and bias.tolist() == [1, 3, 2, 4]
    ones = np.ones(2, dtype=np.float32)
    assert recast(f"{at}input_layernorm.weight", ones, SHARED)[1].tolist() == [2, 2]
    assert recast(f"{at}linear_attn.norm.weight", ones, SHARED)[1].tolist() == [1, 1]
    assert recast(f"{at}self_attn.q_proj.weight", ones, SHARED)[1].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("kinds", "step"),
    [
        ([L, L, F], 3),
        ([L, L, L, F, L, L, L, F], 4),
        ([F, F], 1),
        ([L, L, F, L], 3),
        ([L, F, L, L, F], None),
        ([L], None),
    ],
)
def test_every_how_many_layers_one_is_full(kinds: list[str], step: int | None) -> None:
    assert interval({"layer_types": kinds}) == step


def test_shapes_that_llamacpp_has_no_words_for() -> None:
    text = {"layer_types": [L, F, L, L, F], "linear_key_head_dim": 16, "linear_value_head_dim": 8}
    width, distances = problems(text)
    assert "keys of 16 numbers and values of 8" in width and "even distances" in distances
    assert list(problems({"layer_types": ["conv", F]})) == [] and metadata({"layer_types": None}) == {}
    assert list(problems({**text, "layer_types": [L, F], "linear_value_head_dim": 16})) == []


def test_a_model_llamacpp_cannot_take_is_refused(tiny_of: Callable[..., Path]) -> None:
    if find_spec("gguf") is None or find_spec("llama_cpp") is None:
        pytest.skip("gguf is not installed: pip install 'edgekit[gguf]'")
    from edgekit.checkpoint.folder import load_model
    from edgekit.export import _gguf_files, gguf

    folder = tiny_of("qwen3_5")
    config = _gguf_files.as_json(load_model(folder).config.to_dict())
    plan, _ = gguf.plan_of(config, folder)
    assert _gguf_files.check_shapes(config, plan) == "qwen35"
    config["text_config"] |= {"layer_types": [L, F, F], "linear_value_head_dim": 8}
    with pytest.raises(CheckpointError, match=r"values of 8; llama.cpp has one width; its layers .* even distances"):
        _gguf_files.check_shapes(config, plan)


@pytest.mark.slow
def test_two_heads_of_keys(tiny_of: Callable[..., Path], tmp_path: Path) -> None:
    """Four heads of values, two to a key: another order would give other answers."""
    if find_spec("gguf") is None or find_spec("llama_cpp") is None:
        pytest.skip("gguf is not installed: pip install 'edgekit[gguf]'")
    checkpoint = tiny_of("qwen3_5", shape=replace(TINY, kv_heads=2), seed=1)
    parity = export_checkpoint(checkpoint, "gguf", "fp32", tmp_path / "b", sizes=[(96, 64)], prompts=4).manifest.parity
    assert parity is not None and parity["greedy_identical"] == 1.0 and parity["mean_kl"] < 1e-6
