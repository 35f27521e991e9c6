"""What is inside an export: figures by hand, agreement between targets, and what cannot be read."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from manifests import reseal
from typer.testing import CliRunner

from edgekit import schema
from edgekit.bundle import MANIFEST, Bundle
from edgekit.cli import build
from edgekit.errors import BundleError, EdgekitError, StorageError
from edgekit.formats import Held, Part, State
from edgekit.formats.coreai import inspect as coreai
from edgekit.formats.coreml import inspect as coreml
from edgekit.formats.counting import Heads, Inspection, summarise
from edgekit.formats.gguf import inspect as gguf
from edgekit.formats.inspecting import inspect
from edgekit.formats.onnx import inspect as onnx
from edgekit.manifest import Component, TensorSpec

TOKENS = 48


@pytest.fixture(scope="module")
def checkpoint(checkpoint_maker: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose norms and biases differ: a graph keeps one copy of those that are equal."""
    from safetensors.numpy import load_file, save_file

    folder = checkpoint_maker(tmp_path_factory.mktemp("inside"), seed=3)
    file, rng = folder / "model.safetensors", np.random.default_rng(0)
    tensors = {
        name: value + rng.normal(0, 0.1, value.shape).astype(value.dtype) if value.ndim == 1 else value
        for name, value in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as ONNX in float32."""
    return exported(checkpoint, "fp32", tmp_path_factory.mktemp("inside-onnx") / "b")


def exported(checkpoint: Path, precision: str, out: Path) -> Path:
    from exporting import export_checkpoint

    from edgekit.export.bundling import drawn_samples

    return export_checkpoint(checkpoint, "onnx", precision, out, samples=drawn_samples(2)).folder


@pytest.fixture(scope="module")
def of_bundle(bundle: Path) -> Inspection:
    return inspect(bundle)


@pytest.fixture(scope="module")
def of_checkpoint(checkpoint: Path) -> Inspection:
    return inspect(checkpoint)


def by_hand(folder: Path) -> dict[str, int]:
    """Parameters and multiply-adds of an Idefics3 checkpoint, by its configuration alone."""
    config = json.loads((folder / "config.json").read_text())
    text, vision, scale = config["text_config"], config["vision_config"], config["scale_factor"]
    wide, deep, heads = text["hidden_size"], text["num_hidden_layers"], text["num_attention_heads"]
    head = text.get("head_dim") or wide // heads
    vocabulary = text["vocab_size"]
    layer = wide * head * (heads + 2 * text["num_key_value_heads"]) + heads * head * wide
    layer += 3 * wide * text["intermediate_size"]
    width, patch = vision["hidden_size"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    block = 4 * width**2 + 2 * width * vision["intermediate_size"]
    kernel, merged = width * 3 * patch**2, width * scale**2 * wide
    biases = 4 * width + vision["intermediate_size"] + width + 4 * width  # of attention, MLP and two norms
    layers = vision["num_hidden_layers"]
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return {
        "text": deep * (layer + 2 * wide) + wide + (0 if tied else vocabulary * wide),
        "embedding": vocabulary * wide,
        "vision": layers * (block + biases) + kernel + width + patches * width + 2 * width + merged,
        "token": deep * layer + vocabulary * wide,
        "attention": 2 * deep * heads * head * TOKENS,
        "picture": patches * (layers * block + kernel) + patches // scale**2 * merged,
        "seen": 2 * layers * patches**2 * width,
        "row": 2 * deep * text["num_key_value_heads"] * head * 4,
    }


def test_a_checkpoint_by_hand(of_checkpoint: Inspection, checkpoint: Path) -> None:
    want, found = by_hand(checkpoint), of_checkpoint
    assert found.cache_tokens == TOKENS
    parts = found.components
    assert parts["vision_encoder"].parameters == want["vision"]
    assert parts["token_embedding"].parameters == want["embedding"]
    assert parts["text_decoder"].parameters == want["text"]
    assert found.per_token.flops == 2 * (want["token"] + want["attention"])
    assert found.per_image is not None
    assert found.per_image.flops == 2 * (want["picture"] + want["seen"])
    assert found.per_image.attention_flops == 2 * want["seen"]


def test_an_onnx_bundle_by_hand(of_bundle: Inspection, checkpoint: Path, bundle: Path) -> None:
    """Counted in graphs, where the checkpoint's are PyTorch's own: two ways to the same figures."""
    want, found = by_hand(checkpoint), of_bundle
    parts = found.components
    assert parts["text_decoder"].parameters == want["text"]
    assert (parts["vision_encoder"].parameters, parts["token_embedding"].parameters) == (
        want["vision"], want["embedding"],
    )  # fmt: skip
    assert found.per_token.flops == 2 * (want["token"] + want["attention"])
    assert found.per_image is not None and found.per_image.flops == 2 * (want["picture"] + want["seen"])
    # All weights of the decoder once, a row of the embedding, a row of the rotary tables, the cache and one row more.
    wide = Bundle.load(bundle).manifest.components["token_embedding"].outputs[0].shape[-1]
    assert isinstance(wide, int)
    constants = found.per_token.weight_bytes - parts["text_decoder"].weight_bytes - 4 * wide
    assert 0 <= constants < 500  # two rows of tables, and single numbers
    assert found.cache_bytes_per_token == want["row"]
    assert found.per_token.bytes_moved == found.per_token.weight_bytes + want["row"] * (TOKENS + 1)
    assert found.bits_per_weight == 32


def test_parts_add_up(of_bundle: Inspection, of_checkpoint: Inspection) -> None:
    for found in (of_bundle, of_checkpoint):
        parts = found.components.values()
        assert found.parameters == sum(part.parameters for part in parts)
        assert found.parameters == sum(sum(part.weight_types.values()) for part in parts)
        assert found.weight_bytes == sum(part.weight_bytes for part in parts)
        assert found.constant_bytes == sum(part.constant_bytes for part in parts)
        rest = found.program_bytes + found.other_bytes
        assert found.weight_bytes + found.constant_bytes + rest == found.size_bytes
        assert min(found.program_bytes, found.other_bytes) > 0
        runs = [part.flops for part in parts if part.run == "token"]
        assert sum(runs) == found.per_token.flops


@pytest.mark.slow
def test_quantised_graphs_hold_the_same_parameters(checkpoint: Path, of_bundle: Inspection, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("int8", "int4"):
        found = inspect(exported(checkpoint, precision, tmp_path / precision))
        assert found.parameters == of_bundle.parameters and found.per_token.flops == of_bundle.per_token.flops
        assert found.per_image is not None and of_bundle.per_image is not None
        assert found.per_image.flops == of_bundle.per_image.flops
        decoder = found.components["text_decoder"]
        assert decoder.weight_types[precision] > 0.9 * decoder.parameters
        assert found.components["token_embedding"].apart == {}
        assert decoder.apart == {"GroupQueryAttention": 2}
        assert found.components["vision_encoder"].apart["Conv with float32 weights"] == 1
        sizes[precision] = decoder.bits_per_weight
    # Blocks of 32 with a float32 scale, and most with a 4-bit zero point: 5 to 5.125 bits and padding; norms are float.
    assert sizes["int8"] is not None and 8 < sizes["int8"] < 10
    assert sizes["int4"] is not None and 5 < sizes["int4"] < 6.5


def test_tokens_in_the_cache(bundle: Path, of_bundle: Inspection) -> None:
    long = inspect(bundle, tokens=10 * TOKENS)
    assert long.per_token.attention_flops == 10 * of_bundle.per_token.attention_flops
    assert long.per_token.weight_bytes == of_bundle.per_token.weight_bytes
    row = of_bundle.cache_bytes_per_token
    assert long.per_token.bytes_moved - of_bundle.per_token.bytes_moved == 9 * TOKENS * row
    assert long.per_image == of_bundle.per_image


def test_bits_per_weight_with_scales() -> None:
    weight = Held("w", 64 * 64, 64 * 64 // 2 + 64 * 2 * 2, "int4", "product")  # a float16 scale for every 32
    found = whole({"text_decoder": Part({"linear": 1}, (weight,), 64 * 64)})
    assert found.components["text_decoder"].bits_per_weight == 4.5


def whole(parts: dict[str, Part], **changes: Any) -> Inspection:
    about = {
        "name": "b", "target": "t", "precision": "p", "hash": None, "size_bytes": 10**6, "apart_means": "", "notes": (),
    }  # fmt: skip
    given = {
        "heads": Heads(2, 4, 2, 8), "tokens": 10, "images": {}, "copied": False, "component_bytes": 10**5,
    } | changes  # fmt: skip
    return summarise({"token_embedding": Part({}, (), 0)} | parts, about=about, **given)


def test_what_two_functions_share_is_counted_once() -> None:
    shared, own = Held("w", 100, 200, "float16", "product"), Held("b", 10, 20, "float16", "other")
    table = Held("t", 64, 128, "float16", "table", rows=16)
    parts = {
        "token_embedding": Part({"gather": 1}, (table,), 0),
        "text_decoder": Part({"linear": 1}, (shared, shared), 100),
        "decode": Part({"linear": 1}, (shared, own), 100, states=(State("k", "float16", (1, "past", 8)),)),
    }
    found = whole(parts)
    assert (found.parameters, found.weight_bytes) == (174, 348)
    assert [part.parameters for part in found.components.values()] == [64, 100, 10]
    assert found.components["decode"].shared_parameters == 100
    # 2 layers: keys and values of 2 heads of 8 float16 numbers for each of 10 tokens, and one row written.
    row = 2 * 2 * 2 * 8 * 2
    assert found.per_token.bytes_moved == 220 + 128 // 16 + row * 11
    assert whole(parts, copied=True).per_token.bytes_moved == 228 + row * 20
    assert found.per_token.flops == 2 * 100 + 2 * (2 * 2 * 4 * 8 * 10)
    assert found.components["decode"].states[0].bytes == 10 * 8 * 2


def test_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q4_0 keeps a float16 scale for 32 numbers of 4 bits: 18 bytes."""
    writing: Any = pytest.importorskip("gguf")
    writer = writing.GGUFWriter(tmp_path / "t.gguf", "llama")
    q4, f32 = writing.GGMLQuantizationType.Q4_0, np.float32
    for name, rows in (("token_embd.weight", 16), ("blk.0.ffn_up.weight", 8), ("blk.0.attn_q.weight", 4)):
        blocks = writing.quants.quantize(np.ones((rows, 64), f32), q4)
        writer.add_tensor(name, blocks, raw_dtype=q4)
    writer.add_context_length(100)
    writer.add_tensor("blk.0.ffn_down.weight", np.ones((4, 64), f32))
    writer.add_tensor("output_norm.weight", np.ones(64, f32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    spec = (TensorSpec("x", "float32", (1,)),)
    manifest = SimpleNamespace(
        components={name: Component("t.gguf", spec, spec) for name in ("token_embedding", "text_decoder")},
        cache=SimpleNamespace(layers=1, kv_heads=1, head_dim=8),
        details={},
        buckets={},
    )
    opened: Any = SimpleNamespace(manifest=manifest, path=lambda name: tmp_path / name)
    monkeypatch.setattr(gguf, "check_files", lambda _: None)  # it is half a bundle
    parts = gguf.read(opened)
    (table,) = parts["token_embedding"].weights
    assert (table.numbers, table.size_bytes, table.rows, 8 * table.size_bytes / table.numbers) == (1024, 576, 16, 4.5)
    decoder = parts["text_decoder"]
    assert decoder.products == (16 + 8 + 4 + 4) * 64  # no head of its own: the embedding is that too
    assert decoder.apart == {"ffn_down in F32": 1}
    assert decoder.operations == {"token_embd": 1, "ffn_up": 1, "attn_q": 1, "ffn_down": 1, "output_norm": 1}
    assert [state.shape for state in decoder.states] == [(100, 1, 8)] * 2
    (tmp_path / "t.gguf").write_bytes(b"GGUF")
    with pytest.raises(BundleError, match="damaged"):
        gguf.read(opened)


def test_what_leaves_the_neural_engine() -> None:
    kinds = {
        ("linear", "fp16"): 4, ("gather", "fp16"): 2, ("gather", "int32"): 1, ("scatter_nd", "fp16"): 1,
        ("softmax", "fp32"): 3, ("lstm", "fp16"): 1,
    }  # fmt: skip
    assert coreml.leaving(kinds) == {"gather": 3, "scatter_nd": 1, "softmax in float32": 3, "lstm": 1}


def test_attention_as_one_operation() -> None:
    from edgekit.formats.checkpoint.inspect import fused_attention

    # 2 heads, 5 queries on 7 keys of 8 numbers, values of 4.
    assert fused_attention((1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 4)) == 2 * (5 * 7 * 8 + 5 * 7 * 4)


def test_core_ai_types() -> None:
    assert coreai.kind_and_shape("tensor<1x?x96xf16>") == ("float16", (1, 1, 96))
    assert coreai.kind_and_shape("tensor<96x3xsi4>") == ("int4", (96, 3))
    assert coreai.kind_and_shape("tensor<f32>") == ("float32", ())
    for bits in (4, 6, 8):  # indices of palettes
        assert (
            coreai.kind_and_shape(f"tensor<7xui{bits}>") == (f"uint{bits}", (7,))
            and coreai.WIDTHS[f"uint{bits}"] == bits
        )
    with pytest.raises(BundleError, match="not known"):
        coreai.kind_and_shape("!coreai.token")


def test_core_ai_is_read_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged program ends the process that reads it; here that is a line of text."""
    monkeypatch.setattr(coreai, "check_asset", lambda folder: None)  # it would say so first
    with pytest.raises(BundleError, match="Core AI cannot read"):
        coreai._listing(tmp_path / "missing.mlirb")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(BundleError, match="Core AI cannot read"):
        coreai._listing(tmp_path / "missing.mlirb")


def run(*words: str) -> Any:
    return CliRunner().invoke(build(), ["inspect", *words])


def test_the_command(bundle: Path, of_bundle: Inspection) -> None:
    shown = run(str(bundle))
    assert shown.exit_code == 0, shown.output
    assert f"{of_bundle.parameters:,}" in shown.stdout and "text_decoder operations: " in shown.stdout
    assert "a token with 48 in the cache" in shown.stdout and "6 more kinds" not in run(
        str(bundle), "--operations"
    ).stdout.partition("size: ")[2].replace(" 6 more", "")
    found = json.loads(run(str(bundle), "--json", "--tokens", "7").stdout)
    assert found == json.loads(json.dumps(schema.to_json(inspect(bundle, tokens=7))))
    assert found["components"]["vision_encoder"]["operations"]["Conv"] == 1
    assert run("--help").stdout.count("Example:") == 2
    assert run(str(bundle), "--tokens", "0").exit_code == 2


def bad(kind: str, bundle: Path, folder: Path) -> Path:
    if kind == "no such folder":
        return folder / "nothing" / "here"
    if kind == "a foreign folder":
        (folder / "b").mkdir()
        (folder / "b" / "notes.txt").write_text("x")
        return folder / "b"
    shutil.copytree(bundle, folder / "b")
    graph = folder / "b" / "onnx" / "decoder_model_merged.onnx"
    if kind == "a file":
        return graph
    if kind == "cut short":
        graph.write_bytes(graph.read_bytes()[:1000])
    if kind == "changed":
        graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    if kind == "garbage under its right hash":
        graph.write_bytes(b"\xff" * 100)
        reseal(folder / "b")
    if kind == "no decoder":
        reseal(folder / "b", lambda manifest: manifest["components"].pop("text_decoder"))
    if kind == "an unknown target":
        reseal(folder / "b", lambda manifest: manifest.update(target="abacus"))
    if kind == "no heads":
        (folder / "b" / "config.json").write_text("{}")
        reseal(folder / "b")
    if kind == "no JSON":
        (folder / "b" / MANIFEST).write_text("{")
    return folder / "b"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no such folder", "No model"),
        ("a foreign folder", "neither a bundle nor a checkpoint"),
        ("a file", "is a file"),
        ("cut short", "cut short"),
        ("changed", "not the file that was exported"),
        ("garbage under its right hash", "no ONNX graph"),
        ("an unknown target", "'abacus'"),
        ("no decoder", "no component 'text_decoder'"),
        ("no heads", "attention heads"),
        ("no JSON", "damaged"),
    ],
)
def test_bad_input(kind: str, said: str, bundle: Path, tmp_path: Path) -> None:
    shown = run(str(bad(kind, bundle, tmp_path)))
    assert shown.exit_code == 1, shown.output
    assert said in shown.stderr and "Traceback" not in shown.stderr


def test_a_graph_whose_shapes_do_not_fit(bundle: Path) -> None:
    model = onnx._open(bundle / "onnx" / "vision_encoder.onnx")
    matrix = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    matrix.dims[0] += 1
    with pytest.raises(BundleError, match="do not fit together"):
        onnx._shapes(model, Path("x.onnx"), 1)


def test_a_missing_package(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EdgekitError, match="not installed"):
        inspect(bundle)


def test_an_export_takes_the_place_of_a_bundle_only(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    from exporting import export_checkpoint

    from edgekit.export.bundling import _check_place

    (tmp_path / "mine").mkdir()
    _check_place(tmp_path / "mine")  # empty
    _check_place(tmp_path / "new")
    _check_place(bundle)
    (tmp_path / "mine" / "thesis.txt").write_text("four years")
    with pytest.raises(StorageError, match="is no bundle"):
        export_checkpoint(checkpoint, "onnx", "fp32", tmp_path / "mine", replace=True)
    shutil.copytree(bundle, tmp_path / "outer")
    shutil.copytree(bundle, tmp_path / "outer" / "inner")
    with pytest.raises(StorageError, match="holds the bundle 'inner'"):
        export_checkpoint(checkpoint, "onnx", "fp32", tmp_path / "outer", replace=True)
    assert (tmp_path / "mine" / "thesis.txt").exists() and (tmp_path / "outer" / "inner" / MANIFEST).exists()


def test_every_target_has_a_reader() -> None:
    from edgekit.export import TARGETS
    from edgekit.formats import READERS

    assert READERS.names() == TARGETS.names()
    for name in TARGETS.names():
        reader = READERS.load(name)
        assert reader.apart and isinstance(reader.notes, tuple) and callable(reader.read)


def test_sizes_of_types() -> None:
    from edgekit.formats.counting import size_of

    assert size_of("int4", (3, 3)) == math.ceil(9 / 2)
    assert size_of("float16", (2, "past", 4), 5) == 2 * 5 * 4 * 2


def test_a_decoder_with_a_cache_that_goes_in_and_out(bundle: Path) -> None:
    from edgekit.formats.counting import copies_cache

    manifest = Bundle.load(bundle).manifest
    assert manifest.cache.in_place and not copies_cache(manifest)
    assert copies_cache(replace(manifest, cache=replace(manifest.cache, in_place=False)))


@pytest.mark.parametrize(
    "entries", [{"edgekit.context": "-1"}, {"edgekit.prompt_lengths": "16,-4"}, {"edgekit.context": "x"}]
)
def test_a_package_whose_metadata_make_no_sense(entries: dict[str, str]) -> None:
    from edgekit.formats.coreml.programs import Programs

    decoder = {"text_decoder": Component("text_decoder.mlpackage/Manifest.json", (), ())}
    metadata = {"edgekit.context": "8", "edgekit.prompt_lengths": ""} | entries
    with pytest.raises(BundleError, match="do not say how its decoder is called"):
        Programs(decoder, lambda package, function: SimpleNamespace(make_state=dict), metadata)
