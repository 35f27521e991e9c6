"""Precisions part by part, static int8, weights beside the graph, and the decoder's attention."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint
from onnx_graphs import Decoder
from tracing import traced_once

from edgekit import api
from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import load_model
from edgekit.errors import BundleError, EdgekitError, RecipeError
from edgekit.export import onnx_precision
from edgekit.export.bundling import check_request, drawn_samples, parity_inputs
from edgekit.export.genai import check_genai, genai_config
from edgekit.export.onnx_attention import drop_round_trips, drop_statistics, pack_rotary, rotary_tables
from edgekit.export.parity import TorchModules, empty_cache, encode_images, follow
from edgekit.families import Split, idefics3
from edgekit.families.decoding import layer_features, positions
from edgekit.families.merging import merge_images
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor
from edgekit.precision import by_part, canonical, folder_name, split_list
from edgekit.recipe.reading import demo_recipe_path, load_recipe
from edgekit.report.tolerances import tolerances_of
from edgekit.runtimes import _onnx_cache
from edgekit.runtimes.onnxruntime import open_session

MIXED = "vision=fp16,embedding=int8,text=int8"


@pytest.fixture
def one_trace(tiny_checkpoint: Path) -> Iterator[None]:
    with traced_once(tiny_checkpoint):
        yield


@pytest.fixture(scope="module")
def split(tiny_checkpoint: Path) -> Split:
    return idefics3.split(load_model(tiny_checkpoint))


def export(checkpoint: Path, precision: str, out: Path, **more: Any) -> Bundle:
    """An export with a parity run of four prompts."""
    return export_checkpoint(checkpoint, "onnx", precision, out, samples=drawn_samples(4), **more)


def operators(path: Path) -> Counter[str]:
    import onnx as proto

    return Counter(node.op_type for node in proto.load(path, load_external_data=False).graph.node)


# -------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("fp32, int8", ["fp32", "int8"]),
        ("text=int4,vision=fp16", ["vision=fp16,text=int4"]),
        ("vision=int8,text=int8", ["int8"]),
        ("vision=fp16,embedding=fp16,text=fp16", ["fp16"]),
        ("vision=fp16,text=fp16", ["vision=fp16,text=fp16"]),
        ("vision=fp32,text=fp32", ["fp32"]),
    ],
)
def test_one_spelling_for_one_meaning(given: str, wanted: list[str]) -> None:
    assert split_list(given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("int8,vision=fp16", "mixes 'int8', a whole bundle"),
        ("vison=fp16,text=int4", "no part 'vison'.*\n.*Did you mean 'vision'"),
        ("vision=fp16,vision=fp32", "names vision twice"),
        ("vision=,text=int4", "'vision=' in precision"),
    ],
)
def test_nonsense_is_named(given: str, message: str) -> None:
    with pytest.raises(EdgekitError, match=message):
        split_list(given)


def test_what_a_part_can_be() -> None:
    assert by_part("int4") == {"vision": "int4", "embedding": "fp32", "text": "int4"}
    assert folder_name(canonical("text=int4,vision=fp16")) == "vision-fp16_text-int4"
    check_request("onnx", MIXED)
    with pytest.raises(EdgekitError, match="no precision 'int3' for the vision part"):
        check_request("onnx", "vision=int3")
    with pytest.raises(EdgekitError, match=r"no precision 'int4' for the embedding part(.|\n)*fp32, fp16, int8"):
        check_request("onnx", "embedding=int4")


def test_bars_of_a_mixture_are_the_loosest() -> None:
    assert tolerances_of("vision=fp16,text=int4") == {"top1_agreement": 0.95}
    assert tolerances_of("vision=fp16") == {"top1_agreement": 0.99}
    assert tolerances_of("int8-static") == {"top1_agreement": 0.99}
    with pytest.raises(EdgekitError, match="No tolerances are declared for precision 'int3'"):
        tolerances_of("vision=int3")


def test_a_recipe_names_mixtures() -> None:
    recipe = load_recipe(demo_recipe_path(), {"exports": "[{target: onnx, precision: 'vision=fp16,text=int4'}]"})
    assert recipe.exports[0].precision == "vision=fp16,text=int4" and recipe.exports[0].calibrate == 64
    with pytest.raises(RecipeError, match=r"exports\[0\]\.precision: A bundle has no part 'words'"):
        load_recipe(demo_recipe_path(), {"exports": "[{target: onnx, precision: 'words=fp16'}]"})
    with pytest.raises(RecipeError, match=r"exports\[0\]\.calibrate: 0 is not at least 1"):
        load_recipe(demo_recipe_path(), {"exports": "[{target: onnx, calibrate: 0}]"})


# ------------------------------------------------------------------------------------------------------------ bundles


def test_each_part_has_its_own(one_trace: None, tiny_checkpoint: Path, tmp_path: Path, split: Split) -> None:
    bundle = export(tiny_checkpoint, MIXED, tmp_path / "b", with_genai=True)
    manifest = bundle.manifest
    assert manifest.precision.common == MIXED
    assert manifest.precision.native.startswith("vision: float16 weights and maths")
    assert {name: (part.file, part.precision) for name, part in manifest.components.items()} == {
        "vision_encoder": ("onnx/vision_encoder_fp16.onnx", "fp16"),
        "token_embedding": ("onnx/embed_tokens_int8.onnx", "int8"),
        "text_decoder": ("onnx/decoder_model_merged_int8.onnx", "int8"),
    }
    assert manifest.parity is not None and manifest.parity["logits_max_abs"] < 5e-2
    assert set(manifest.parity["checks"]) == {"top1_agreement", "pixel_max_abs", "prompt_ids_equal"}

    weights = TorchModules(split).embed(np.arange(split.vocab_size)[None])[0]
    step = np.maximum(np.abs(weights).max(axis=1, keepdims=True), 1e-30) / np.float32(127)  # a padding row is zero
    session = open_session(bundle.folder, 1)
    got = session.embed(np.arange(split.vocab_size)[None])[0]
    assert np.abs(got - weights).max() > 0 and (np.abs(got - weights) <= step / 2 + 1e-7).all()
    np.testing.assert_allclose(got, np.rint(weights / step) * step, rtol=1e-6)

    written = json.loads((bundle.folder / "genai_config.json").read_text())
    assert written["model"]["decoder"]["filename"] == "onnx/decoder_model_merged_int8.onnx"
    assert written["search"]["past_present_share_buffer"] and manifest.cache.in_place
    shared = {"onnx/embed_tokens_int8.onnx_data", "onnx/vision_encoder_fp16.onnx_data"}
    assert shared < set(manifest.files) and {"onnx/genai_embedding.onnx", "onnx/genai_vision.onnx"} < set(
        manifest.files
    )
    counted = json.loads((bundle.folder / "config.json").read_text())["transformers.js_config"]
    assert counted["use_external_data_format"]["embed_tokens_int8.onnx"] == 1
    genai_answers(bundle.folder)


def genai_answers(folder: Path) -> None:
    """The real package, where it is installed, on an image and on words alone."""
    og = pytest.importorskip("onnxruntime_genai")
    from edgekit.demo.shapes import draw
    from edgekit.runtimes.generate import answer

    session, processor, model = open_session(folder, 1), Processor.load(folder), og.Model(str(folder))
    for images in ([draw(1)[0]], []):
        messages = question("what is there?", len(images))
        wanted = answer(session, messages, images, max_new_tokens=6).token_ids
        inputs = processor.encode(messages, images)
        settings = og.GeneratorParams(model)
        settings.set_search_options(max_length=inputs.ids.shape[1] + 6)
        generator = og.Generator(model, settings)
        if inputs.pixels is None:
            generator.append_tokens(inputs.ids[0].astype(np.int32))
        else:
            tensors = og.NamedTensors()
            tensors["input_ids"] = inputs.ids.astype(np.int32)
            tensors["pixel_values"] = inputs.pixels.values
            count = int((inputs.ids == session.manifest.text.image_token_id).sum())
            tensors["num_image_tokens"] = np.array([count], dtype=np.int64)
            generator.set_inputs(tensors)
        said = []
        while not generator.is_done() and len(said) < len(wanted):
            generator.generate_next_token()
            said.append(int(generator.get_next_tokens()[0]))
        assert said == wanted


def test_genai_says_what_it_cannot_run(split: Split) -> None:
    for changed, why in (((positions(3),), "M-RoPE"), ((positions(), *layer_features(2, 8)), "deepstack")):
        with pytest.raises(EdgekitError, match=why):
            check_genai(dataclasses.replace(split, extra_inputs=changed))


def test_static_int8(one_trace: None, tiny_checkpoint: Path, tmp_path: Path, split: Split) -> None:
    from edgekit.data import samples

    with pytest.raises(EdgekitError, match="int8-static needs questions to calibrate with"):
        export(tiny_checkpoint, "int8-static", tmp_path / "b")
    with pytest.raises(EdgekitError, match="a checkpoint alone names none"):
        api.export(tiny_checkpoint, targets=["onnx"], precisions=["int8-static"], out=tmp_path / "b")
    shown = list(samples("easy-vqa:train", limit=8))
    bundle = export(tiny_checkpoint, "int8-static", tmp_path / "b", calibration=shown)
    parity = bundle.manifest.parity
    assert parity is not None and 0 < parity["logits_max_abs"] < 0.2
    for name in ("vision_encoder", "text_decoder"):
        found = operators(bundle.path(bundle.manifest.components[name].file))
        assert found["QLinearMatMul"] > 0 and found["MatMulInteger"] == 0


def test_calibration_sees_what_decoding_sees(tiny_checkpoint: Path, split: Split) -> None:
    """Prompt and answer in one run give the logits of the prompt and then token after token."""
    (prompt,) = parity_inputs(Processor.load(tiny_checkpoint), (), stock=1)
    feeds = onnx_precision.calibration_feeds(split, [prompt])
    assert len(feeds["vision_encoder"]) == 1 and feeds["vision_encoder"][0]["pixel_values"].ndim == 5
    (feed,) = feeds["text_decoder"]
    past = [feed[name] for name in feed if name.startswith("past_key_values.")]
    logits, _ = TorchModules(split).decode(feed["inputs_embeds"], feed["attention_mask"], feed, past)
    wanted, tokens = follow(TorchModules(split), split, prompt, None, onnx_precision.ANSWER)
    start = prompt.ids.shape[1] - 1
    assert len(tokens) > 1 and feed["inputs_embeds"].shape[1] == prompt.ids.shape[1] + len(tokens)
    np.testing.assert_allclose(logits[0, start : start + len(tokens)], np.stack(wanted), atol=1e-4)


def test_calibration_with_an_image_token_in_the_answer(
    tiny_checkpoint: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer's own image token is embedded as a word; the image's features stay in the prompt."""
    (prompt,) = parity_inputs(Processor.load(tiny_checkpoint), (), stock=1)
    modules = TorchModules(split)
    monkeypatch.setattr(onnx_precision, "follow", lambda *_: ([], [5, split.image_token_id, 6]))
    (feed,) = onnx_precision.calibration_feeds(split, [prompt])["text_decoder"]
    embeds, length = feed["inputs_embeds"], prompt.ids.shape[1]
    assert embeds.shape[1] == length + 3
    np.testing.assert_array_equal(embeds[:, length:], modules.embed(np.array([[5, split.image_token_id, 6]])))
    features = encode_images(modules, split, prompt.pixels)
    np.testing.assert_array_equal(
        embeds[:, :length], merge_images(modules.embed(prompt.ids), prompt.ids, features.embeds, split.image_token_id)
    )


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow), "int4"])
def test_weights_beside_the_graph(
    precision: str, one_trace: None, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export(tiny_checkpoint, precision, tmp_path / "whole")
    assert not [name for name in whole.manifest.files if "_data" in name]
    bound = 90_000  # above each tensor, rotary tables of 65 kB, and below each decoder
    monkeypatch.setattr(onnx_precision, "ONE_FILE", bound)
    bundle = export(tiny_checkpoint, precision, tmp_path / "b")
    file = bundle.manifest.components["text_decoder"].file
    shards = {name: entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith(f"{file}_data")}
    assert f"{file}_data" in shards and (precision != "fp32" or f"{file}_data_1" in shards)
    assert all(size < bound for size in shards.values())
    counted = json.loads((bundle.folder / "config.json").read_text())["transformers.js_config"]
    assert counted["use_external_data_format"].get(Path(file).name, 0) == len(shards)
    assert bundle.manifest.parity == whole.manifest.parity  # the same numbers, from other files
    data = bundle.path(f"{file}_data")
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    with pytest.raises(BundleError, match="SHA-256 differs"):
        Bundle.load(bundle.folder)


def test_weights_are_never_read_outside_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    """A graph that points above its own folder is refused by ONNX Runtime, and the error is edgekit's."""
    import shutil

    import onnx as proto
    from onnx.external_data_helper import set_external_data

    from edgekit.bundle import seal
    from edgekit.schema import to_json

    folder = tmp_path / "b"
    shutil.copytree(tiny_bundle, folder)
    manifest = Bundle.load(folder).manifest
    path = folder / manifest.components["token_embedding"].file
    model = proto.load(path)
    table = model.graph.initializer[0]
    (tmp_path / "secret.bin").write_bytes(table.raw_data)
    set_external_data(table, "../../secret.bin")
    table.ClearField("raw_data")
    table.data_location = proto.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    fields = {item.name: getattr(manifest, item.name) for item in dataclasses.fields(manifest)}
    del fields["schema_version"], fields["files"], fields["seal"]
    (folder / "manifest.json").unlink()
    seal(folder, **fields)
    assert to_json(Bundle.load(folder).manifest)["name"] == manifest.name
    with pytest.raises(BundleError, match="ONNX Runtime does not load"):
        open_session(folder, 1)


# ---------------------------------------------------------------------------------------------------------- attention


def test_one_attention_node_a_layer(tiny_bundle: Path, split: Split) -> None:
    found = operators(tiny_bundle / "onnx/decoder_model_merged.onnx")
    assert found["GroupQueryAttention"] == split.layers
    assert not {"Softmax", "RotaryEmbedding", "Expand", "Reshape"} & set(found)


def test_positions_are_counted_from_the_mask(tiny_bundle: Path, split: Split) -> None:
    """Each row of a batch begins at zero and ends where its mask does: padding at the right moves nothing."""
    rng = np.random.default_rng(0)
    exported = Decoder(tiny_bundle)
    assert "position_ids" not in exported.inputs
    embeds, mask = rng.standard_normal((2, 6, split.width)).astype(np.float32), np.ones((2, 6), dtype=np.int64)
    mask[1, 4:] = 0
    positions = np.tile(np.arange(6), (2, 1))
    got, _ = exported.decode(embeds, mask, positions, [np.repeat(part, 2, 0) for part in empty_cache(split)])
    for row, length in ((0, 6), (1, 4)):
        alone = embeds[row : row + 1, :length]
        wanted, _ = TorchModules(split).decode(
            alone, mask[:1, :length], {"position_ids": positions[:1, :length]}, empty_cache(split)
        )
        np.testing.assert_allclose(got[row : row + 1, :length], wanted, atol=1e-5)


def test_passes_leave_what_they_do_not_know() -> None:
    import onnx_ir

    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[a, b, 4] x, int64[3] back, int64[2] flat, int64[a, b] position_ids) => (float[a, b, 4] y, float[c, 4] z) {
        two = Reshape (x, flat)
        three = Reshape (two, back)
        y = Neg (three)
        z = Neg (two)
    }"""
    model = onnx_ir.from_onnx_text(text)
    by_name = {value.name: value for node in model.graph for value in node.outputs}
    by_name["two"].shape, by_name["three"].shape = onnx_ir.Shape(["c", 4]), onnx_ir.Shape(["a", "b", 4])
    assert drop_round_trips(model) == 1
    assert [node.op_type for node in model.graph].count("Reshape") == 1
    assert next(node for node in model.graph if node.outputs[0].name == "y").inputs[0].name == "x"
    assert pack_rotary(model, np.zeros((8, 2), np.float32), np.zeros((8, 2), np.float32)) == 0


def test_rotary_tables(split: Split) -> None:
    tables = rotary_tables(split)
    assert tables is not None
    cos, sin = tables
    assert cos.shape[1] == split.head_dim // 2
    np.testing.assert_allclose(cos**2 + sin**2, 1.0, atol=1e-5)
    np.testing.assert_allclose(sin[:, 0], np.sin(np.arange(len(sin))), atol=1e-4)  # the fastest turns by 1 a position
    assert rotary_tables(dataclasses.replace(split, extra_inputs=(positions(3),))) is None


def test_the_cache_in_place_is_the_cache_handed_on(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are the same while buffers grow, after tokens are forgotten, and after all are."""
    import onnxruntime

    monkeypatch.setattr(_onnx_cache, "FIRST", 4)
    manifest = Bundle.load(tiny_bundle).manifest
    assert manifest.cache.in_place
    handed = dataclasses.replace(manifest, cache=dataclasses.replace(manifest.cache, in_place=False))
    session = onnxruntime.InferenceSession(tiny_bundle / manifest.components["text_decoder"].file)
    caches = [_onnx_cache.KeyValueCache(session, given) for given in (manifest, handed)]
    width = next(spec.shape[-1] for spec in manifest.components["text_decoder"].inputs if spec.name == "inputs_embeds")
    rng = np.random.default_rng(0)

    def both(tokens: int) -> None:
        start = caches[0].length
        feeds: dict[str, Any] = {
            "inputs_embeds": rng.standard_normal((1, tokens, width)).astype(np.float32),
            "position_ids": np.arange(start, start + tokens)[None],
        }
        a, b = (cache.run(feeds) for cache in caches)
        np.testing.assert_allclose(a, b, atol=1e-6)

    for tokens in (3, 1, 1, 7, 1):
        both(tokens)
    for cache in caches:
        cache.cut(5)
    both(2)
    for cache in caches:
        cache.clear()
    both(6)
    assert caches[0].length == caches[1].length == 6


def test_genai_config_follows_the_bundle(tiny_bundle: Path, split: Split) -> None:
    config = json.loads((tiny_bundle / "config.json").read_text())
    components = Bundle.load(tiny_bundle).manifest.components
    made = genai_config(components, split, config, {"bos_token_id": 7}, in_place=False)
    assert made["model"]["bos_token_id"] == 7 and made["model"]["eos_token_id"] == split.eos_token_ids
    assert made["model"]["pad_token_id"] >= 0 and not made["search"]["past_present_share_buffer"]
    names = {spec.name for spec in components["text_decoder"].inputs}
    decoder = made["model"]["decoder"]
    last = decoder["num_hidden_layers"] - 1
    assert decoder["inputs"]["past_key_names"] % last in names and decoder["inputs"]["past_value_names"] % 0 in names


def test_statistics_of_norms_that_nothing_reads_are_not_written() -> None:
    """Mean and deviation go; a sum that the next layer reads stays, and so does the answer."""
    import onnx_ir
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    def norm(names: list[str], into: list[str]) -> Any:
        return helper.make_node("SkipSimplifiedLayerNormalization", names, into, domain="com.microsoft", epsilon=1e-6)

    shape = (1, 3, 4)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "skip")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4,), [1.0, 2.0, 3.0, 4.0])
    nodes = [norm(["x", "skip", "w"], ["a", "m", "d", "sum"]), norm(["a", "sum", "w"], ["out", "m2", "d2", "sum2"])]
    graph = helper.make_graph(
        nodes, "g", values, [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)], [weight]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    plain = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model = onnx_ir.from_proto(plain)
    assert drop_statistics(model) == 5
    assert [[value.name for value in node.outputs] for node in model.graph] == [
        ["a", "", "", "sum"],
        ["out", "", "", ""],
    ]
    feeds = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32) for name in ("x", "skip")}
    made = onnx_ir.to_proto(model)
    before, after = (InferenceSession(proto.SerializeToString()).run(None, feeds)[0] for proto in (plain, made))
    np.testing.assert_array_equal(before, after)
