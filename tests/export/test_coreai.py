"""Core AI's assets on Apple's own runtime against PyTorch, and what their export needs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreai_bundles import made, needs_coreai, opened, shared_twin
from exporting import export_checkpoint
from manifests import reseal

from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.data import samples
from edgekit.errors import BundleError, EdgekitError, MissingExtraError, NoSpaceError, UnsupportedError
from edgekit.export import coreai
from edgekit.families import family_of
from edgekit.families.sizes import read_size
from edgekit.formats.coreai import assets as aimodel
from edgekit.formats.coreai.assets import Runner
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor
from edgekit.manifest import TensorSpec
from edgekit.runtimes import coreai as runtime
from edgekit.runtimes.comparison import open_bundle
from edgekit.runtimes.generate import answer, follow
from edgekit.stats import largest_gap
from edgekit.system.isolated import Isolated


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return shared_twin(tmp_path_factory)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return made("fp16", tmp_path_factory.mktemp("coreai") / "fp16")


# ------------------------------------------------------------------------------------------------------------ contract


@needs_coreai
def test_fp32_twin(twin: Bundle) -> None:
    parity = twin.manifest.parity
    assert parity is not None and parity["passed"] and parity["greedy_identical"] == 1.0
    assert parity["logits_max_abs"] <= 2e-5 and parity["vision_max_abs"] <= 2e-5  # measured: 2e-6 and 2e-6
    assert set(twin.manifest.components) == {"vision_encoder", "token_embedding", "text_decoder"}
    assert set(twin.manifest.tools) >= {"coreai-core", "coreai-torch", "coreai-opt"}


@needs_coreai
def test_fp16_as_it_ships(shipped: Bundle) -> None:
    parity = shipped.manifest.parity
    assert parity is not None and parity["passed"] and parity["greedy_identical"] == 1.0
    assert 1e-4 < parity["logits_max_abs"] < 0.1 and parity["mean_kl"] < 1e-4  # measured: 1.7e-2 and 6e-6
    types = {spec.name: spec.dtype for part in shipped.manifest.components.values() for spec in part.outputs}
    assert set(types.values()) == {"float16"}


@needs_coreai
@pytest.mark.parametrize("name", ["twin", "shipped"])
def test_answers_as_transformers_generate(name: str, request: pytest.FixtureRequest) -> None:
    import torch

    session = opened(request.getfixturevalue(name).folder)
    model: Any = load_model(resolve_checkpoint("demo:student"))
    said = set()
    for item in samples("easy-vqa:test", limit=8):
        images = [image.open() for image in item.images]
        prepared = session.prepare(item.messages, images)
        ids, pixels = torch.from_numpy(prepared.ids), torch.from_numpy(prepared.pixels)
        out = model.generate(input_ids=ids, pixel_values=pixels[None], max_new_tokens=6, do_sample=False)
        ours = answer(session, item.messages, images, max_new_tokens=6)
        assert ours.token_ids == out[0, ids.shape[1] :].tolist()
        said.add(ours.text)
    session.close()
    assert len(said) > 2  # answers that differ, or the comparison would prove little


@needs_coreai
def test_layout_of_apples_engine(shipped: Bundle) -> None:
    """The roles, names, types and shapes that apple/coreai-models' VLM engine looks for."""
    told = json.loads((shipped.folder / "metadata.json").read_text())
    assert (told["metadata_version"], told["kind"]) == ("0.2", "vlm")
    assert told["assets"] == {"main": "model.aimodel", "embedding": "embed.aimodel", "vision": "vision.aimodel"}
    assert all((shipped.folder / asset / "main.mlirb").is_file() for asset in told["assets"].values())
    assert told["language"]["embedded_tokenizer"] and (shipped.folder / "tokenizer" / "tokenizer.json").is_file()
    manifest = shipped.manifest
    assert told["language"]["vocab_size"] == manifest.vocab_size
    assert told["vision"]["image_token_id"] == manifest.text.image_token_id
    assert told["vision"]["image_token_count"] == manifest.buckets[""].tokens
    decoder = manifest.components["text_decoder"]
    assert [spec.name for spec in decoder.inputs] == ["inputs_embeds", "position_ids", "k_cache", "v_cache"]
    assert decoder.inputs[2].shape[3] == told["language"]["max_context_length"] + 1
    pixels = manifest.components["vision_encoder"].inputs[0]
    assert (pixels.dtype, pixels.shape) == ("float32", (1, 3, *[told["vision"]["image_size"]] * 2))
    text = b"".join((shipped.folder / asset / "main.mlirb").read_bytes() for asset in told["assets"].values())
    assert b"site-packages" not in text and b"edgekit" not in text  # release mode: no stack traces


@needs_coreai
def test_a_reset_forgets_and_a_rewind_keeps(twin: Bundle) -> None:
    session = opened(twin.folder)
    first, second = list(samples("easy-vqa:test", limit=2))
    alone = list(follow(session, second.messages, [second.images[0].open()], [5, 6]))
    answer(session, first.messages, [first.images[0].open()], max_new_tokens=8)
    again = list(follow(session, second.messages, [second.images[0].open()], [5, 6]))
    np.testing.assert_array_equal(np.stack(alone), np.stack(again))
    prepared = session.prepare(question("what is in the image?", 0), [])
    session.reset()
    whole = session.prefill(prepared, None)
    session.decode_step(3)
    assert session.rewind(4) == 4
    np.testing.assert_allclose(session.prefill(prepared.tail(4, 0), None), whole, atol=1e-5)
    session.close()


@pytest.mark.slow
@needs_coreai
@pytest.mark.parametrize("precision", ["int8", "int4", "pal8", "pal6", "pal4"])
def test_compressed_precisions(precision: str, tmp_path: Path) -> None:
    bundle = made(precision, tmp_path / "b", 16)
    parity = bundle.manifest.parity
    assert parity is not None and parity["passed"]
    bar = {"int8": 0.5, "int4": 2.0, "pal8": 0.5, "pal6": 1.0, "pal4": 3.0}[precision]
    assert 1e-3 < parity["logits_max_abs"] < bar


@pytest.mark.slow
@needs_coreai
@pytest.mark.parametrize("part", ["vision", "decoder"])
@pytest.mark.parametrize("precision", ["int8", "int4", "pal8", "pal6", "pal4"])
def test_an_asset_is_the_compressed_module(precision: str, part: str, tmp_path: Path) -> None:
    """coreai-opt's module in PyTorch and the asset made of it, in the same float32: rounding is all that parts them."""
    import torch

    from edgekit.export._coreai_modules import compressed, decoder

    model = load_model(resolve_checkpoint("demo:student"))
    split = family_of(model.config.model_type).split(model)
    torch.manual_seed(0)
    if part == "vision":
        plain, names = split.vision[""].module, ["pixel_values"]
        example = [torch.randn([1, *split.vision[""].pixels[1:]])]
    else:
        plain, names = decoder(split, torch.float32), ["inputs_embeds", "position_ids", *aimodel.STATES]
        states = torch.randn(2, split.layers, 1, split.kv_heads, 16, split.head_dim)
        example = [torch.randn(1, 5, split.width), torch.arange(8, dtype=torch.int32)[None], *states]

    def given() -> tuple[torch.Tensor, ...]:  # fresh ones: a run changes the states
        return tuple(tensor.clone() for tensor in example)

    specs = [
        TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in zip(names, example, strict=True)
    ]
    final = compressed(plain, given(), precision)
    out = TensorSpec("out", "float32", (1,))
    program = coreai.Program(part, final, given(), tuple(specs[:2]), (out,), tuple(specs[2:]))
    coreai._convert(program, 16).save_asset(tmp_path / "a.aimodel")
    runner = Runner(1)
    runner.load(part, tmp_path / "a.aimodel")
    arrays = {name: tensor.numpy() for name, tensor in zip(names, given(), strict=True)}
    for name in names[2:]:
        runner.keep(name, arrays.pop(name))
    ours = runner.run(part, arrays, names[2:])["out"]
    runner.close()
    with torch.no_grad():
        theirs = compressed(plain, given(), precision, final=False)(*given()).numpy()
        original = plain(*given()).numpy()
    near, far = largest_gap(theirs, ours), largest_gap(original, ours)
    print(f"{precision} {part}: {near:.1e} from the compressed module, {far:.1e} from its original")
    assert near < 2e-5 and far > 1e-3  # measured: 2.1e-6 at most, 8.9e-3 at least


@pytest.mark.parametrize(
    ("family", "kind", "assets"),
    [
        ("smolvlm", "vlm", ["vision.aimodel"]),
        ("internvl", "vlm", ["vision.aimodel"]),
        ("llava_onevision", "edgekit-vlm", ["vision.aimodel"]),
        ("qwen2_5_vl", "edgekit-vlm", ["vision_84x56.aimodel", "vision_28x112.aimodel"]),
        ("qwen3_vl", "edgekit-vlm", ["vision_96x64.aimodel", "vision_32x128.aimodel"]),
    ],
)
def test_what_apples_engine_is_told(family: str, kind: str, assets: list[str], tiny_of: Callable[..., Path]) -> None:
    """Families that its engine cannot run are of another kind, so that it refuses them, with an asset for each size."""
    wanted = [read_size(name.split("_")[1].removesuffix(".aimodel")) for name in assets if "_" in name] or None
    sizes = Processor.load(tiny_of(family)).for_sizes(wanted).params.get("sizes")
    model = load_model(tiny_of(family))
    told = coreai.metadata(family_of(model.config.model_type).split(model, sizes), tiny_of(family))
    assert told["kind"] == kind
    assert [name for role, name in told["assets"].items() if role.startswith("vision")] == assets
    assert ("image_size" in told["vision"]) == (kind == "vlm")


# ------------------------------------------------------------------------------------------------------- what it needs


@needs_coreai
def test_no_process_is_left(twin: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(twin.folder, tmp_path / "copy")
    made: list[Runner] = []
    monkeypatch.setattr(runtime, "Runner", lambda *given, **more: made.append(Runner(*given, **more)) or made[-1])
    open_bundle(copy).close()
    (copy / "vision.aimodel" / "main.mlirb").write_bytes(b"")
    reseal(copy)
    with pytest.raises(BundleError, match=r"does not load vision\.aimodel"):
        open_bundle(copy)
    assert [runner._process.ended() for runner in made] == [True, True]


@needs_coreai
def test_an_interrupted_export_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the second asset is converted: the first is written by then."""

    def call(isolated: Isolated, function: Callable[..., Any], **given: Any) -> None:
        written.append(Path(given["folder"]) / "vision.aimodel")
        written[0].mkdir()
        raise KeyboardInterrupt

    written: list[Path] = []
    monkeypatch.setattr(Isolated, "call", call)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(tiny_checkpoint, "coreai", "fp32", tmp_path / "b")
    assert len(written) == 1 and list(tmp_path.iterdir()) == []


@needs_coreai
@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("os.abort()", r"does not write .*: its process was ended by SIGABRT: a word of it"),
        ("raise OSError(28, 'No space left on device')", r"No space left while writing .*b\.\n.* free there"),
        ("os.write(2, b'LLVM ERROR: IO failure: No space left on device'); os.abort()", "No space left while writing"),
    ],
)
def test_a_writer_that_ends_its_process(
    ending: str, said: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the second asset, as Core AI's does on a full disk."""
    (tmp_path / "dying.py").write_text(
        "import os, sys\nfrom pathlib import Path\n"
        "def write(folder):\n"
        "    (Path(folder) / 'vision.aimodel').mkdir()\n"
        "    print('a word of it', file=sys.stderr, flush=True)\n"
        f"    {ending}\n"
    )
    called = Isolated.call
    monkeypatch.syspath_prepend(tmp_path)
    write = import_module("dying").write
    monkeypatch.delitem(sys.modules, "dying")
    monkeypatch.setattr(Isolated, "call", lambda own, *_, **given: called(own, write, folder=given["folder"]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    out = tmp_path / "made"
    with pytest.raises(EdgekitError, match=said) as caught:
        export_checkpoint(tiny_checkpoint, "coreai", "fp32", out / "b")
    assert isinstance(caught.value, NoSpaceError) == ("space" in said) and list(out.iterdir()) == []


@needs_coreai
def test_families_that_it_has_no_place_for(tiny_of: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="Target 'coreai' cannot hold this model"):
        export_checkpoint(tiny_of("lfm2_vl"), "coreai", "fp32", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_what_palettising_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgekit.export._coreai_modules import check_compiler

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", sys.executable)  # stands for a compiler: any program that is there
    check_compiler()
    (lock,) = [folder / "lock" for folder in tmp_path.rglob("_core")]
    with lock.open("w"):
        check_compiler()  # another process is at it
    with pytest.raises(EdgekitError, match="was killed, and every later one would wait"):
        check_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EdgekitError, match="there is no C"):
        check_compiler()


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("coreai_torch", "coreai_opt"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgekit\[coreai\]'"):
        export_checkpoint(tiny_checkpoint, "coreai", "fp32", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(aimodel, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="run a coreai bundle"):
        Runner(1)
