"""What target and runtime share: the file of a bundle, and the modules made from it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.families import Split, family_of

FILE = "weights.safetensors"
DTYPES = {"fp32": "float32", "fp16": "float16", "e5m2": "float8_e5m2"}
"""Precision -> torch's name of what each weight is rounded to."""


def write(model: Any, precision: str, path: Path) -> None:
    """Write a model's weights; eight bits go as the bytes they are."""
    import torch
    from safetensors.torch import save_file

    kind: torch.dtype = getattr(torch, DTYPES[precision])
    tensors = {name: weight.detach().to(kind).contiguous() for name, weight in model.named_parameters()}
    eight = {name: weight.view(torch.uint8) if kind.itemsize == 1 else weight for name, weight in tensors.items()}
    save_file(eight, path, metadata={"precision": precision})


def read(folder: Path) -> Split:
    """The modules of a bundle, in float32."""
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").float().eval()
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    model.generation_config.eos_token_id = ends
    with safe_open(folder / FILE, "pt") as stored, torch.no_grad():
        kind: torch.dtype = getattr(torch, DTYPES[stored.metadata()["precision"]])
        for name, parameter in model.named_parameters():
            parameter.copy_(stored.get_tensor(name).view(kind).float())
    return family_of(config.model_type).split(model, None)
