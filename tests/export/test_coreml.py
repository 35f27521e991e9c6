"""Core ML packages of whole students against PyTorch, run by the evaluator; and packages that are not whole."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint
from manifests import reseal
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.data import samples
from edgekit.errors import BundleError, DataError, EdgekitError, MissingExtraError
from edgekit.export import coreml
from edgekit.export._coreml_metadata import edited
from edgekit.export.bundling import check_request, drawn_samples, export_hash
from edgekit.families.sizes import fit_image
from edgekit.formats.coreml import programs as mlprogram
from edgekit.inputs.chat import question
from edgekit.report.tolerances import judge, random_tolerances_of
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.generate import answer, follow
from edgekit.stats import largest_gap

needs_coremltools = pytest.mark.skipif(
    find_spec("coremltools") is None, reason="coremltools is not installed: pip install 'edgekit[coreml]'"
)
Maker = Callable[..., Path]
FAMILIES = ["smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "gemma3"]
SMALL = {"context": "320"}
# Largest difference of a logit, of standard deviation 1.0 to 1.1.
GAP = {"fp32": 1e-4, "fp16": 0.1, "int8": 1.5, "pal6": 3.0, "int4": 12.0, "pal4": 12.0}
CALIBRATED = [name for name, one in coreml.PRECISIONS.items() if one.calibrated]
GAP |= {word: GAP[word.removesuffix("-calibrated")] for word in CALIBRATED}


def an_image(size: tuple[int, int], seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def exported(checkpoint: Path, out: Path, precision: str = "fp16", **options: str) -> Bundle:
    """With a short parity run; a calibrated precision is shown other images and questions."""
    shown = drawn_samples(12)[4:] if precision in CALIBRATED else []
    return export_checkpoint(
        checkpoint, "coreml", precision, out, samples=drawn_samples(4), calibration=shown,
        options={**SMALL, **options},
    )  # fmt: skip


def compare(checkpoint: Path, bundle: Bundle, gap: float, *, identical: bool = False) -> None:
    """Greedy answers and logits along them, for one image, two and none, and again after a rewind."""
    theirs = RUNTIMES.load("pytorch").open_session(checkpoint, 1)
    ours = RUNTIMES.load("coreml").open_session(bundle.folder, 1)
    for sizes in ([(100, 60)], [(37, 300), (80, 80)], []):
        messages = question("what is there?", len(sizes))
        images = [an_image(size, seed) for seed, size in enumerate(sizes)]
        shown = [fit_image(image, bundle.manifest.preprocessing) for image in images]
        np.testing.assert_array_equal(ours.prepare(messages, images).ids, theirs.prepare(messages, shown).ids)
        wanted = answer(theirs, messages, shown, max_new_tokens=6).token_ids
        if identical:
            assert answer(ours, messages, images, max_new_tokens=6).token_ids == wanted
        pairs = zip(follow(theirs, messages, shown, wanted), follow(ours, messages, images, wanted), strict=True)
        assert max(largest_gap(a, b) for a, b in pairs) < gap
    ours.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_of: Maker) -> Iterator[Bundle]:
    """A tiny Idefics3-like student in fp16, states, one package; do not write into it."""
    yield exported(tiny_of("smolvlm"), tmp_path_factory.mktemp("coreml") / "b")


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of that bundle to damage."""
    shutil.copytree(bundle.folder, tmp_path / "copy")
    return tmp_path / "copy"


MODEL = "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


def edit(folder: Path, change: Callable[[Any], None]) -> Path:
    """Change the package's model message."""
    with edited(folder / "model.mlpackage") as model:
        change(model)
    return reseal(folder)


def open_session(folder: Path) -> Any:
    return RUNTIMES.load("coreml").open_session(folder, 1)


# ------------------------------------------------------------------------------------------------------- the contract


# Qwen3-VL has what the others have: three axes of positions, deepstack, chosen image sizes, norms within heads.
# The slow run has each family and each precision once or more; the rest is marked `matrix` too.
SLOW = {
    ("smolvlm", "fp32"), ("smolvlm", "pal4"), ("internvl", "fp16"), ("internvl", "int4"),
    ("qwen2_5_vl", "fp16"), ("qwen2_5_vl", "int8"), ("qwen3_vl", "pal6"),
    ("smolvlm", "pal4-calibrated"), ("qwen3_vl", "int4-calibrated"),
    ("llava_onevision", "fp16"), ("gemma3", "int8"),
}  # fmt: skip


def marks(family: str, precision: str) -> list[Any]:
    if (family, precision) == ("qwen3_vl", "fp16"):
        return []
    return [pytest.mark.slow] if (family, precision) in SLOW else [pytest.mark.slow, pytest.mark.matrix]


ROWS = [
    pytest.param(family, precision, marks=marks(family, precision))
    for family in FAMILIES
    for precision in coreml.PRECISIONS
    if (family, precision) != ("smolvlm", "fp16")  # below, on the bundle that is there anyway
]


@needs_coremltools
@pytest.mark.parametrize(("family", "precision"), ROWS)
def test_contract(family: str, precision: str, tiny_of: Maker, tmp_path: Path) -> None:
    made = exported(tiny_of(family), tmp_path / "b", precision)
    parity = made.manifest.parity
    assert parity is not None and parity["verified_by"] == "evaluator"
    assert all(check["held"] for check in judge(parity, random_tolerances_of(precision)).values()), parity
    compare(tiny_of(family), made, GAP[precision], identical=precision == "fp32")


@needs_coremltools
def test_contract_of_the_usual_bundle(bundle: Bundle, tiny_of: Maker) -> None:
    parity = bundle.manifest.parity
    assert parity is not None and parity["verified_by"] == "evaluator" and parity["mean_kl"] < 1e-4
    assert set(bundle.manifest.components) == {"vision_encoder", "token_embedding", "text_decoder", "decode"}
    compare(tiny_of("smolvlm"), bundle, GAP["fp16"])


@pytest.mark.slow
@needs_coremltools
@pytest.mark.parametrize(
    "options",
    [
        {"ios": "17"},
        {"layout": "separate"},
        {"lengths": "buckets"},
        {"lengths": "buckets", "layout": "separate"},
        {"cache": "explicit"},
    ],
    ids=lambda options: "-".join(options.values()),
)
@pytest.mark.parametrize("family", [pytest.param("smolvlm", marks=pytest.mark.matrix), "qwen3_vl"])
def test_options(family: str, options: dict[str, str], tiny_of: Maker, tmp_path: Path) -> None:
    made = exported(tiny_of(family), tmp_path / "b", "fp16", **options)
    assert made.manifest.parity is not None and made.manifest.parity["mean_kl"] < 1e-4
    compare(tiny_of(family), made, GAP["fp16"])


@pytest.mark.slow
@needs_coremltools
@pytest.mark.parametrize("precision", ["int8", "pal4"])
def test_ios_17_in_fewer_bits(precision: str, tiny_of: Maker, tmp_path: Path) -> None:
    made = exported(tiny_of("smolvlm"), tmp_path / "b", precision, ios="17")
    compare(tiny_of("smolvlm"), made, GAP[precision])


@pytest.mark.slow
@needs_coremltools
def test_a_mixture(tiny_of: Maker, tmp_path: Path) -> None:
    from edgekit.formats.coreml.mil import Package

    words = "vision=int8,embedding=int8,text=int4"
    made = exported(tiny_of("smolvlm"), tmp_path / "b", words)
    found = {name: part.precision for name, part in made.manifest.components.items()}
    assert found == {"vision_encoder": "int8", "token_embedding": "int8", "text_decoder": "int4", "decode": "int4"}
    package = Package(made.folder / "model.mlpackage")
    kinds = {
        name: {operation.type for operation in package.block(name).operations if "constexpr" in operation.type}
        for name in package.functions
    }
    assert kinds["vision_encoder"] and kinds["prefill"] == kinds["decode"] != set()
    compare(tiny_of("smolvlm"), made, GAP["int4"])


@pytest.mark.slow
@needs_coremltools
def test_a_trained_student_answers_the_same(tmp_path: Path) -> None:
    """On random weights nearly every token is a close call; here equal answers prove something."""
    from edgekit.checkpoint.folder import resolve_checkpoint

    student = resolve_checkpoint("demo:student")
    questions = list(samples("easy-vqa:test", limit=32))
    made = export_checkpoint(student, "coreml", "fp16", tmp_path / "b", samples=questions)
    parity = made.manifest.parity
    assert parity is not None and parity["passed"] and parity["greedy_identical"] == 1.0
    assert parity["logits_max_abs"] < 1e-2  # measured: 2.8e-3


# ---------------------------------------------------------------------------------------------------------- the weights


@needs_coremltools
def test_what_is_compressed_and_what_a_grid_does_not_fit(tmp_path: Path) -> None:
    """A norm that shares its zero bias with linear layers, and widths that are no multiples of blocks and groups."""
    import torch
    from torch import nn

    from edgekit.formats.coreml.mil import Package
    from edgekit.manifest import TensorSpec

    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 40), nn.Linear(40, 30)).eval()
    for part in model:
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    x = torch.randn(1, 64)
    program = coreml.Program(
        "p", model, (x,), (TensorSpec("x", "float16", (1, 64)),), (TensorSpec("y", "float16", (1, 30)),), "text", ""
    )
    wanted, sizes = model(x).detach().numpy(), {}
    for word, kinds, gap in (
        ("int4", ["blockwise_shift_scale"] * 3, 0.2),  # 40 inputs are no two blocks of 32: 8 bits
        ("pal4", ["blockwise_shift_scale"] * 2 + ["lut_to_dense"], 0.2),  # neither 40 nor 30 outputs are groups of 16
        ("int8", ["blockwise_shift_scale"] * 3, 0.02),
    ):
        with coreml.quiet():
            coreml.convert(program, coreml.plan(word, {})).save(str(tmp_path / f"{word}.mlpackage"))
        package = Package(tmp_path / f"{word}.mlpackage")
        operations = package.block("main").operations
        found = [part.type.removeprefix("constexpr_") for part in operations if part.type.startswith("constexpr_")]
        assert sorted(found) == kinds
        assert largest_gap(package.function().predict({"x": x.numpy()})["y"], wanted) < gap * np.abs(wanted).max()
        sizes[word] = (tmp_path / f"{word}.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert max(sizes["int4"], sizes["pal4"]) < sizes["int8"] - 1500


# --------------------------------------------------------------------------------------------------------- the package


@needs_coremltools
def test_functions_share_weights_and_states(bundle: Bundle) -> None:
    from edgekit.formats.coreml.mil import Package

    package = Package(bundle.folder / "model.mlpackage")
    assert package.functions == ["decode", "prefill", "token_embedding", "vision_encoder"]
    assert package.default == "prefill" and package.model.specificationVersion == 9  # iOS 18
    prefill, decode = package.function("prefill"), package.function("decode")
    assert [state.name for state in prefill.states] == [state.name for state in decode.states]
    assert len(prefill.states) == 2 * bundle.manifest.cache.layers
    apart = sum(_weight_bytes(package, name) for name in package.functions)
    once = apart - _weight_bytes(package, "decode")
    assert (bundle.folder / WEIGHTS).stat().st_size < 1.2 * once < apart


def _weight_bytes(package: Any, name: str) -> int:
    """Bytes of a function's large constants, as if it were alone."""
    total = 0
    for operation in package.block(name).operations:
        if operation.type == "const" and operation.attributes["val"].HasField("blobFileValue"):
            shape = operation.attributes["val"].type.tensorType.dimensions
            total += 2 * int(np.prod([size.constant.size for size in shape]))
    return total


@needs_coremltools
def test_what_xcode_shows(bundle: Bundle) -> None:
    from edgekit.formats.coreml.mil import Package

    description = Package(bundle.folder / "model.mlpackage").model.description
    stored, manifest = description.metadata, bundle.manifest
    assert "prefill: a prompt" in stored.shortDescription and "vision_encoder:" in stored.shortDescription
    assert stored.author.startswith("exported by edgekit") and "licence=" in stored.license
    made_of = export_hash(manifest.student_sha256, "coreml", "fp16", manifest.preprocessing)
    assert stored.userDefined[mlprogram.LABEL] == made_of
    assert stored.userDefined[mlprogram.CONTEXT] == "320" and stored.userDefined[mlprogram.LENGTHS] == ""
    for function in description.functions:
        features = [*function.input, *function.output]
        assert features and all(feature.shortDescription for feature in features), function.name


@needs_coremltools
def test_the_cache_has_an_end_and_a_reset_forgets(bundle: Bundle) -> None:
    session = open_session(bundle.folder)
    first = next(follow(session, question("what?", 0), [], [0]))
    answer(session, question("which one is it?"), [an_image((90, 40))], max_new_tokens=4)
    np.testing.assert_array_equal(first, next(follow(session, question("what?", 0), [], [0])))
    with pytest.raises(DataError, match=r"more than 320 tokens[\s\S]*context=TOKENS"):
        answer(session, question("word " * 400, 0), [], max_new_tokens=1)


# ------------------------------------------------------------------------------------------------------------- options


def refused(precision: str, *whys: str, **options: str) -> None:
    with pytest.raises(EdgekitError) as caught:
        check_request("coreml", precision, options)
    assert all(why in str(caught.value) for why in whys), caught.value


def test_options_that_cannot_be() -> None:
    refused("fp16", "has no option 'iso'", "Did you mean 'ios'?", iso="17")
    refused("fp16", "ios=16", "There are: 18, 17", ios="16")
    refused("fp16", "context=many", context="many")
    refused("fp16", "context=1:", context="1")
    refused("int4", "Int4 blocks are new in iOS 18", ios="17")
    refused("vision=int4", "Int4 blocks", ios="17")
    refused("text=int4-calibrated", "Int4 blocks", ios="17")
    refused("fp16", "Multifunction packages are new in iOS 18", ios="17", layout="multifunction")
    refused("fp16", "States are new in iOS 18", ios="17", cache="states")
    refused("fp32", "keeps states in Float16", cache="states")
    refused("fp16", "A cache that goes in and out", cache="explicit", lengths="buckets")
    refused("embedding=int4", "no precision 'int4' for the embedding part")
    with pytest.raises(EdgekitError, match="Target 'onnx' has no option 'ios'"):
        check_request("onnx", "fp32", {"ios": "17"})


def test_what_options_come_to() -> None:
    usual = coreml.plan("int4", {})
    assert usual.precisions == {"vision": "int4", "embedding": "int8", "text": "int4"}
    assert (usual.ios, usual.shared, usual.states, usual.lengths, usual.context) == (18, True, True, (), 2048)
    old = coreml.plan("pal4", {"ios": "17"})
    assert (old.ios, old.shared, old.states) == (17, False, False)
    assert not coreml.plan("fp32", {}).states and coreml.plan("fp32", {}).shared
    assert coreml.plan("fp16", {"lengths": "buckets", "context": "100"}).lengths == (16, 64)
    assert coreml.plan("fp16", {"lengths": "buckets", "layout": "separate"}).lengths == (1, 16, 64, 256)
    assert {one: coreml.plan(one, {}).precisions["embedding"] for one in coreml.PRECISIONS} == {
        "fp16": "fp16", "fp32": "fp32", "int8": "int8", "int4": "int8", "pal4": "int8", "pal6": "int8",
        **dict.fromkeys(CALIBRATED, "int8"),
    }  # fmt: skip
    assert coreml.plan("vision=fp16,text=pal6", {}).precisions == {
        "vision": "fp16",
        "embedding": "fp32",
        "text": "pal6",
    }


def test_pieces_of_a_prompt() -> None:
    """(tokens, size of the call); the last token ends a call that it fills."""

    def cut(tokens: int, room: int = 1000) -> list[tuple[int, int]]:
        return list(mlprogram.pieces(tokens, [16, 64], room))

    assert list(mlprogram.pieces(87, [], 87)) == [(87, 87)]
    assert cut(1) == [(1, 1)]
    assert cut(16) == [(16, 16)]
    assert cut(17) == [(16, 16), (1, 1)]
    assert cut(9) == [(8, 16), (1, 1)]
    assert cut(40) == [(39, 64), (1, 1)]
    assert cut(100) == [(64, 64), (35, 64), (1, 1)]
    assert cut(40, room=50) == [(16, 16), (16, 16), (7, 16), (1, 1)]
    assert cut(4, room=4) == [(1, 1)] * 4  # no call fits but of single tokens
    for tokens in range(1, 140):
        found = cut(tokens, room=tokens)
        assert sum(real for real, _ in found) == tokens and found[-1][0] == found[-1][1]


def test_masks() -> None:
    hidden = mlprogram.HIDDEN
    assert mlprogram.causal_mask(1, 2, 4)[0, 0].tolist() == [[0, 0, hidden, hidden], [0, 0, 0, hidden]]
    assert mlprogram.causal_mask(0, 2, 3, 1)[0, 0].tolist() == [[hidden, 0, hidden], [hidden, 0, 0]]


# ----------------------------------------------------------------------------------------------------------- bad input


@needs_coremltools
def test_a_package_cut_short(copied: Path) -> None:
    path = copied / MODEL
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="was cut short or changed"):
        open_session(copied)
    with pytest.raises(BundleError, match="no Core ML model, or cut short"):
        open_session(reseal(copied))


@needs_coremltools
def test_weights_cut_short_or_missing(copied: Path) -> None:
    path = copied / WEIGHTS
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BundleError, match="is cut short"):
        open_session(reseal(copied))
    path.unlink()
    with pytest.raises(BundleError, match="lacks model"):
        open_session(copied)
    with pytest.raises(BundleError, match=r"weight file .*weight.bin is missing"):
        open_session(reseal(copied))


@needs_coremltools
def test_a_package_without_its_manifest(copied: Path) -> None:
    (copied / "model.mlpackage" / "Manifest.json").write_text("{}")
    with pytest.raises(BundleError, match=r"Manifest\.json is damaged"):
        open_session(reseal(copied))


@needs_coremltools
def test_an_unknown_version(copied: Path) -> None:
    def newer(model: Any) -> None:
        model.specificationVersion = 99

    with pytest.raises(BundleError, match="has the specification version 99"):
        open_session(edit(copied, newer))


@needs_coremltools
def test_a_function_that_is_not_there(copied: Path) -> None:
    def rename(model: Any) -> None:
        functions = model.mlProgram.functions
        functions["other"].CopyFrom(functions["decode"])
        del functions["decode"]

    with pytest.raises(EdgekitError, match=r"has no function 'decode'[\s\S]*It has: other, prefill"):
        open_session(edit(copied, rename))


@needs_coremltools
def test_metadata_that_are_not_there(copied: Path) -> None:
    with pytest.raises(BundleError, match="does not say how its decoder is called"):
        open_session(edit(copied, lambda model: model.description.metadata.ClearField("userDefined")))


@needs_coremltools
def test_inputs_that_do_not_fit(bundle: Bundle) -> None:
    from edgekit.formats.coreml.mil import Package

    package = Package(bundle.folder / "model.mlpackage")
    embedding, vision = package.function("token_embedding"), package.function("vision_encoder")
    with pytest.raises(EdgekitError, match=r"has the shape \[2, 5\][\s\S]*takes \[1, 1..320\]"):
        embedding.predict({"input_ids": np.zeros((2, 5), np.int32)})
    with pytest.raises(EdgekitError, match=r"is float32[\s\S]*takes int32"):
        embedding.predict({"input_ids": np.zeros((1, 5), np.float32)})
    with pytest.raises(EdgekitError, match="has no input ids"):
        embedding.predict({"ids": np.zeros((1, 5), np.int32)})
    with pytest.raises(EdgekitError, match="needs the input 'pixel_values'"):
        vision.predict({})
    with pytest.raises(EdgekitError, match=r"has the shape \[1, 3, 7, 7\]"):
        vision.predict({"pixel_values": np.zeros((1, 3, 7, 7), np.float16)})
    decode = package.function("decode")
    feeds = {
        "inputs_embeds": np.zeros((1, 2, bundle.manifest.components["decode"].inputs[0].shape[2]), np.float16),  # type: ignore[arg-type]
        "attention_mask": np.zeros((1, 1, 1, 1), np.float16),
        "position_ids": np.zeros((1, 1), np.int32),
    }
    with pytest.raises(EdgekitError, match=r"'inputs_embeds' of function 'decode' has the shape \[1, 2, "):
        decode.predict(feeds)
    feeds["inputs_embeds"] = feeds["inputs_embeds"][:, :1]
    for state in (embedding.make_state(), {}):
        with pytest.raises(EdgekitError, match=r"does not fit function 'decode'[\s\S]*make_state"):
            decode.predict(feeds, state)  # type: ignore[arg-type]


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.startswith("coremltools")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgekit\[coreml\]'"):
        export_checkpoint(tiny_checkpoint, "coreml", "fp16", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- a Mac


class FakeModel:
    """coremltools.models.MLModel as it is on a Mac (9.0: models/model.py), with the evaluator for Core ML."""

    opened: list[tuple[str, str | None]]
    unloadable: tuple[str, ...] = ()

    def __init__(self, model: str, *, function_name: str | None = None) -> None:
        from edgekit.formats.coreml.mil import Package

        self.opened.append((Path(model).name, function_name))
        package = Package(Path(model))
        if function_name is not None and function_name in self.unloadable:
            raise RuntimeError(f"functionName {function_name!r} cannot be compiled")
        self.function = package.function(function_name)
        self.user_defined_metadata = package.model.description.metadata.userDefined

    def make_state(self) -> Any:
        return self.function.make_state()

    def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
        if (state is None) == bool(self.function.states):
            raise ValueError("a stateful function takes a state, another one none")
        if any(value.dtype == np.int64 for value in data.values()):
            raise TypeError("int64 is no type of MLMultiArray")
        return self.function.predict(data, state)


@needs_coremltools
def test_on_a_mac_core_ml_itself_runs(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import coremltools

    wanted = answer(open_session(bundle.folder), question("what?"), [an_image((80, 50))], max_new_tokens=4)
    FakeModel.opened = []
    monkeypatch.setattr(coremltools.models, "MLModel", FakeModel)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    session = open_session(bundle.folder)
    assert session.verified_by == "runtime"
    assert answer(session, question("what?"), [an_image((80, 50))], max_new_tokens=4).token_ids == wanted.token_ids
    functions = ["decode", "prefill", "token_embedding", "vision_encoder"]
    assert sorted(FakeModel.opened, key=str) == [("model.mlpackage", name) for name in functions]
    with pytest.raises(EdgekitError, match="Core ML cannot run this function"):
        session._programs._functions["token_embedding"].predict({"input_ids": np.zeros((1, 2), np.int64)})

    monkeypatch.setattr(FakeModel, "unloadable", ("decode",))
    with pytest.raises(BundleError, match="Core ML does not load function 'decode'"):
        open_session(bundle.folder)
