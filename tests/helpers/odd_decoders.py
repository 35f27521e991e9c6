"""Decoders of odd shapes, one layer deep, with random weights: for tests that export the text half alone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from edgekit.bundle import seal
from edgekit.export import Target, vision_name
from edgekit.export.parity import measure
from edgekit.families import Split, family_of
from edgekit.families.decoding import manifest_fields
from edgekit.inputs.chat import JINJA
from edgekit.inputs.processor import Inputs, Processor
from edgekit.manifest import Bucket, Cache, Manifest, Precision, Text
from edgekit.runtimes.comparison import Opened, open_bundle

# Widths that neither 8 nor 16 divides, that 8 alone does, and that both do; grouped heads, one key head, heads whose
# widths do not add up to the model's.
SHAPES = {
    "20, one key head": {"hidden_size": 40, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 20},
    "24, grouped": {"hidden_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24},
    "36, each its own": {"hidden_size": 72, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 36},
    "40, one key head": {"hidden_size": 80, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 40},
    "60, one head": {"hidden_size": 60, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 60},
    "72, grouped": {"hidden_size": 144, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 72},
    "80, one head": {"hidden_size": 80, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 80},
    "20, of another width": {"hidden_size": 36, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20},
    "6, of another width": {"hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6},
}
LIMIT = 12  # tokens beyond which `longrope` below takes its other angles
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": LIMIT},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": LIMIT,
    },
    "dynamic": {"factor": 2.0},
    "longrope": {
        "factor": 4.0, "original_max_position_embeddings": LIMIT,
        "short_factor": [1 + 0.1 * k for k in range(8)], "long_factor": [2 + 0.5 * k for k in range(8)],
    },
}  # fmt: skip


def model_of(checkpoint: Path, text: dict[str, Any], rope: dict[str, Any] | None = None) -> Any:
    """A family's model with one decoder layer and other settings of it, in memory."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(checkpoint)
    config.text_config.update({"num_hidden_layers": 1, "layer_types": ["full_attention"]} | text)
    config.text_config.rope_parameters.update(rope or {})
    if hasattr(config.vision_config, "out_hidden_size"):
        config.vision_config.out_hidden_size = config.text_config.hidden_size
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
    return model.eval()


def sections_of(family: str, shape: str) -> dict[str, Any]:
    """Rotary settings of a family for heads of a shape: what M-RoPE's three axes have of half a head."""
    if not family.startswith("qwen"):
        return {}
    half = SHAPES[shape]["head_dim"] // 2
    return {"mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}


def text_of(model: Any) -> Split:
    """The split without its vision encoders."""
    split: Split = family_of(model.config.model_type).split(model)
    return dataclasses.replace(split, vision={}, source=model)


def bundle_folder(checkpoint: Path, folder: Path) -> Path:
    """A folder with a checkpoint's JSON files and template, as a target's `write` finds it."""
    folder.mkdir(parents=True)
    for path in (*checkpoint.glob("*.json"), *checkpoint.glob("*.jinja")):
        shutil.copyfile(path, folder / path.name)
    return folder


def prompts(split: Split, *lengths: int) -> list[Inputs]:
    """Prompts of text alone, of any ids but the image's."""
    made = []
    for length in lengths:
        ids = np.random.default_rng(length).integers(20, 80, (1, length))
        ids[ids == split.image_token_id] = 19
        axes = [split.position_axes] if split.position_axes > 1 else []
        made.append(Inputs(ids, None, np.broadcast_to(np.arange(length), (*axes, 1, length)).copy()))
    return made


def opened(target: Target, split: Split, precision: str, folder: Path) -> Opened:
    """Write a split to a folder by a target, seal it as a bundle of its text half, and open that by its own runtime."""
    if target.name == "gguf":  # llama.cpp loads no text without its images
        model: Any = split.source
        split = dataclasses.replace(family_of(model.config.model_type).split(model), source=model)
    if target.name == "coreai":  # its `write` reads the model's folder anew, and these models have none
        from edgekit.export import coreai

        components = coreai.write_here(split, precision, folder)
    else:
        components, _ = target.write(split, precision, folder, (), {})
    source: Any = split.source
    seal(
        folder,
        name="odd",
        target=target.name,
        precision=Precision(precision, target.native(precision)),
        family=family_of(source.config.model_type).name,
        components=components,
        preprocessing=Processor.load(folder).for_sizes(None).params,
        text=Text("tokenizer.json", JINJA, split.image_token_id, tuple(split.eos_token_ids)),
        cache=Cache(split.layers, split.kv_heads, split.head_dim, target.in_place(components["text_decoder"], split)),
        vocab_size=split.vocab_size,
        student_sha256="0" * 64,
        buckets={name: Bucket(vision_name(name), part.grid, part.tokens) for name, part in split.vision.items()},
        **manifest_fields(split.extra_inputs),
        details=target.details(folder) if target.details is not None else {},
    )
    if split.vision:
        return open_bundle(folder)
    with patch.object(Manifest, "encoders", lambda _: {}):
        return open_bundle(folder)


def compare(
    target: Target, split: Split, precision: str, folder: Path, lengths: tuple[int, ...] = (7, 19)
) -> dict[str, Any]:
    """Export to a target, open what it wrote, and compare it with PyTorch: prompts, then six tokens each."""
    bundle = opened(target, split, precision, folder)
    try:
        return measure(split, bundle, prompts(split, *lengths), precision, steps=6, target=target.name)
    finally:
        bundle.close()
