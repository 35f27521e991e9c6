"""Configurations that contradict themselves, on every family: one CheckpointError, or transformers' own answer.

Each case changes a field of config.json. Most are refused before anything is built; what passes must answer as
transformers does with the same folder.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from edgekit.checkpoint.folder import check_checkpoint, load_model
from edgekit.distill.model_sizes import sizes_of
from edgekit.errors import CheckpointError
from edgekit.inputs.processor import Processor
from edgekit.runtimes.pytorch import Official, TorchSession

TinyOf = Callable[..., Path]
FAMILIES = ("smolvlm", "qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision", "gemma3", "lfm2_vl", "qwen3_5")
QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is there?"}]}]
BIG = 10**18
LAYERS = {"qwen2_5_vl": "depth", "qwen3_vl": "depth", "qwen3_5": "depth"}
HEADS = {"qwen2_5_vl": "num_heads", "qwen3_vl": "num_heads", "qwen3_5": "num_heads"}
TOKEN = {"llava_onevision": "image_token_index", "gemma3": "image_token_index"}
ACT = {"gemma3": "hidden_activation"}


def every(family: str) -> list[tuple[str, Any]]:
    """(field, value) that no family takes."""
    vision, token = "vision_config.", TOKEN.get(family, "image_token_id")
    layers, heads = LAYERS.get(family, "num_hidden_layers"), HEADS.get(family, "num_attention_heads")
    activation = ACT.get(family, "hidden_act")
    if family == "lfm2_vl":
        text_act: list[tuple[str, Any]] = [("projector_hidden_act", "swish9")]
    else:
        text_act = [(f"text_config.{activation}", "swish9"), (f"text_config.{activation}", 3)]
    return [
        ("text_config.num_hidden_layers", 10**9),
        ("text_config.num_hidden_layers", -1),
        ("text_config.num_hidden_layers", "three"),
        ("text_config.num_attention_heads", 0),
        ("text_config.num_attention_heads", BIG),
        ("text_config.num_key_value_heads", 0),
        ("text_config.head_dim", 15),
        ("text_config.hidden_size", "32"),
        ("text_config.hidden_size", True),
        ("text_config.intermediate_size", 65),
        ("text_config.vocab_size", 8),
        ("text_config.vocab_size", BIG),
        ("text_config.pad_token_id", 10**6),
        ("text_config.rope_parameters", "linear"),
        ("text_config", []),
        *text_act,
        (f"{vision}{layers}", 10**9),
        (f"{vision}{layers}", 0),
        (f"{vision}{heads}", 0),
        (f"{vision}{heads}", 3),
        (f"{vision}patch_size", 0),
        (f"{vision}patch_size", 2.5),
        (f"{vision}hidden_size", -32),
        (f"{vision}hidden_act", "none such"),
        ("vision_config", None),
        (token, 10**6),
        (token, -1),
        (token, "<image>"),
        (token, 1),
        ("dtype", "float99"),
        ("text_config.output_hidden_states", "x"),
        ("id2label", {"a": 1}),
        ("model_type", ["llama"]),
    ]


OWN: dict[str, list[tuple[str, Any]]] = {
    "smolvlm": [
        ("scale_factor", 0),
        ("scale_factor", None),
        ("scale_factor", 3),
        ("text_config.rope_parameters.rope_type", "spiral"),
        ("text_config.rope_parameters.rope_type", None),
        ("text_config.rope_parameters.rope_theta", 0),
        ("vision_config.image_size", [64, 64]),
        ("vision_config.image_size", 10**12),
        ("text_config.attention_bias", True),
    ],
    "qwen2_5_vl": [
        ("text_config.rope_parameters.mrope_section", [2, 3, 4]),
        ("text_config.rope_parameters.mrope_section", "2,3,3"),
        ("vision_config.spatial_merge_size", 0),
        ("vision_config.spatial_merge_size", 3),
        ("vision_config.window_size", 1),
        ("vision_config.out_hidden_size", 48),
        ("vision_config.temporal_patch_size", -2),
    ],
    "qwen3_vl": [
        ("vision_config.deepstack_visual_indexes", [0, 9]),
        ("vision_config.deepstack_visual_indexes", ["a", 1]),
        ("vision_config.num_position_embeddings", 10**15),
        ("text_config.rope_parameters.mrope_section", [4, 2]),
    ],
    "internvl": [
        ("downsample_ratio", 0),
        ("downsample_ratio", 0.7),
        ("downsample_ratio", 2.0),
        ("vision_config.norm_type", "group"),
        ("vision_config.image_size", [56]),
        ("vision_config.patch_size", [0, 14]),
        ("vision_feature_layer", 7),
        ("vision_feature_select_strategy", "most"),
    ],
    "llava_onevision": [
        ("vision_feature_layer", 99),
        ("vision_feature_layer", []),
        ("vision_feature_select_strategy", "most"),
        ("image_grid_pinpoints", [[42]]),
        ("image_grid_pinpoints", "42x42"),
        ("vision_aspect_ratio", "anyres_max_many"),
    ],
    "gemma3": [
        ("mm_tokens_per_image", 5),
        ("mm_tokens_per_image", 0),
        ("text_config.sliding_window", 0),
        ("text_config.layer_types", ["full_attention"]),
        ("text_config.query_pre_attn_scalar", 0),
    ],
    "lfm2_vl": [
        ("downsample_factor", 0),
        ("vision_config.num_patches", 17),
        ("text_config.layer_types", ["conv", "rnn", "conv"]),
        ("text_config.conv_L_cache", BIG),
    ],
    "qwen3_5": [
        ("text_config.layer_types", ["linear_attention"] * 3),
        ("text_config.layer_types", ["linear_attention", "conv", "full_attention"]),
        ("text_config.layer_types", ["linear_attention", "full_attention"]),
        ("text_config.layer_types", "full_attention"),
        ("text_config.linear_num_value_heads", 0),
        ("text_config.linear_num_value_heads", 3),
        ("text_config.linear_num_key_heads", 4),
        ("text_config.linear_num_key_heads", 0),
        ("text_config.linear_key_head_dim", 8),
        ("text_config.linear_value_head_dim", -16),
        ("text_config.linear_conv_kernel_dim", 0),
        ("text_config.linear_conv_kernel_dim", BIG),
        ("text_config.rope_parameters.mrope_section", [4, 2, 2]),
        ("text_config.rope_parameters.partial_rotary_factor", 1.0),
        ("text_config.rope_parameters.partial_rotary_factor", "half"),
        ("vision_config.num_position_embeddings", 10**15),
        ("vision_config.out_hidden_size", 48),
    ],
}
# Changes that a folder bears: edgekit must answer as transformers does with it.
BORNE: dict[str, list[tuple[str, Any]]] = {
    "smolvlm": [("text_config.rope_parameters.rope_theta", 500.0), ("vision_config.num_attention_heads", 4)],
    "qwen2_5_vl": [("vision_config.window_size", 28), ("vision_config.fullatt_block_indexes", [])],
    "internvl": [("text_config.rms_norm_eps", 0.5), ("vision_config.layer_norm_eps", 0.1)],
    "gemma3": [("text_config.query_pre_attn_scalar", 4), ("text_config.final_logit_softcapping", 1.0)],
}
CASES = [(family, *case) for family in FAMILIES for case in (*every(family), *OWN[family])]


def changed(source: Path, target: Path, field: str, value: Any) -> Path:
    """A copy of a checkpoint, its weights linked, with one field of config.json set."""
    shutil.copytree(source, target, copy_function=lambda a, b: Path(b).symlink_to(a))
    config = json.loads((source / "config.json").read_text())
    *parts, last = field.split(".")
    part = config
    for name in parts:
        part = part[name]
    part[last] = value
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps(config))
    return target


def look(folder: Path) -> None:
    """What export and distillation do before anything is written."""
    check_checkpoint(folder)
    Processor.load(folder)
    load_model(folder)


@pytest.mark.parametrize(("family", "field", "value"), CASES, ids=lambda case: str(case)[:24])
def test_contradictions_are_one_error(tiny_of: TinyOf, tmp_path: Path, family: str, field: str, value: Any) -> None:
    folder = changed(tiny_of(family), tmp_path / "c", field, value)
    with pytest.raises(CheckpointError) as caught:
        look(folder)
    text = str(caught.value)
    assert "config.json" in text or "model type" in text
    assert field.rpartition(".")[2] in text.replace("model type", "model_type"), text


@pytest.mark.parametrize(("field", "value"), [("text_config.num_hidden_layers", 10**9), ("vision_config", 5)])
def test_an_estimate_refuses_the_same(tiny_of: TinyOf, tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=field.replace(".", r"\.")):
        sizes_of(changed(tiny_of("smolvlm"), tmp_path / "c", field, value))


@pytest.mark.parametrize("field", ["return_dict", "text_config.return_dict"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_how_outputs_are_wrapped_changes_no_answer(tiny_of: TinyOf, tmp_path: Path, family: str, field: str) -> None:
    """`generate` asks for named outputs itself, so such a folder answers in transformers."""
    said = []
    for folder in (tiny_of(family), changed(tiny_of(family), tmp_path / "c", field, False)):
        session = TorchSession(folder)
        given = session.prepare(QUESTION, [Image.new("RGB", (90, 70), "red")])
        said.append(session.prefill(given, session.encode_image(given)))
    assert (said[0] - said[1] == 0).all()


@pytest.mark.parametrize(
    ("family", "field", "value"), [(family, *case) for family, cases in BORNE.items() for case in cases]
)
def test_what_is_borne_answers_as_transformers_does(
    tiny_of: TinyOf, tmp_path: Path, family: str, field: str, value: Any
) -> None:
    from transformers import AutoModelForImageTextToText

    def answer(folder: Path) -> tuple[Official, torch.Tensor]:
        session = TorchSession(folder)
        given = session.prepare(QUESTION, [Image.effect_noise((90, 70), 60).convert("RGB")])
        return given, torch.from_numpy(session.prefill(given, session.encode_image(given)))

    folder = changed(tiny_of(family), tmp_path / "c", field, value)
    given, ours = answer(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    takes = inspect.signature(model.forward).parameters
    inputs = {name: tensor for name, tensor in given.vision.items() if name in takes}
    inputs |= {name: given.kinds for name in ("mm_token_type_ids", "token_type_ids") if name in takes}
    with torch.no_grad():
        theirs = model(input_ids=torch.from_numpy(given.ids), **inputs).logits[0, -1]
    assert (ours - theirs).abs().max() < 1e-4
    _, before = answer(tiny_of(family))
    assert (ours - before).abs().max() > 1e-3  # the field counts
