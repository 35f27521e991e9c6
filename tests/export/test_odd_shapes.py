"""Shapes and rotary scalings that a fused operator, a delegate or a tracer refuses: the same answers, or a clear no."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from odd_decoders import LIMIT, ROPES, SHAPES, bundle_folder, compare, model_of, opened, prompts, sections_of, text_of
from tracing import traced_once

from edgekit.errors import EdgekitError
from edgekit.export import TARGETS, coreai, coreml, executorch, onnx, onnx_attention
from edgekit.export.parity import TorchModules, follow
from edgekit.report.tolerances import judge, random_tolerances_of
from edgekit.runtimes import _onnx_cache
from edgekit.stats import largest_gap

Maker = Callable[..., Path]


def held(figures: dict[str, Any], precision: str, target: str = "") -> bool:
    return all(check["held"] for check in judge(figures, random_tolerances_of(precision, target)).values())


# --------------------------------------------------------------------------------------------- rotary, in PyTorch alone


def logits_of(model: Any, ids: Any) -> Any:
    """transformers' own logits of a prompt of five tokens and then of each token."""
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
    rotary = model.model.get_decoder().rotary_emb
    before = rotary.inv_freq.clone()
    start = type(item)(item.ids[:, :5], None, item.positions[..., :5])
    got, _ = follow(TorchModules(split), split, start, [*item.ids[0, 5:].tolist(), 0], 0)
    assert rotary.inv_freq.equal(before)
    assert largest_gap(np.stack(got), logits_of(model, item.ids)) < 1e-5


# ----------------------------------------------------------------------------------------------------------------- onnx

USUAL = {"20, one key head", "24, grouped"}  # without the fused operator, and with it
EACH = {"6, of another width", "36, each its own", "72, grouped"}  # the slow run's; the others are rows of the matrix


def _marks(name: str) -> list[pytest.MarkDecorator]:
    if name in USUAL:
        return []
    return [pytest.mark.slow] if name in EACH else [pytest.mark.slow, pytest.mark.matrix]


ONNX_SHAPES = [pytest.param(name, marks=_marks(name)) for name in SHAPES]


@pytest.mark.parametrize("shape", ONNX_SHAPES)
def test_onnx_takes_heads_of_any_width(
    shape: str, tiny_of: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = text_of(model_of(tiny_of("smolvlm"), SHAPES[shape]))
    assert onnx_attention.fits(split) is (split.head_dim % 8 == 0)
    folder = bundle_folder(tiny_of("smolvlm"), tmp_path / "b")
    with traced_once("odd heads", shape):
        assert held(compare(onnx.TARGET, split, "fp32", folder), "fp32")
    cache_grows_as_pytorchs(split, folder, monkeypatch)


def cache_grows_as_pytorchs(split: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime's own cache, in place where the operator is: a prompt's rows outlive each doubling of the buffers."""
    import onnxruntime

    monkeypatch.setattr(_onnx_cache, "FIRST", 4)
    path = folder / "onnx/decoder_model_merged.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given, made = (
        tuple(SimpleNamespace(name=value.name, shape=tuple(value.shape)) for value in values)
        for values in (session.get_inputs(), session.get_outputs())
    )
    manifest: Any = SimpleNamespace(
        cache=SimpleNamespace(in_place=onnx.appends_in_place(split, "fp32")),
        components={"text_decoder": SimpleNamespace(inputs=given, outputs=made)},
    )
    cache = _onnx_cache.KeyValueCache(session, manifest)
    (item,) = prompts(split, 3)
    tokens = list(range(30, 40))
    wanted, _ = follow(TorchModules(split), split, item, tokens, 0)
    embeds, positions = TorchModules(split).embed(item.ids), item.positions
    for token, logits in zip(tokens, wanted, strict=True):
        assert largest_gap(cache.run({"inputs_embeds": embeds, "position_ids": positions})[0, -1], logits) < 1e-4
        embeds = TorchModules(split).embed(np.array([[token]]))
        positions = np.array([[cache.length]])


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_plain_attention_in_every_precision(precision: str, tiny_of: Maker, tmp_path: Path) -> None:
    shape = "20, one key head"
    split = text_of(model_of(tiny_of("smolvlm"), SHAPES[shape]))
    folder = bundle_folder(tiny_of("smolvlm"), tmp_path / "b")
    with traced_once("odd heads", shape):
        assert held(compare(onnx.TARGET, split, precision, folder), precision)
    assert not onnx.appends_in_place(split, precision)


@pytest.mark.slow
def test_large_gains_are_rounded_as_pytorch_rounds_them(tiny_of: Maker, tmp_path: Path) -> None:
    """Gains of norms above 1 make large logits, whose float32 steps are large too: PyTorch's own distance to float64 is
    above the tolerance of 1e-4, and ONNX Runtime's is as large, no larger."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 72}
    wide = {"hidden_size": 288, "intermediate_size": 576, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    model = model_of(tiny_of("qwen2_5_vl"), heads | wide, {"mrope_section": [12, 12, 12]})
    _enlarge_gains(model)
    split, exact = text_of(model), text_of(_in_float64(model))
    folder = bundle_folder(tiny_of("qwen2_5_vl"), tmp_path / "b")
    bundle, found = opened(onnx.TARGET, split, "fp32", folder), []
    for item in prompts(split, 7, 19):
        ours, tokens = follow(TorchModules(split), split, item, None, 6)
        theirs = bundle.follow(item, tokens)
        truth, _ = follow(TorchModules(exact), exact, item, tokens, 6)
        found += [np.abs(np.stack([a - b, a - c, b - c])).max(1) for a, b, c in zip(ours, theirs, truth, strict=True)]
    _, own, other = np.stack(found).max(0)
    assert own > 1e-4  # else the case shows nothing
    assert other < 1.5 * own


def _enlarge_gains(model: Any) -> None:
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 and "norm" in name and "language_model" in name:
                weight.uniform_(1.0, 3.0)


def _in_float64(model: Any) -> Any:
    """A copy in float64, its RMSNorms too, which transformers computes in float32 whatever the model is in."""
    import torch
    from torch import nn

    class Norm(nn.Module):
        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.weight, self.epsilon = norm.weight, norm.variance_epsilon

        def forward(self, hidden: Any) -> Any:
            return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.epsilon)

    exact = copy.deepcopy(model).double()
    for owner in list(exact.modules()):
        for name, child in list(owner.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(owner, name, Norm(child))
    return exact


# ------------------------------------------------------------------------------------------------ scalings, each target

SCALINGS = [("onnx", "longrope")]  # the usual run's: angles that hang on the length, and turn over
LONG = [*((target, kind) for target in ("coreml", "executorch", "coreai") for kind in ("dynamic", "longrope"))]
LONG += [
    ("onnx", "dynamic"),
    ("onnx", "yarn"),
    ("coreml", "llama3"),
    ("executorch", "yarn"),
    ("coreai", "yarn"),
]  # angles that stay
REST = [(target, kind) for target in ("onnx", "coreml", "executorch", "coreai") for kind in ROPES]
REST = [row for row in REST if row not in (*SCALINGS, *LONG)]


def slow(rows: list[Any], *more: pytest.MarkDecorator) -> list[Any]:
    return [pytest.param(*row, marks=[pytest.mark.slow, *more]) for row in rows]


@pytest.mark.parametrize(("target", "kind"), [*SCALINGS, *slow(LONG), *slow(REST, pytest.mark.matrix)])
def test_rotary_scalings(target: str, kind: str, tiny_of: Maker, tmp_path: Path) -> None:
    """Prompts below and above where `longrope` turns over, and one that crosses it as it is answered."""
    module = TARGETS.load(target)
    if missing := [name for name in module.packages if find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    settings = {"max_position_embeddings": 64}
    split = text_of(model_of(tiny_of("smolvlm"), settings, {"rope_type": kind, **ROPES[kind]}))
    folder = bundle_folder(tiny_of("smolvlm"), tmp_path / "b")
    assert held(compare(module, split, "fp32", folder, (5, LIMIT - 2, LIMIT + 9)), "fp32", target)


# Kernels of a delegate and blocks of 32 weights are what such widths do not divide into.
ONE, NARROW = "20, one key head", "6, of another width"
WIDTHS = [
    *((target, "smolvlm", NARROW, "fp32") for target in ("coreml", "executorch", "coreai")),
    *(("gguf", "smolvlm", "36, each its own", word) for word in ("int8", "q4_k_m")),
    ("gguf", "smolvlm", NARROW, "int4"), ("gguf", "qwen2_5_vl", ONE, "int8"), ("executorch", "smolvlm", ONE, "int4"),
    ("coreml", "smolvlm", ONE, "int4"), ("coreai", "smolvlm", ONE, "int4"),
    ("coreml", "qwen2_5_vl", ONE, "fp32"), ("coreai", "qwen2_5_vl", ONE, "fp32"),
]  # fmt: skip
WIDER = [
    *((target, "smolvlm", ONE, "fp32") for target in ("coreml", "executorch", "coreai")),
    ("gguf", "smolvlm", "36, each its own", "int4"), ("executorch", "smolvlm", ONE, "int8"),
    *(("gguf", "smolvlm", NARROW, word) for word in ("int8", "q4_k_m")),
    *(("gguf", "qwen2_5_vl", ONE, word) for word in ("fp32", "int4")),
    *((target, "smolvlm", shape, word) for target in ("coreml", "coreai") for shape in (ONE, NARROW)
      for word in ("int8", "int4") if (shape, word) != (ONE, "int4")),
    ("executorch", "qwen2_5_vl", ONE, "fp32"),
    # Its heads are as wide as the model is by their number: none of another width.
    *((target, "qwen2_5_vl", "24, grouped", "fp32") for target in ("coreml", "executorch", "coreai")),
]  # fmt: skip


@pytest.mark.parametrize(("target", "family", "shape", "precision"), [*slow(WIDTHS), *slow(WIDER, pytest.mark.matrix)])
def test_heads_of_odd_widths(
    target: str, family: str, shape: str, precision: str, tiny_of: Maker, tmp_path: Path
) -> None:
    module = TARGETS.load(target)
    if missing := [name for name in module.packages if find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    checkpoint = tiny_of(family, **module.tiny.get(family, {}))
    split = text_of(model_of(checkpoint, SHAPES[shape], sections_of(family, shape)))
    folder = bundle_folder(checkpoint, tmp_path / "b")
    assert held(compare(module, split, precision, folder), precision, target)


def test_core_ml_cuts_no_prompt_whose_length_decides_its_angles(tiny_of: Maker) -> None:
    split = text_of(model_of(tiny_of("smolvlm"), {}, {"rope_type": "longrope", **ROPES["longrope"]}))
    chosen = coreml.plan("fp16", {"lengths": "buckets"})
    with pytest.raises(EdgekitError, match=r"lengths=buckets .*\n.*more than 12 tokens by other angles"):
        coreml._within(chosen, split)
    assert coreml._within(coreml.plan("fp16", {"lengths": "buckets", "context": "12"}), split).context == 12


@pytest.mark.parametrize("family", ["smolvlm", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("target", ["coreml", "executorch", "coreai"])
def test_a_manifest_says_what_a_vision_encoder_gives(target: str, family: str, tiny_of: Maker) -> None:
    """Patches of one image give (N, D), a tile (1, N, D): runtimes compare what they load with it."""
    import torch

    from edgekit.checkpoint.folder import load_model
    from edgekit.families import family_of

    split = family_of(family).split(load_model(tiny_of(family)))
    (part,) = split.vision.values()
    if target == "coreml":
        (made,) = (one for one in coreml.programs(split, coreml.plan("fp32", {})) if one.part == "vision")
    else:
        module: Any = {"executorch": executorch, "coreai": coreai}[target]
        made = module._vision("vision_encoder", part, split, "fp32", *([()] if target == "executorch" else []))
    with torch.no_grad():
        given = part.module(*made.example)
    shapes = [tuple(one.shape) for one in (given if isinstance(given, tuple) else (given,))]
    assert [spec.shape for spec in made.outputs] == shapes
