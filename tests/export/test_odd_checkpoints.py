"""Whole checkpoints of odd shapes, vision encoders too: biases, one key head, tied heads, odd vocabularies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from exporting import export_checkpoint

from edgekit.errors import CheckpointError, EdgekitError
from edgekit.export import TARGETS
from edgekit.formats.inspecting import inspect

Maker = Callable[..., Path]


def text(width: int, heads: int, keys: int, head_dim: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": head_dim, **more
    }  # fmt: skip


# name: family, text, vision, tied, rows of the vocabulary beyond the tokenizer's. Heads of 20, 24, 36, 40 and 72; a
# model's width that is not heads times their width; vision encoders with heads of 20, 24, 36, 72 and 80.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool, int]] = {
    "20, biases": (
        "smolvlm", text(36, 3, 1, 20, attention_bias=True, mlp_bias=True), {"hidden_size": 48}, True, 7
    ),
    "24, grouped": ("qwen2_5_vl", text(96, 4, 2, 24), {"hidden_size": 40}, True, 13),
    "36, biases": ("internvl", text(40, 6, 2, 36, attention_bias=True), {"hidden_size": 72}, False, 0),
    "40, one key head": ("qwen3_vl", text(44, 5, 1, 40), {"hidden_size": 144}, True, 1),
    "72, nine and three": ("internvl", text(144, 9, 3, 72), {"hidden_size": 80, "num_attention_heads": 1}, True, 5),
    "20, convolutions": ("lfm2_vl", text(40, 2, 1, 20), {}, True, 0),
    "20, blocks": ("gemma3", text(36, 3, 1, 20, query_pre_attn_scalar=20), {"hidden_size": 48}, True, 0),
    "36, packed": ("llava_onevision", text(72, 2, 1, 36), {"hidden_size": 40}, True, 3),
}  # fmt: skip


def checkpoint_of(name: str, tiny_of: Maker, folder: Path) -> Path:
    """A tiny checkpoint of a family with a case's settings and new random weights, norms and biases too."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    family, decoder, encoder, tied, rows = CASES[name]
    shutil.copytree(tiny_of(family, vocab_padding=rows), folder)
    config = AutoConfig.from_pretrained(folder)
    if family.startswith("qwen"):
        half = decoder["head_dim"] // 2
        config.text_config.rope_parameters["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]
        config.vision_config.out_hidden_size = decoder["hidden_size"]
    config.text_config.update({**decoder, "tie_word_embeddings": tied})
    config.vision_config.update(encoder)
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
            else:
                weight.add_(0.05 * torch.randn_like(weight))
    model.generation_config = GenerationConfig.from_pretrained(folder)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    model.save_pretrained(folder)
    return folder


CI = {
    *(("onnx", name) for name in ("20, biases", "36, biases", "20, convolutions", "20, blocks")),
    *((target, "40, one key head") for target in ("executorch", "coreml", "coreai", "gguf")),
}
ROWS = [
    pytest.param(target, name, marks=() if (target, name) in CI else pytest.mark.matrix)
    for target, names in {
        "onnx": list(CASES), **dict.fromkeys(("executorch", "coreml", "coreai"), list(CASES)[:5]),
        "gguf": ["40, one key head", "72, nine and three"],
    }.items()
    for name in names
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("target", "name"), ROWS)
def test_whole_checkpoints(target: str, name: str, tiny_of: Maker, tmp_path: Path) -> None:
    if missing := [package for package in TARGETS.load(target).packages if find_spec(package) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    bundle = export_checkpoint(checkpoint_of(name, tiny_of, tmp_path / "m"), target, "fp32", tmp_path / "b", prompts=6)
    parity = bundle.manifest.parity
    assert parity is not None and parity["passed"] and parity["greedy_identical"] == 1.0
    plain = any("GroupQueryAttention takes heads of a multiple of 8" in note for note in inspect(bundle.folder).notes)
    assert plain is (target == "onnx" and bundle.manifest.cache.head_dim % 8 != 0)


def test_llama_cpp_knows_no_bias_behind_qwens_attention(tiny_of: Maker, tmp_path: Path) -> None:
    """Refused by name before anything is converted; llama.cpp itself says "wrong number of tensors"."""
    folder = checkpoint_of("36, biases", tiny_of, tmp_path / "m")
    with pytest.raises(CheckpointError, match="its attention has biases"):
        export_checkpoint(folder, "gguf", "fp32", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(("heads", "keys"), [(3, 2), (4, 3)])
def test_heads_that_do_not_divide(heads: int, keys: int, tiny_of: Maker, tmp_path: Path) -> None:
    shutil.copytree(tiny_of("smolvlm"), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= text(20 * heads, heads, keys, 20)
    path.write_text(json.dumps(config))
    with pytest.raises(EdgekitError, match=f"does not divide num_attention_heads {heads}"):
        export_checkpoint(tmp_path / "m", "onnx", "fp32", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
