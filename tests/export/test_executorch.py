"""ExecuTorch's program and runtime against PyTorch, and against ExecuTorch's own runner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import executorch_runner
import numpy as np
import pytest
from executorch_runner import answer_by_runner, in_turn
from exporting import export_checkpoint
from manifests import reseal
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.data import samples
from edgekit.errors import BundleError, DataError, EdgekitError, MissingExtraError
from edgekit.export import executorch
from edgekit.export._executorch_precision import int8_rows, quantise
from edgekit.export.bundling import drawn_samples
from edgekit.inputs.chat import question
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.generate import answer, follow
from edgekit.runtimes.verify import verify_bundle

needs_executorch = pytest.mark.skipif(
    find_spec("executorch") is None or find_spec("torchao") is None,
    reason="executorch is not installed: pip install 'edgekit[executorch]'",
)
ASK = """
import json, sys
from pathlib import Path
from PIL import Image
from edgekit.inputs.chat import question
from executorch_runner import answer_by_runner
asked = json.loads(Path(sys.argv[2]).read_text())
said = [answer_by_runner(Path(sys.argv[1]), question(text, 1), [Image.open(image)], 8) for text, image in asked]
Path(sys.argv[3]).write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo's student in fp32: a trained model, so that equal answers prove something."""
    student = resolve_checkpoint("demo:student")
    questions = list(samples("easy-vqa:test", limit=16))
    return export_checkpoint(student, "executorch", "fp32", tmp_path_factory.mktemp("et") / "b", samples=questions)


@needs_executorch
def test_contract(bundle: Bundle) -> None:
    parity = bundle.manifest.parity
    assert parity is not None and parity["passed"]
    assert parity["greedy_identical"] == 1.0 and parity["samples"] == 16
    assert parity["logits_max_abs"] <= 2e-5 and parity["vision_max_abs"] <= 2e-5  # measured: 3e-6 and 4e-6
    assert set(bundle.manifest.components) == {"vision_encoder", "token_embedding", "text_decoder"}
    assert {part.file for part in bundle.manifest.components.values()} == {"model.pte"}
    assert set(bundle.manifest.tools) >= {"executorch", "torchao"}


@needs_executorch
def test_answers_as_transformers_generate(bundle: Bundle) -> None:
    import torch

    session = RUNTIMES.load("executorch").open_session(bundle.folder, 1)
    model: Any = load_model(resolve_checkpoint("demo:student"))
    said = set()
    for item in samples("easy-vqa:test", limit=12):
        images = [image.open() for image in item.images]
        prepared = session.prepare(item.messages, images)
        ids, pixels = torch.from_numpy(prepared.ids), torch.from_numpy(prepared.pixels)
        out = model.generate(input_ids=ids, pixel_values=pixels[None], max_new_tokens=8, do_sample=False)
        ours = answer(session, item.messages, images, max_new_tokens=8)
        assert ours.token_ids == out[0, ids.shape[1] :].tolist()
        said.add(ours.text)
    assert len(said) > 3  # answers that differ, or the comparison would prove little


@needs_executorch
def test_the_runners_own_loop_answers_the_same(bundle: Bundle, tmp_path: Path) -> None:
    """Tokeniser, merge, cache and loop are all ExecuTorch's own C++ code, as in an app."""
    session = RUNTIMES.load("executorch").open_session(bundle.folder, 1)
    asked, wanted = [], []
    for number, item in enumerate(samples("easy-vqa:test", limit=6)):
        image = item.images[0].open()
        image.save(tmp_path / f"{number}.png")
        asked.append([item.text, str(tmp_path / f"{number}.png")])
        wanted.append(answer(session, question(item.text, 1), [image], max_new_tokens=8).text)
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-c", ASK, str(bundle.folder), str(tmp_path / "asked.json"), str(tmp_path / "said.json")]
    here = os.pathsep.join([str(Path(executorch_runner.__file__).parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": here})
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = [text.replace("<end_of_utterance>", "").strip() for text in json.loads((tmp_path / "said.json").read_text())]
    assert said == wanted and len(set(said)) > 2


@needs_executorch
def test_the_runner_is_given_no_tiles_that_it_would_have_to_pack(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        executorch_runner, "FAMILIES", SimpleNamespace(load=lambda name: SimpleNamespace(pack=lambda: None))
    )
    with pytest.raises(BundleError, match="its features on as they are; idefics3 needs more"):
        answer_by_runner(bundle.folder, question("what?", 1), [Image.new("RGB", (8, 8))], 2)


def test_what_the_runners_ask_for(bundle: Bundle) -> None:
    from edgekit.formats.executorch.program import Program

    program = Program(bundle.path("model.pte"), 1)
    manifest = bundle.manifest
    assert program.run("get_vocab_size") == [manifest.vocab_size]
    assert program.run("get_eos_ids") == list(manifest.text.eos_token_ids)
    assert program.run("get_max_seq_len") == program.run("get_max_context_len") == [2048]
    assert program.run("use_kv_cache") == [True] and program.run("enable_dynamic_shape") == [True]
    assert program.run("get_bos_id") == [1]
    with pytest.raises(BundleError, match="does not load the method 'nothing'"):
        program.run("nothing")


@needs_executorch
def test_a_reset_forgets_and_the_cache_has_an_end(bundle: Bundle) -> None:
    session = RUNTIMES.load("executorch").open_session(bundle.folder, 1)
    first, second = list(samples("easy-vqa:test", limit=2))
    alone = next(follow(session, second.messages, [second.images[0].open()], [0]))
    answer(session, first.messages, [first.images[0].open()], max_new_tokens=8)
    again = next(follow(session, second.messages, [second.images[0].open()], [0]))
    assert np.array_equal(alone, again)
    with pytest.raises(DataError, match="more than 2048 tokens"):
        answer(session, question("word " * 3000, 0), [], max_new_tokens=1)


@needs_executorch
def test_a_damaged_program(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    program = copy / "model.pte"
    program.write_bytes(b"\0" * 5000)
    with pytest.raises(BundleError):
        RUNTIMES.load("executorch").open_session(copy, 1)
    reseal(copy)
    with pytest.raises(BundleError, match="ExecuTorch does not load"):
        RUNTIMES.load("executorch").open_session(copy, 1)


@needs_executorch
def test_nearly_everything_is_delegated(bundle: Bundle) -> None:
    """Three operators a layer stay outside XNNPACK: two writes to the cache and the attention over it."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    plans = deserialize_pte_binary(bundle.path("model.pte").read_bytes()).program.execution_plan
    outside: dict[str, Counter[str]] = {}
    for plan in plans:
        steps = [step.instr_args for chain in plan.chains for step in chain.instructions]
        outside[plan.name] = Counter(plan.operators[x.op_index].name for x in steps if hasattr(x, "op_index"))
    layers = bundle.manifest.cache.layers
    decoder = outside["text_decoder"]
    assert decoder["llama::update_cache"] == 2 * layers and decoder["llama::custom_sdpa"] == layers
    assert decoder.total() <= 3 * layers + 12
    assert outside["vision_encoder"].total() <= 1 and outside["token_embedding"].total() == 1


@pytest.mark.slow
@needs_executorch
@pytest.mark.parametrize("precision", ["int8", "int8-static", "int4"])
def test_precisions(precision: str, bundle: Bundle, tmp_path: Path) -> None:
    questions, student = list(samples("easy-vqa:test", limit=64)), resolve_checkpoint("demo:student")
    shown = drawn_samples(16)
    made = export_checkpoint(student, "executorch", precision, tmp_path / "b", samples=questions, calibration=shown)
    parity = made.manifest.parity
    assert parity is not None and parity["passed"]
    assert 1e-3 < parity["logits_max_abs"] < {"int8": 0.5, "int8-static": 2.0, "int4": 2.0}[precision]
    words = {name: part.precision for name, part in made.manifest.components.items()}
    vision, embedding, text = executorch.PRECISIONS[precision].parts
    assert words == {"vision_encoder": vision, "token_embedding": embedding, "text_decoder": text}
    assert made.path("model.pte").stat().st_size < 0.4 * bundle.path("model.pte").stat().st_size


@pytest.mark.slow
@needs_executorch
def test_the_shape_of_smolvlm_256m_with_fewer_layers(tmp_path: Path) -> None:
    """SmolVLM-256M's widths, tile, heads and vocabulary with 4 of its 30 and 2 of its 12 layers; random weights.

    The whole shape takes more than five processor minutes to export and verify.
    """
    checkpoint = smolvlm_256m(tmp_path / "model", layers=4, vision_layers=2)
    questions = drawn_samples(2)
    made = export_checkpoint(checkpoint, "executorch", "fp32", tmp_path / "b", samples=questions)
    assert made.manifest.parity is not None and made.manifest.parity["passed"], made.manifest.parity
    result = verify_bundle(made.folder, checkpoint, None, 2)
    assert result["passed"], result["checks"]
    assert made.size_bytes > 250e6  # nothing was left out: 28 M entries of embedding and of head each, in float32


def smolvlm_256m(folder: Path, *, layers: int, vision_layers: int) -> Path:
    """A checkpoint of that shape, with the demo's tokenizer in a table of SmolVLM's size."""
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    from edgekit.demo.architecture import END, IMAGE, build_tokenizer, write_processor

    tokenizer = build_tokenizer(["what is in the image? describe the picture."] * 20)
    ids = {"bos_token_id": tokenizer.token_to_id("<|im_start|>"), "eos_token_id": tokenizer.token_to_id(END)}
    text = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": layers}
    text |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49280, "max_position_embeddings": 8192}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": vision_layers}
    vision |= {"num_attention_heads": 12, "image_size": 512, "patch_size": 16}
    config = Idefics3Config(
        text_config={**text, **ids, "tie_word_embeddings": False},
        vision_config=vision,
        scale_factor=4,
        image_token_id=tokenizer.token_to_id(IMAGE),
        tie_word_embeddings=False,
        **ids,
    )
    torch.manual_seed(0)
    model: Any = Idefics3ForConditionalGeneration._from_config(config)
    model.generation_config.eos_token_id = ids["eos_token_id"]
    model.save_pretrained(folder)
    write_processor(tokenizer, folder)
    for name, changed in (
        ("preprocessor_config.json", {"size": {"longest_edge": 512}, "max_image_size": {"longest_edge": 512}}),
        ("processor_config.json", {"image_seq_len": 64}),
    ):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return folder


def test_embeddings_in_rows_of_int8() -> None:
    """A scale for each row, worked by hand: 254 / 127 = 2, 0.5 / 127; a row of zeros stays zero."""
    import torch

    held = torch.nn.Embedding(3, 3)
    held.weight.data = torch.tensor([[254.0, -4.0, 3.1], [0.5, 0.25, -0.5], [0.0, 0.0, 0.0]])
    split: Any = SimpleNamespace(token_embedding=held)
    rows: Any = int8_rows(split)
    assert rows.table.dtype == torch.int8
    assert rows.table.tolist() == [[127, -2, 2], [127, 64, -127], [0, 0, 0]]  # 3.1 / 2 and 63.5, to the even one
    found = rows(torch.tensor([[1, 0, 2]]))
    wanted = torch.tensor([[[0.5, 64 / 254, -0.5], [254.0, -4.0, 4.0], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert found.dtype == torch.float32


@needs_executorch
def test_static_quantisation_without_images(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="vision_encoder: int8-static needs images to calibrate with"):
        export_checkpoint(tiny_checkpoint, "executorch", "int8-static", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_in_turn() -> None:
    tiles = np.arange(3)[:, None, None, None] * np.ones((3, 3, 2, 2), dtype=np.float32)
    parts = list(in_turn([5, 9, 9, 6, 9, 9, 9, 9, 7], tiles, 9, 2))
    kinds = [value if kind == "tokens" else float(value[0, 0, 0]) for kind, value in parts]
    assert kinds == [[5], 0.0, [6], 1.0, 2.0, [7]]
    assert list(in_turn([1, 2], None, 9, 2)) == [("tokens", [1, 2])]


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgekit\[executorch\]'"):
        export_checkpoint(tiny_checkpoint, "executorch", "fp32", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_which_grid_a_linear_layer_gets(precision: str) -> None:
    """Four bits in groups of 32 where int4 is asked and 32 divides the width; else eight bits for each row."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 2, bias=False), nn.Linear(40, 2, bias=False))
    for part in module:
        part.weight.data *= torch.tensor([[1.0], [100.0]])  # one scale for both rows would leave nothing of the first
    plain = [part.weight.detach().clone() for part in module]
    quantise(module, precision)
    errors = [
        ((part.weight.dequantize() - weight).abs().amax(1) / weight.abs().amax(1)).tolist()  # type: ignore[union-attr, operator]
        for part, weight in zip(module, plain, strict=True)
    ]
    fine, coarse = 1 / 250, 1 / 14  # half a step of 255 and of 15, and a little for how the range is laid
    assert max(errors[1]) < fine
    assert (max(errors[0]) < fine) if precision == "int8" else (3 * fine < min(errors[0]) and max(errors[0]) < coarse)
    if precision == "int4":  # a group of small weights beside one of large ones keeps its own scale
        groups = nn.Sequential(nn.Linear(64, 1, bias=False))
        groups[0].weight.data = torch.cat([torch.linspace(-1, 1, 32), torch.linspace(-100, 100, 32)])[None]
        quantise(groups, precision)
        assert (groups[0].weight.dequantize()[0, :32] - torch.linspace(-1, 1, 32)).abs().max() < coarse
