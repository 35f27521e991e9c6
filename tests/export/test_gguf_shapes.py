"""GGUF at the widths, heads, tiles and windows of released models: fewer layers and tokens, random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from exporting import export_checkpoint

from edgekit.demo.tiny import write_checkpoint
from edgekit.export.bundling import drawn_samples
from edgekit.inputs.chat import question
from edgekit.report.tolerances import judge, random_tolerances_of
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.generate import answer

pytest.importorskip("gguf", reason="the extra gguf is not installed")
if find_spec("llama_cpp") is None:
    pytest.skip("llama-cpp-python is not installed", allow_module_level=True)


def _smolvlm_256m(config: Any) -> dict[str, dict[str, Any]]:
    """SmolVLM-256M: 4 of 30 layers, 2 of 12."""
    config.text_config.update(
        {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
        | {"head_dim": 64, "num_hidden_layers": 4, "max_position_embeddings": 8192}
    )
    config.vision_config.update(
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 512, "patch_size": 16}
    )
    config.scale_factor = 4
    return {
        "preprocessor_config.json": {"size": {"longest_edge": 512}, "max_image_size": {"longest_edge": 512}},
        "processor_config.json": {"image_seq_len": 64},
    }


def _internvl3_1b(config: Any) -> dict[str, dict[str, Any]]:
    """InternVL3-1B, whose decoder is a Qwen2: 2 of 24 layers, 2 of 24."""
    from transformers import Qwen2Config

    old = config.text_config
    config.text_config = Qwen2Config(
        vocab_size=old.vocab_size, hidden_size=896, intermediate_size=4864, num_hidden_layers=2, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=8192, eos_token_id=old.eos_token_id, rope_theta=1e6,
        bos_token_id=old.bos_token_id, pad_token_id=old.pad_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    config.vision_config.update({"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16})
    config.vision_config.image_size, config.image_seq_length = [448, 448], 256
    return {
        "preprocessor_config.json": {"size": {"height": 448, "width": 448}, "max_patches": 2},
        "processor_config.json": {"image_seq_length": 256},
    }


def _qwen2_5_vl_3b(config: Any) -> dict[str, dict[str, Any]]:
    """Qwen2.5-VL-3B: 3 of 36 layers, 8 of 32."""
    config.text_config.update(
        {"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 2}
        # llama.cpp does not read qwen2vl's epsilon (test_gguf.py); these embeddings are small enough to feel that.
        | {"head_dim": 128, "rms_norm_eps": 1e-12}
    )
    config.text_config.rope_parameters["mrope_section"] = [16, 24, 24]
    config.vision_config.update({"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "depth": 8})
    config.vision_config.update({"out_hidden_size": 2048, "window_size": 112, "fullatt_block_indexes": [7]})
    return {"preprocessor_config.json": {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280}}


def _qwen3_vl_2b(config: Any) -> dict[str, dict[str, Any]]:
    """Qwen3-VL-2B: 4 of 28 layers, 6 of 24."""
    config.text_config.update(
        {"hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16, "num_key_value_heads": 8}
        | {"head_dim": 128, "num_hidden_layers": 4}
    )
    config.text_config.rope_parameters["mrope_section"] = [24, 20, 20]
    config.vision_config.update({"hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "depth": 6})
    config.vision_config.update(
        {"out_hidden_size": 2048, "num_position_embeddings": 2304, "deepstack_visual_indexes": [1, 3, 5]}
    )
    return {"preprocessor_config.json": {"size": {"shortest_edge": 65536, "longest_edge": 16777216}}}


def at_shape(family: str, reshape: Callable[[Any], dict[str, dict[str, Any]]], folder: Path) -> Path:
    """A checkpoint of a family at another shape."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    write_checkpoint(family, folder, seed=0)
    config, generation = AutoConfig.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    files = reshape(config)
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # signals keep their size through such layers
                weight.normal_(0, weight[0].numel() ** -0.5)
    model.generation_config = generation
    model.save_pretrained(folder)
    for name, settings in files.items():
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


LONG = pytest.mark.matrix  # more than a minute of processor time
ROWS = [
    pytest.param("smolvlm", _smolvlm_256m, ("fp32", "q4_k_m"), id="smolvlm_256m"),
    pytest.param("internvl", _internvl3_1b, ("fp32", "q4_k_m"), id="internvl3_1b"),
    pytest.param("qwen2_5_vl", _qwen2_5_vl_3b, ("fp32", "int8"), id="qwen2_5_vl_3b", marks=LONG),
    pytest.param("qwen3_vl", _qwen3_vl_2b, ("fp32", "int4"), id="qwen3_vl_2b", marks=LONG),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "reshape", "precisions"), ROWS)
def test_shapes_of_released_models(
    family: str, reshape: Callable[[Any], dict[str, dict[str, Any]]], precisions: tuple[str, ...], tmp_path: Path
) -> None:
    checkpoint = at_shape(family, reshape, tmp_path / "model")
    for precision in precisions:
        bundle = export_checkpoint(checkpoint, "gguf", precision, tmp_path / precision, samples=drawn_samples(2))
        parity = bundle.manifest.parity
        assert parity is not None
        assert all(check["held"] for check in judge(parity, random_tolerances_of(precision, "gguf")).values()), parity
    session = RUNTIMES.load("llamacpp").open_session(bundle.folder, 1)
    try:
        sample = drawn_samples(16)[12]
        said = answer(session, question("what is there?"), [sample.images[0].open()], max_new_tokens=4)
        assert 1 <= len(said.token_ids) <= 4
    finally:
        session.close()
