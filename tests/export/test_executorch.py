"""ExecuTorch's program and runtime against PyTorch, and against ExecuTorch's own runner."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.bundle import MANIFEST, Bundle
from edgekit.chat import question
from edgekit.checkpoint import load_model, resolve_checkpoint
from edgekit.data import samples
from edgekit.errors import BundleError, DataError, MissingExtraError
from edgekit.export.bundling import export_checkpoint
from edgekit.families import fit_image
from edgekit.files import sha256_file
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.executorch import in_turn
from edgekit.runtimes.generate import answer, follow
from edgekit.stats import largest_gap

needs_executorch = pytest.mark.skipif(
    find_spec("executorch") is None or find_spec("torchao") is None,
    reason="executorch is not installed: pip install 'edgekit[executorch]'",
)
ASK = """
import json, sys
from pathlib import Path
from PIL import Image
from edgekit.chat import question
from edgekit.runtimes.executorch import answer_by_runner
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
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = [text.replace("<end_of_utterance>", "").strip() for text in json.loads((tmp_path / "said.json").read_text())]
    assert said == wanted and len(set(said)) > 2


@needs_executorch
def test_what_the_runners_ask_for(bundle: Bundle) -> None:
    from edgekit.pte import Program

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
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"]["model.pte"] = {"bytes": 5000, "sha256": sha256_file(program)}
    (copy / MANIFEST).write_text(json.dumps(manifest))
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
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_precisions(precision: str, tmp_path: Path) -> None:
    questions = list(samples("easy-vqa:test", limit=64))
    student = resolve_checkpoint("demo:student")
    parity = export_checkpoint(student, "executorch", precision, tmp_path / "b", samples=questions).manifest.parity
    assert parity is not None and parity["passed"]
    assert 1e-3 < parity["logits_max_abs"] < {"int8": 0.5, "int4": 2.0}[precision]


@pytest.mark.slow
@needs_executorch
@pytest.mark.parametrize("family", ["smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl"])
def test_every_family(family: str, tiny_of: Callable[..., Path], tmp_path: Path) -> None:
    block = {"qwen2_5_vl": 28, "qwen3_vl": 32}.get(family)
    sizes = None if block is None else [(3 * block, 2 * block), (block, 4 * block)]
    made = export_checkpoint(tiny_of(family), "executorch", "fp32", tmp_path / "b", sizes=sizes)
    theirs = RUNTIMES.load("pytorch").open_session(tiny_of(family), 1)
    ours = RUNTIMES.load("executorch").open_session(made.folder, 1)
    rng = np.random.default_rng(0)
    for shapes in ([(100, 60)], [(37, 300), (80, 80)], []):
        messages = question("what is there?", len(shapes))
        images = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in shapes]
        shown = [fit_image(image, made.manifest.preprocessing) for image in images]
        wanted = answer(theirs, messages, shown, max_new_tokens=8).token_ids
        assert answer(ours, messages, images, max_new_tokens=8).token_ids == wanted
        pairs = zip(follow(theirs, messages, shown, wanted), follow(ours, messages, images, wanted), strict=True)
        assert max(largest_gap(a, b) for a, b in pairs) < 1e-3


def test_a_prompt_in_turn() -> None:
    tiles = np.arange(3)[:, None, None, None] * np.ones((3, 3, 2, 2), dtype=np.float32)
    parts = list(in_turn([5, 9, 9, 6, 9, 9, 9, 9, 7], tiles, 9, 2))
    kinds = [value if kind == "tokens" else float(value[0, 0, 0]) for kind, value in parts]
    assert kinds == [[5], 0.0, [6], 1.0, 2.0, [7]]
    assert list(in_turn([1, 2], None, 9, 2)) == [("tokens", [1, 2])]


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    for name in [name for name in sys.modules if name.startswith("executorch.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgekit\[executorch\]'"):
        export_checkpoint(tiny_checkpoint, "executorch", "fp32", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
