"""Shapes and rotary scalings that a fused operator, a delegate or a tracer refuses: the same answers, or a clear no."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_decoders import LIMIT, ROPES, SHAPES, bundle_folder, compare, model_of, prompts, text_of

from edgekit.bars import judge, random_bars_of
from edgekit.export import onnx
from edgekit.export.parity import TorchModules, follow
from edgekit.stats import largest_gap

Maker = Callable[..., Path]


def held(figures: dict[str, Any], precision: str, target: str = "") -> bool:
    return all(check["held"] for check in judge(figures, random_bars_of(precision, target)).values())


# --------------------------------------------------------------------------------------------- rotary, in PyTorch alone


def logits_of(model: Any, ids: Any) -> Any:
    """transformers' own logits of each token, prompt and then token by token, with a fresh rotary embedding."""
    import torch

    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(ids[:, :5]), use_cache=True)
        steps = [out.logits[0, -1]]
        for place in range(5, ids.shape[1]):
            given = torch.from_numpy(ids[:, place : place + 1])
            out = model(input_ids=given, past_key_values=out.past_key_values, use_cache=True)
            steps.append(out.logits[0, -1])
    return torch.stack(steps).numpy()


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_angles_that_hang_on_the_length_are_transformers_own(family: str, kind: str, tiny_of: Maker) -> None:
    """Up to the limit, across it and beyond; and the untouched model's rotary embedding is left as it was."""
    model = model_of(tiny_of(family), {"max_position_embeddings": LIMIT}, {"rope_type": kind, **ROPES[kind]})
    split = text_of(model)
    (item,) = prompts(split, LIMIT + 6)
    rotary = split.source.get_decoder().rotary_emb  # type: ignore[union-attr]
    before = rotary.inv_freq.clone()
    start = type(item)(item.ids[:, :5], None, item.positions[..., :5])
    got, _ = follow(TorchModules(split), split, start, item.ids[0, 5:].tolist() + [0], 0)
    assert rotary.inv_freq.equal(before)
    assert largest_gap(np.stack(got), logits_of(model, item.ids)) < 1e-5
