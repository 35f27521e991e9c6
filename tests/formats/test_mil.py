"""Whole packages, converted by coremltools from PyTorch, against PyTorch; and packages that are not whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import BundleError, EdgekitError
from edgekit.formats.coreml.mil import Package

ct = pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'edgekit[coreml]'")

import coreml_models as models  # noqa: E402  (it needs coremltools)

IMAGE = (torch.linspace(-2, 2, 3 * 64 * 64).sin().reshape(1, 3, 64, 64),)


def outputs(folder: Path, example: tuple[torch.Tensor, ...], **options: Any) -> np.ndarray[Any, Any]:
    function = Package(folder, **options).function()
    names = [part.name for part in function.inputs]
    found: np.ndarray[Any, Any] = function.predict(dict(zip(names, example, strict=True)))[function.outputs[0]]
    return found


SLOW = pytest.mark.slow  # the same programs in the other precision


@pytest.mark.parametrize(
    ("model", "fp32", "tolerance"),
    [
        (models.resnet, True, 1e-5),
        (models.mobilenet, False, 5e-3),
        pytest.param(models.resnet, False, 5e-3, marks=SLOW),
        pytest.param(models.mobilenet, True, 1e-5, marks=SLOW),
    ],
)
def test_vision_models(model: Callable[[], nn.Module], fp32: bool, tolerance: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = model()
    models.convert(built, IMAGE, tmp_path / "m.mlpackage", fp32=fp32)
    want = built(*IMAGE).detach().numpy()
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(outputs(tmp_path / "m.mlpackage", IMAGE), want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("fp32", "tolerance"), [(True, 1e-5), pytest.param(False, 5e-3, marks=SLOW)])
def test_bert_at_several_lengths(fp32: bool, tolerance: float, tmp_path: Path) -> None:
    """Enumerated lengths; those in between are refused, as Core ML does."""
    torch.manual_seed(0)
    bert = models.Bert().eval()
    lengths = ct.EnumeratedShapes(shapes=[[1, 4], [1, 12], [1, 20]], default=[1, 12])
    example = (torch.zeros(1, 12, dtype=torch.int32), torch.ones(1, 12, dtype=torch.int32))
    inputs = [ct.TensorType(name, shape=lengths, dtype=np.int32) for name in ("ids", "mask")]
    models.convert(bert, example, tmp_path / "m.mlpackage", fp32=fp32, inputs=inputs)
    function = Package(tmp_path / "m.mlpackage").function()
    for length in (4, 12, 20):
        ids, mask = torch.randint(0, 100, (1, length)), torch.ones(1, length, dtype=torch.int32)
        mask[:, length // 2 :] = 0
        got = function.predict({"ids": ids.numpy(), "mask": mask.numpy()})["out"]
        np.testing.assert_allclose(got, bert(ids, mask).detach(), atol=tolerance)
    with pytest.raises(EdgekitError, match=r"shape \[1, 5\].*\n.*\[1, 12\] or \[1, 4\] or \[1, 20\]"):
        function.predict({"ids": np.zeros((1, 5), int), "mask": np.ones((1, 5), int)})
    with pytest.raises(EdgekitError, match="is float64"):
        function.predict({"ids": np.zeros((1, 4)), "mask": np.ones((1, 4), int)})
    with pytest.raises(EdgekitError, match="needs the input 'mask'"):
        function.predict({"ids": np.zeros((1, 4), int)})
    with pytest.raises(EdgekitError, match="has no input pixels"):
        function.predict({"pixels": np.zeros((1, 4))})
    with pytest.raises(EdgekitError, match="of an axis of size 100"):
        function.predict({"ids": np.full((1, 4), 100), "mask": np.ones((1, 4), int)})


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[models.Decoder, Path]:
    """A stateful decoder with free lengths, in fp16."""
    torch.manual_seed(0)
    built = models.Decoder().eval()
    tokens, length = (ct.RangeDim(1, 24, default=1) for _ in range(2))
    folder = tmp_path_factory.mktemp("decoder") / "m.mlpackage"
    models.convert(
        built,
        (torch.randn(1, 3, 32), models.causal(3, 5)),
        folder,
        inputs=[
            ct.TensorType("x", shape=(1, tokens, 32), dtype=np.float16),
            ct.TensorType("mask", shape=(1, 1, tokens, length), dtype=np.float16),
        ],
        states=built.states(),
    )
    return built, folder


def steps(model: nn.Module, sizes: tuple[int, ...]) -> list[tuple[dict[str, torch.Tensor], np.ndarray[Any, Any]]]:
    """Inputs and PyTorch's logits of a prefill and single tokens."""
    torch.manual_seed(1)
    for buffer in model.buffers():
        buffer.zero_()
    found, end = [], 0
    for size in sizes:
        end += size
        x, mask = torch.randn(1, size, 32), models.causal(size, end)
        found.append(({"x": x, "mask": mask}, model(x, mask).detach().numpy()))
    return found


SIZES = (5, 1, 1, 3, 1)


@pytest.mark.parametrize("keep", ["dense", "stored"])
def test_a_decoder_with_states(decoder: tuple[models.Decoder, Path], keep: str) -> None:
    model, folder = decoder
    function = Package(folder, keep=keep).function()
    assert [part.name for part in function.states] == ["k_0", "v_0", "k_1", "v_1"]
    script = steps(model, SIZES)
    for _ in range(2):  # a new state starts from nothing
        state = function.make_state()
        for inputs, want in script:
            np.testing.assert_allclose(function.predict(inputs, state)["out"], want, atol=5e-3)
        assert np.abs(state.read("k_1")[:, :, : sum(SIZES)]).min(-1).max() > 0
        assert not state.read("k_1")[:, :, sum(SIZES) :].any()
    inputs, want = script[0]
    np.testing.assert_allclose(function.predict(inputs)["out"], want, atol=5e-3)  # without a state: from zeros
    with pytest.raises(EdgekitError, match=r"state does not fit.*\n.*'k_0' as fp16 \[1, 2, 24, 8\]"):
        function.predict(inputs, type(state)({}))
    with pytest.raises(EdgekitError, match="State 'k_0' has the shape"):
        state.write("k_0", np.zeros((1, 2, 24, 9)))
    with pytest.raises(EdgekitError, match=r"\[1, 1\.\.24, 32\]"):
        function.predict({"x": np.zeros((1, 25, 32)), "mask": np.zeros((1, 1, 1, 1))}, state)


def test_writing_a_state_in_place_changes_nothing_else(decoder: tuple[models.Decoder, Path]) -> None:
    """With in-place writes off, every result is the same; with them on, no cache is copied."""
    model, folder = decoder
    fast, slow = Package(folder).function(), Package(folder).function()
    updates = [step for step in slow.block.steps if step.kind == "slice_update"]
    assert len(updates) == 4 and all(step.fixed["in_place"] for step in updates)
    for step in updates:
        step.fixed["in_place"] = False
    states = fast.make_state(), slow.make_state()
    places = {name: tensor.data_ptr() for name, tensor in states[0].tensors.items()}
    for inputs, _ in steps(model, SIZES):
        np.testing.assert_array_equal(
            fast.predict(inputs, states[0])["out"], slow.predict(inputs, states[1])["out"]
        )  # fmt: skip
        assert {name: tensor.data_ptr() for name, tensor in states[0].tensors.items()} == places
    for name in places:
        np.testing.assert_array_equal(states[0].read(name), states[1].read(name))


def state_program(tmp_path: Path, body: Callable[..., Any]) -> Any:
    """A function of x fp16 (2,) and a state s fp16 (4,)."""
    from coremltools.converters.mil.mil import Builder, types

    half = types.fp16
    specs = [Builder.TensorSpec((2,), dtype=half), Builder.StateTensorSpec((4,), dtype=half)]
    program = Builder.program(input_specs=specs, opset_version=ct.target.iOS18)(body)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(tmp_path / "s.mlpackage"))
    return Package(tmp_path / "s.mlpackage").function()


def test_an_old_value_of_a_state_outlives_a_write(tmp_path: Path) -> None:
    """A view taken before the write shares memory with the state, so the write must not happen in place."""
    from coremltools.converters.mil.mil import Builder as mb

    def body(x: Any, s: Any) -> Any:
        before = mb.slice_by_index(x=mb.read_state(input=s), begin=[0], end=[2])
        changed = mb.slice_update(x=mb.read_state(input=s), update=x, begin=[1], end=[3])
        after = mb.coreml_update_state(state=s, value=changed)
        return mb.add(x=before, y=np.float16(0)), mb.add(x=after, y=np.float16(0))

    function = state_program(tmp_path, body)
    (update,) = (step for step in function.block.steps if step.kind == "slice_update")
    assert update.fixed["in_place"]
    state = function.make_state()
    state.write("s" if "s" in state.tensors else function.states[0].name, np.arange(4))
    x = function.inputs[0].name
    before, after = function.predict({x: np.array([8, 9])}, state).values()
    assert before.tolist() == [0, 1] and after.tolist() == [0, 8, 9, 3]
    before, after = function.predict({x: np.array([5, 5])}, state).values()
    assert before.tolist() == [0, 8] and after.tolist() == [0, 5, 5, 3]


def test_an_update_that_is_not_written_leaves_the_state(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def body(x: Any, s: Any) -> Any:
        changed = mb.slice_update(x=mb.read_state(input=s), update=x, begin=[1], end=[3])
        again = mb.read_state(input=s)
        written = mb.coreml_update_state(state=s, value=changed)
        return mb.add(x=again, y=np.float16(0)), mb.add(x=written, y=np.float16(0))

    function = state_program(tmp_path, body)
    again, written = function.predict({function.inputs[0].name: np.array([8, 9])}).values()
    assert again.tolist() == [0, 0, 0, 0] and written.tolist() == [0, 8, 9, 0]


def compressed() -> dict[str, tuple[str, Callable[[Any], Any], float]]:
    """Name -> (target, what coremltools makes of a model, least cosine with PyTorch)."""
    from coremltools.optimize import coreml as co

    def linear(**settings: Any) -> Callable[[Any], Any]:
        config = co.OptimizationConfig(co.OpLinearQuantizerConfig(weight_threshold=0, **settings))
        return lambda model: co.linear_quantize_weights(model, config)

    def palette(**settings: Any) -> Callable[[Any], Any]:
        settings = {"mode": "uniform", "weight_threshold": 0, **settings}
        config = co.OptimizationConfig(co.OpPalettizerConfig(**settings))
        return lambda model: co.palettize_weights(model, config)

    def pruned(model: Any) -> Any:
        config = co.OptimizationConfig(co.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0))
        return co.prune_weights(model, config)

    def both(model: Any) -> Any:
        config = co.OptimizationConfig(co.OpPalettizerConfig(mode="uniform", nbits=6, weight_threshold=0))
        return co.palettize_weights(pruned(model), config, joint_compression=True)

    def both_int8(model: Any) -> Any:
        config = co.OptimizationConfig(co.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0))
        return co.linear_quantize_weights(pruned(model), config, joint_compression=True)

    blocks = {"granularity": "per_block", "block_size": 8}
    grouped = {"granularity": "per_grouped_channel", "group_size": 4}
    return {
        "int8": ("iOS18", linear(mode="linear_symmetric"), 0.999),
        "int8 of iOS 16": ("iOS16", linear(mode="linear", dtype="uint8"), 0.999),
        "int4 blocks": ("iOS18", linear(mode="linear_symmetric", dtype="int4", **blocks), 0.98),
        "uint4 blocks": ("iOS18", linear(mode="linear", dtype="uint4", **blocks), 0.98),
        "4-bit palette of iOS 16": ("iOS16", palette(nbits=4), 0.98),
        "6-bit palette": ("iOS18", palette(nbits=6), 0.998),
        "3-bit palette": ("iOS18", palette(nbits=3), 0.9),
        "4-bit palettes, grouped": ("iOS18", palette(nbits=4, **grouped), 0.98),
        "4-bit palettes, scaled": ("iOS18", palette(nbits=4, enable_per_channel_scale=True, **grouped), 0.98),
        "sparse": ("iOS18", pruned, 0.7),
        "sparse of iOS 16": ("iOS16", pruned, 0.7),
        "sparse and palette": ("iOS18", both, 0.7),
        "sparse and int8": ("iOS18", both_int8, 0.7),
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Any]]:
    """A small model with linear and convolution weights for each target, and its conversion."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64)).eval()
    example = (torch.randn(1, 16, 5, 5),)
    folder = tmp_path_factory.mktemp("plain")
    return {
        name: (model, models.convert(model, example, folder / f"{name}.mlpackage", target=getattr(ct.target, name)))
        for name in ("iOS16", "iOS18")
    }


@pytest.mark.parametrize("kind", compressed())
def test_compressed_weights(kind: str, plain: dict[str, tuple[nn.Module, Any]], tmp_path: Path) -> None:
    """Against coremltools' own decompression, bit by bit, and near PyTorch."""
    from coremltools.optimize import coreml as co

    target, compress, least = compressed()[kind]
    model, base = plain[target]
    small = compress(base)
    small.save(str(tmp_path / "small.mlpackage"))
    co.decompress_weights(small).save(str(tmp_path / "large.mlpackage"))
    kinds = {part.type for part in Package(tmp_path / "small.mlpackage").block("main").operations}
    assert any(name.startswith("constexpr_") for name in kinds)
    example = (torch.randn(1, 16, 5, 5),)
    got = outputs(tmp_path / "small.mlpackage", example)
    np.testing.assert_array_equal(got, outputs(tmp_path / "small.mlpackage", example, keep="stored"))
    np.testing.assert_array_equal(got, outputs(tmp_path / "large.mlpackage", example))
    want = model(*example).detach().numpy()
    cosine = float((got * want).sum() / np.linalg.norm(got) / np.linalg.norm(want))
    assert least < cosine < 0.9999999


def test_functions_share_their_weights(tmp_path: Path) -> None:
    from coremltools.optimize import coreml as co

    torch.manual_seed(0)
    first = nn.Linear(64, 32).eval()
    second = nn.Sequential(first, nn.ReLU()).eval()
    config = co.OptimizationConfig(co.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0))
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, model in (("first", first), ("second", second)):
        small = co.linear_quantize_weights(
            models.convert(model, (torch.randn(1, 64),), tmp_path / "a.mlpackage"), config
        )
        small.save(str(tmp_path / f"{name}.mlpackage"))
        descriptor.add_function(
            str(tmp_path / f"{name}.mlpackage"), src_function_name="main", target_function_name=name
        )
    descriptor.default_function_name = "second"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    package = Package(tmp_path / "both.mlpackage")
    assert package.functions == ["first", "second"] and package.function().name == "second"
    x = torch.randn(1, 64)
    one, two = (package.function(name).predict({"in0": x})["out"] for name in package.functions)
    np.testing.assert_allclose(one, first(x).detach(), atol=0.02)
    np.testing.assert_array_equal(two, np.maximum(one, 0))
    kept = [next(s for s in package.function(n).block.steps if s.kind == "linear") for n in package.functions]
    assert kept[0].fixed["weight"].data_ptr() == kept[1].fixed["weight"].data_ptr()
    with pytest.raises(EdgekitError, match=r"no function 'third'.*\n.*first, second"):
        package.function("third")


def test_a_classifier_and_an_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(-1)).eval()
    pixels = torch.randint(0, 256, (1, 3, 8, 8))
    models.convert(
        model,
        (torch.rand(1, 3, 8, 8),),
        tmp_path / "m.mlpackage",
        inputs=[ct.ImageType("image", shape=(1, 3, 8, 8), scale=1 / 255, bias=[-0.5, -0.5, -0.5])],
        outputs=None,
        classifier_config=ct.ClassifierConfig(["a", "b", "c", "d"]),
    )
    function = Package(tmp_path / "m.mlpackage").function()
    label, shares = function.predict({"image": pixels.numpy()}).values()
    want = model(pixels / 255 - 0.5)[0]
    assert label == "abcd"[int(want.argmax())]
    np.testing.assert_allclose(list(shares.values()), want.detach(), atol=2e-3)
    with pytest.raises(EdgekitError, match=r"\[1, 3, 8, 8\]"):
        function.predict({"image": np.zeros((1, 3, 9, 8))})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "m.mlpackage"
    models.convert(nn.Linear(64, 64).eval(), (torch.randn(1, 64),), folder)
    return folder


def damaged(small: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A copy: the package, its model file, its weight file."""
    folder = tmp_path / "m.mlpackage"
    shutil.copytree(small, folder)
    inner = folder / "Data" / "com.apple.CoreML"
    return folder, inner / "model.mlmodel", inner / "weights" / "weight.bin"


def test_packages_that_are_not_whole(small: Path, tmp_path: Path) -> None:
    def refused(name: str, match: str, change: Callable[[Path, Path, Path], object]) -> None:
        parts = damaged(small, tmp_path / name)
        change(*parts)
        with pytest.raises(BundleError, match=match):
            Package(parts[0]).function()

    def edited(**fields: Any) -> Callable[[Path, Path, Path], object]:
        def change(folder: Path, model: Path, weights: Path) -> None:
            message = Package(folder).model
            for key, value in fields.items():
                setattr(message, key, value)
            model.write_bytes(message.SerializeToString())

        return change

    def manifest(text: str) -> Callable[[Path, Path, Path], object]:
        return lambda folder, model, weights: (folder / "Manifest.json").write_text(text)

    refused("no weights", "weight.bin is missing", lambda folder, model, weights: weights.unlink())
    refused("cut weights", "cut short", lambda folder, model, weights: weights.write_bytes(weights.read_bytes()[:4000]))
    refused("hardly weights", "cut short", lambda folder, model, weights: weights.write_bytes(b"12"))
    refused("other weights", "holds no fp16", lambda folder, model, weights: weights.write_bytes(bytes(20000)))
    refused("no model", "model.mlmodel is missing", lambda folder, model, weights: model.unlink())
    refused("cut model", "no Core ML model", lambda folder, model, weights: model.write_bytes(model.read_bytes()[:300]))
    refused("empty model", "specification version 0", lambda folder, model, weights: model.write_bytes(b""))
    refused("newer", "specification version 99", edited(specificationVersion=99))
    refused("older", "specification version 4", edited(specificationVersion=4))
    refused("no manifest", "no Manifest.json", lambda folder, model, weights: (folder / "Manifest.json").unlink())
    refused("bad manifest", "Manifest.json is damaged", manifest("{"))
    stored = json.loads((small / "Manifest.json").read_text())
    stored["itemInfoEntries"][stored["rootModelIdentifier"]]["path"] = "../../outside"
    refused("escape", "leads out of", manifest(json.dumps(stored)))
    refused("pipeline", "no ML Program, but identity", lambda f, m, w: m.write_bytes(identity_model(f)))
    with pytest.raises(EdgekitError, match="cannot be kept 'sparse'"):
        Package(small, keep="sparse")


def test_inputs_that_no_function_takes(small: Path) -> None:
    function = Package(str(small)).function()
    name = function.inputs[0].name

    def refused(match: str, value: Any, *, by_name: bool = True) -> None:
        with pytest.raises(EdgekitError, match=match):
            function.predict({name: value} if by_name else value)

    refused("takes its inputs by name, not as ndarray", np.zeros((1, 64)), by_name=False)
    refused("has no input 3", {3: np.zeros((1, 64))}, by_name=False)
    refused("is complex64", np.zeros((1, 64), np.complex64))
    refused("no array of numbers", "cat")
    refused("no array of numbers", [[1.0], [1.0, 2.0]])


def test_whole_numbers_that_do_not_fit_their_type(tmp_path: Path) -> None:
    """2^40 would become 0."""
    model = nn.Embedding(4, 8).eval()
    shape = [ct.TensorType("ids", shape=(1, 2), dtype=np.int32)]
    models.convert(model, (torch.zeros(1, 2, dtype=torch.int32),), tmp_path / "m.mlpackage", inputs=shape)
    function = Package(tmp_path / "m.mlpackage").function()
    assert len(function.predict({"ids": np.array([[0, 3]])})) == 1
    with pytest.raises(EdgekitError, match=r"numbers that int32 cannot hold[\s\S]*0 to 1099511627776"):
        function.predict({"ids": np.array([[0, 2**40]])})


def identity_model(folder: Path) -> bytes:
    message = Package(folder).model
    message.identity.SetInParent()
    found: bytes = message.SerializeToString()
    return found


def test_a_program_that_reads_what_nothing_defines(small: Path, tmp_path: Path) -> None:
    folder, model, _ = damaged(small, tmp_path)
    package = Package(folder)
    (last,) = (part for part in package.block("main").operations if part.type == "linear")
    last.inputs["x"].arguments[0].name = "nowhere"
    model.write_bytes(package.model.SerializeToString())
    with pytest.raises(BundleError, match="reads 'nowhere'"):
        Package(folder).function()
    last.inputs["x"].arguments[0].name = "in0"
    last.inputs["extra"].CopyFrom(last.inputs["x"])
    model.write_bytes(package.model.SerializeToString())
    with pytest.raises(EdgekitError, match=r"has an input 'extra'.*\n.*x, weight, bias"):
        Package(folder).function()
    del last.inputs["extra"], last.inputs["weight"]
    model.write_bytes(package.model.SerializeToString())
    with pytest.raises(BundleError, match="lacks its input weight"):
        Package(folder).function()


def test_weights_are_mapped_not_read(small: Path) -> None:
    """A float16 weight is the file's own memory, and one of several functions reads it once."""
    package = Package(small)
    (step,) = (step for step in package.function().block.steps if step.kind == "linear")
    mapped = package.weights._files["@model_path/weights/weight.bin"]
    start = mapped.__array_interface__["data"][0]
    assert start <= step.fixed["weight"].data_ptr() < start + len(mapped)


def test_coremltools_is_not_imported(small: Path) -> None:
    """Reading a package takes its protobuf files alone; coremltools may be imported afterwards."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom edgekit.formats.coreml.mil import Package\n"
        f"package = Package(Path({str(small)!r}))\npackage.function()\nassert 'coremltools' not in sys.modules\n"
        "import coremltools\nassert coremltools.proto.Model_pb2.Model is type(package.model)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_coremltools(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.formats.coreml.mil import proto

    proto.model_module.cache_clear()
    monkeypatch.delitem(sys.modules, "coremltools.proto")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EdgekitError, match="coremltools is not installed"):
        Package(small)
    proto.model_module.cache_clear()


def test_what_is_inside(decoder: tuple[models.Decoder, Path]) -> None:
    from edgekit.formats.coreml.mil.inspect import inspect

    model, folder = decoder
    facts = inspect(Package(folder))
    assert facts.specification_version == 9 and facts.weight_bytes < facts.size_bytes
    main = facts.functions["main"]
    assert main.operations["slice_update"] == 4 and main.operations["scaled_dot_product_attention"] == 2
    assert main.states["v_1"] == ((1, 2, 24, 8), "fp16") and main.state_bytes == 4 * 2 * 24 * 8 * 2
    matrices = sum(part.numel() for part in model.parameters() if part.dim() == 2)
    assert matrices <= main.parameters <= matrices + 1000  # norms are small enough to be in the program itself
    assert main.bits_per_weight == 16


def test_bits_per_weight_by_hand(tmp_path: Path) -> None:
    from coremltools.optimize import coreml as co

    from edgekit.formats.coreml.mil.inspect import inspect

    model = models.convert(nn.Linear(64, 64, bias=False).eval(), (torch.randn(1, 64),), tmp_path / "m.mlpackage")
    blocks = co.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32, weight_threshold=0
    )
    co.linear_quantize_weights(model, co.OptimizationConfig(blocks)).save(str(tmp_path / "q.mlpackage"))
    main = inspect(Package(tmp_path / "q.mlpackage")).functions["main"]
    assert main.parameters == 64 * 64 + 64  # coremltools writes a bias of zeros, in fp16
    assert main.stored_bytes == 64 * 64 // 2 + 64 * 2 * 2 + 64 * 2
    weight = next(one for one in main.weights if one.shape == (64, 64))
    assert (weight.kind, weight.numbers, 8 * sum(weight.blobs.values()) / weight.numbers) == ("int4", 4096, 4.5)
    assert weight.used_by == (("linear", "weight"),) and main.products == 64 * 64 and main.between_activations == 0
    assert main.bits_per_weight == 8 * 2432 / 4160
    assert main.operations == {"constexpr_blockwise_shift_scale": 1, "linear": 1}
