"""GGUF files: names, shapes and refusals; and, where llama-cpp-python is installed, the same answers as PyTorch."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from exporting import export_checkpoint
from llama_rounding import rounded

from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.errors import BundleError, DataError, EdgekitError, StorageError
from edgekit.export import _gguf_own as own
from edgekit.export import gguf as target
from edgekit.export.bundling import drawn_samples, parity_inputs
from edgekit.export.parity import TorchModules, encode_images
from edgekit.export.parity import follow as along
from edgekit.families import FAMILIES, Pixels
from edgekit.formats.gguf.process import LlamaModel, LlamaProcess, repacking_works
from edgekit.formats.gguf.shared import NOT_FINITE, Shared
from edgekit.inputs.chat import question
from edgekit.inputs.images import denormalise
from edgekit.inputs.processor import Processor
from edgekit.runtimes import RUNTIMES, llamacpp
from edgekit.runtimes.generate import Chat, answer, follow
from edgekit.runtimes.session import Prepared
from edgekit.stats import largest_gap

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
with_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
Maker = Callable[..., Path]
FAMILY_NAMES = ["smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl"]


def tiny(tiny_of: Maker, family: str) -> Path:
    return tiny_of(family, **target.TARGET.tiny.get(family, {}))


@pytest.fixture(scope="module")
def bundle_of(tiny_of: Maker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    """`bundle_of(family, precision)`: a bundle of the family's tiny checkpoint, made once."""
    made: dict[tuple[str, str], Any] = {}

    def make(family: str, precision: str) -> Any:
        if (family, precision) not in made:
            made[family, precision] = export_checkpoint(
                tiny(tiny_of, family), "gguf", precision, tmp_path_factory.mktemp("gguf") / f"{family}-{precision}",
                samples=drawn_samples(3), calibration=drawn_samples(2),
            )  # fmt: skip
        return made[family, precision]

    return make


@with_llama
@pytest.mark.parametrize("family", ["smolvlm", *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILY_NAMES[1:])])
def test_float32_answers_as_pytorch(family: str, tiny_of: Maker, bundle_of: Callable[..., Any]) -> None:
    bundle = bundle_of(family, "fp32")
    assert bundle.manifest.parity["passed"], bundle.manifest.parity
    assert bundle.manifest.details["own_preprocessing"]["text_ids_equal"] == 1.0
    theirs = RUNTIMES.load("pytorch").open_session(tiny(tiny_of, family), 1)
    ours = RUNTIMES.load("llamacpp").open_session(bundle.folder, 1)
    try:
        from edgekit.families.sizes import fit_image

        sample = drawn_samples(8)[5]
        images = [fit_image(image.open(), bundle.manifest.preprocessing) for image in sample.images]
        wanted = answer(theirs, sample.messages, images, max_new_tokens=6).token_ids
        assert answer(ours, sample.messages, images, max_new_tokens=6).token_ids == wanted
        pairs = zip(
            follow(theirs, sample.messages, images, wanted), follow(ours, sample.messages, images, wanted), strict=True
        )
        assert max(largest_gap(a, b) for a, b in pairs) < 2e-2
        # A second turn goes on from the cache, and is what the whole conversation says from an empty one.
        chat = Chat(ours, max_new_tokens=4)
        chat.say("what is there?", images)
        second = chat.say("what color?")
        assert second.timings.cached_tokens > 0
        anew = answer(theirs, chat.messages[:-1], images, max_new_tokens=4)
        assert second.token_ids == anew.token_ids
    finally:
        ours.close()


@with_llama
@pytest.mark.parametrize("family", ["smolvlm", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)])
def test_steps_of_its_own_are_single_steps(family: str, bundle_of: Callable[..., Any]) -> None:
    """A greedy answer and given tokens, run in llama.cpp's process, beside one message for each token."""
    session = llamacpp.open_session(bundle_of(family, "fp32").folder, 1)
    session.eos_token_ids = frozenset()  # random weights may end at once
    sample = drawn_samples(1)[0]
    prepared = session.prepare(sample.messages, [image.open() for image in sample.images])
    features = session.encode_image(prepared)

    def begin() -> int:
        session.reset()
        return int(session.prefill(prepared, features).argmax())

    try:
        tokens, logits = [begin()], []
        for _ in range(6):
            logits.append(session.decode_step(tokens[-1]))
            tokens.append(int(logits[-1].argmax()))
        steps = list(session.greedy_steps(begin(), 6))
        assert [token for token, _ in steps] == tokens[1:] and all(0 < spent < 10_000 for _, spent in steps)
        begin()
        np.testing.assert_array_equal(session.decode_steps(tokens[:5]), logits[4])
        # Closed early, it has appended no more than was taken, however far llama.cpp has gone on meanwhile.
        coming = session.greedy_steps(begin(), 100)
        assert [next(coming)[0] for _ in range(2)] == tokens[1:3]
        time.sleep(0.2)
        coming.close()
        np.testing.assert_array_equal(session.decode_step(tokens[2]), logits[2])
        # An end token is the last; a full cache is an error where the first token has no room.
        session.eos_token_ids = frozenset({tokens[3]})
        said = [token for token, _ in session.greedy_steps(begin(), 100)]
        assert said == tokens[1 : 1 + tokens[1:].index(tokens[3]) + 1]
        session.eos_token_ids = frozenset()
        first, session._context = begin(), len(session._places) + 2
        coming = session.greedy_steps(first, 5)
        assert [next(coming)[0] for _ in range(2)] == tokens[1:3]
        with pytest.raises(DataError, match="take more than"):
            next(coming)
        # And the process may end in the middle.
        session._context += 1000
        coming = session.greedy_steps(begin(), 500)
        next(coming)
        os.kill(session._model.process.pid, 9)
        with pytest.raises(BundleError, match="was ended by SIGKILL"):
            list(coming)
    finally:
        session.close()


def test_what_is_shared(tmp_path: Path) -> None:
    """Tokens and times pass whole; what is no token is told apart; logits do not touch them."""
    ours, theirs = Shared(tmp_path / "s", 5, 3, make=True), Shared(tmp_path / "s", 5, 3, make=False)
    assert theirs.take(0) is None
    for number, (token, seconds) in enumerate(((0, 0.0), (151_935, 0.0123456), (NOT_FINITE, 9e9))):
        ours.put(number, token, seconds)
    ours.logits[:] = np.arange(5)
    assert theirs.take(0) == (0, 0.0) and theirs.take(1) == (151_935, 12.345)
    assert theirs.take(2) == (NOT_FINITE, (2**32 - 1) / 1000)
    assert theirs.logits.tolist() == [0, 1, 2, 3, 4] and not theirs.enough[0]
    theirs.enough[0] = 1
    assert ours.enough[0]
    ours.clear()
    assert theirs.take(1) is None and not theirs.enough[0]


@with_llama
@pytest.mark.parametrize("family", ["smolvlm", *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILY_NAMES[1:])])
def test_llama_cpp_leaves_prepared_images_as_they_are(family: str, bundle_of: Callable[..., Any]) -> None:
    bundle = bundle_of(family, "fp32")
    details, params = bundle.manifest.details, bundle.manifest.preprocessing
    limits = details["mmproj"]["image_tokens"]
    model = LlamaModel(
        *(bundle.folder / details[part]["file"] for part in ("text", "mmproj")), threads=1, context=256, watch=True,
        image_tokens=None if limits is None else tuple(limits),
    )  # fmt: skip
    processor = replace(Processor.load(bundle.folder), params=params)
    try:
        for size in own.SIZES:
            pixels = processor.encode(question("?"), [noise(size)]).pixels
            assert pixels is not None
            for image in processor.family.images(Pixels(pixels.values, pixels.grids), params):
                # What `encode` takes: the last part, where a view of the whole stands behind tiles.
                assert np.array_equal(denormalise(model.pixels([image])[-1], params), image)
    finally:
        model.close()


@with_llama
def test_llama_cpp_still_takes_no_epsilon_of_qwen2vl(tiny_of: Maker, tmp_path: Path) -> None:
    """Its loader of that architecture leaves the key unread, so norms add 0. Where this fails, docs/gguf.md's remark on
    it and the epsilon of test_gguf_shapes.py's row have had their time.
    """
    logits = []
    for epsilon in (1e-12, 1e-2):
        folder = tmp_path / f"{epsilon:g}"
        shutil.copytree(tiny(tiny_of, "qwen2_5_vl"), folder)
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["rms_norm_eps"] = epsilon
        (folder / "config.json").write_text(json.dumps(config))
        bundle = export_checkpoint(folder, "gguf", "fp32", tmp_path / f"b{epsilon:g}", samples=drawn_samples(1))
        reader = gguf.GGUFReader(bundle.path(bundle.manifest.components["text_decoder"].file))
        assert reader.fields["qwen2vl.attention.layer_norm_rms_epsilon"].contents() == pytest.approx(epsilon)
        session = RUNTIMES.load("llamacpp").open_session(bundle.folder, 1)
        try:
            logits.append(session.prefill(session.prepare(question("what is there?", 0), []), None))
        finally:
            session.close()
    np.testing.assert_array_equal(*logits)


def noise(size: tuple[int, int]) -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@with_llama
def test_own_preprocessing_is_told_apart(bundle_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM: tile for tile the same, in the same order; and an image that was tampered with is seen."""
    bundle = bundle_of("smolvlm", "fp32")
    found = bundle.manifest.details["own_preprocessing"]
    assert found["text_ids_equal"] == found["prompt_ids_equal"] == 1.0
    assert {tuple(row["size"]) for row in found["pictures"]} == set(own.SIZES)
    for row in found["pictures"]:
        assert row["parts"][0] == row["parts"][1] and row["image_tokens"][0] == row["image_tokens"][1]
        assert row["compared"] == "all" and row["pixels_max"] <= 2
    loaded = Processor.load(bundle.folder)
    other = replace(loaded, params={**loaded.params, "resample": 0})
    monkeypatch.setattr(own.Processor, "load", lambda *_, **__: other)
    (row,) = own.own_preprocessing(bundle.folder, bundle.manifest.details, [noise((113, 37))])["pictures"]
    assert row["pixels_max"] > 50 and row["ids_equal"]


@with_llama
def test_types_and_fallbacks_are_recorded(bundle_of: Callable[..., Any]) -> None:
    details = bundle_of("smolvlm", "q4_k_m-imatrix").manifest.details
    text = details["text"]
    # Rows of 32 and 64 are no multiple of 256, so no matrix can have the type that was asked for.
    assert text["type"] == "Q4_K_M" and text["fallbacks"] > 0 and "Q4_K" not in text["types"]
    assert text["weighed"] == 22 and sum(text["types"].values()) == 30
    mixed = bundle_of("smolvlm", "vision=int8,embedding=int8,text=int4")
    assert {"Q8_0"} < set(mixed.manifest.details["mmproj"]["types"])
    reader = gguf.GGUFReader(mixed.path(mixed.manifest.components["text_decoder"].file))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0" and kinds["blk.0.ffn_up.weight"] == "Q4_0"


@with_llama
def test_an_export_leaves_no_process(tiny_of: Maker, tmp_path: Path) -> None:
    def running() -> set[int]:
        return {child.pid for child in psutil.Process().children()}

    before = running()
    export_checkpoint(tiny_of("smolvlm"), "gguf", "int8", tmp_path / "b", samples=drawn_samples(1))
    assert running() <= before


@with_llama
def test_a_crash_is_an_error_with_its_last_lines(bundle_of: Callable[..., Any], tmp_path: Path) -> None:
    bundle = bundle_of("smolvlm", "fp32")
    text = bundle.path(bundle.manifest.components["text_decoder"].file)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(text.read_bytes()[: text.stat().st_size // 2])
    with pytest.raises(BundleError, match="does not load the text model") as caught:
        LlamaModel(broken, None, threads=1, context=64)
    assert "broken.gguf" in str(caught.value) or "tensor" in str(caught.value)
    session = llamacpp.open_session(bundle.folder, 1)
    os.kill(session._model.process.pid, 9)
    sample = drawn_samples(1)[0]
    with pytest.raises(BundleError, match="was ended by SIGKILL"):
        answer(session, sample.messages, [image.open() for image in sample.images], max_new_tokens=2)
    session.close()


@with_llama
def test_where_float32_differs_from_pytorch_llama_cpp_rounds(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Idefics3 with heads of 16, its weights ten times as large: the vision half differs by clip's float16, the text
    half by nothing.
    """
    import torch

    checkpoint = tmp_path / "large"
    shutil.copytree(tiny_checkpoint, checkpoint)
    model: Any = load_model(checkpoint)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10 if weight.dim() > 1 else 1)
    model.save_pretrained(checkpoint)
    bundle = export_checkpoint(checkpoint, "gguf", "fp32", tmp_path / "b", samples=drawn_samples(1))
    session = RUNTIMES.load("llamacpp").open_session(bundle.folder, 1)
    split = FAMILIES.load("idefics3").split(model.eval())
    (item,) = parity_inputs(Processor.load(checkpoint), drawn_samples(1))
    assert item.pixels is not None
    exact = TorchModules(split)
    as_clip = rounded(split.vision[""].module)
    try:
        with torch.no_grad():
            wanted, near = (
                encoder(torch.from_numpy(item.pixels.values))[0].numpy()
                for encoder in (split.vision[""].module, as_clip)
            )
        prepared = Prepared.of(item)
        got = session.encode_image(prepared).embeds  # one tile
        assert largest_gap(got, near) < largest_gap(got, wanted) / 5
        logits, tokens = along(exact, split, item, None, 4)
        session.reset()
        text = [session.prefill(prepared, encode_images(exact, split, item.pixels))]
        text += [session.decode_step(token) for token in tokens[:-1]]
        assert largest_gap(np.stack(text), np.stack(logits)) < 1e-4
    finally:
        session.close()


@with_llama
def test_repacking_is_tried_once(
    bundle_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgekit.formats.gguf.process as process

    bundle = bundle_of("smolvlm", "fp32")
    text = bundle.path(bundle.manifest.components["text_decoder"].file)
    assert repacking_works(text, "F32", tmp_path / "known.json") is True
    monkeypatch.setattr(process, "_try_repacked", lambda _: pytest.fail("tried twice"))
    assert repacking_works(text, "F32", tmp_path / "known.json") is True
    # A file that crashes either way says nothing of others; what crashes when it is repacked is remembered as well.
    monkeypatch.undo()
    monkeypatch.setattr(process.LlamaModel, "feed_tokens", lambda *_: _crash())
    assert repacking_works(text, "Q4_0", tmp_path / "known.json") is False
    assert len(json.loads((tmp_path / "known.json").read_text())) == 1
    monkeypatch.setattr(process, "_try_repacked", lambda _, extra_bufts=True: not extra_bufts)
    assert repacking_works(text, "Q4_0", tmp_path / "known.json") is False
    assert json.loads((tmp_path / "known.json").read_text()).popitem()[1] is False


def _crash() -> None:
    raise BundleError("llama.cpp's process was ended by SIGSEGV at 'tokens'.")


@with_llama
@pytest.mark.parametrize(
    ("where", "name", "what"),
    [
        (gguf.GGUFWriter, "write_tensors_to_file", OSError("36864 requested and 22528 written")),  # NumPy's words
        (target, "quantise", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    ],
)
def test_a_full_disk_leaves_nothing(
    where: Any, name: str, what: OSError, tiny_of: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise what

    monkeypatch.setattr(where, name, full)
    with pytest.raises(StorageError, match="No space left"):
        export_checkpoint(tiny_of("smolvlm"), "gguf", "int8", tmp_path / "b", samples=drawn_samples(1))
    assert list(tmp_path.iterdir()) == []


@with_llama
def test_a_gguf_is_no_checkpoint(bundle_of: Callable[..., Any], tmp_path: Path) -> None:
    bundle = bundle_of("smolvlm", "fp32")
    text = bundle.path(bundle.manifest.components["text_decoder"].file)
    with pytest.raises(EdgekitError, match="is a GGUF file"):
        resolve_checkpoint(text.name, bundle.folder)
    with pytest.raises(EdgekitError, match="is a GGUF file"):
        export_checkpoint(text, "onnx", "fp32", tmp_path / "b")
    (tmp_path / "folder").mkdir()
    shutil.copy(text, tmp_path / "folder")
    with pytest.raises(EdgekitError, match="holds GGUF files"):
        export_checkpoint(tmp_path / "folder", "onnx", "fp32", tmp_path / "b")


@with_llama
def test_the_process_says_what_it_refuses() -> None:
    with LlamaProcess() as process:
        with pytest.raises(BundleError, match="no model is loaded"):
            process.ask("perf")
        assert process.ask("close")[0] == {}  # and goes on
