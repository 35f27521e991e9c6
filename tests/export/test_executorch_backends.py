"""ExecuTorch's back-ends: what is lowered, what is left outside, and that nothing pretends to have run."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from exporting import export_checkpoint

from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.errors import BundleError, EdgekitError, MissingExtraError, NotHereError, UnsupportedError
from edgekit.export import _executorch_backend, executorch
from edgekit.formats.executorch import coreml_delegate
from edgekit.formats.executorch.delegates import BACKENDS, backend_of, check_here, handed_over, told
from edgekit.formats.inspecting import inspect
from edgekit.manifest import NOT_RUN
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.verify import verify_bundle

needs_executorch = pytest.mark.skipif(
    find_spec("executorch") is None or find_spec("torchao") is None,
    reason="executorch is not installed: pip install 'edgekit[executorch]'",
)


# --------------------------------------------------------------------------------------------------- without a program


def call(kind: str, **fields: int) -> SimpleNamespace:
    return SimpleNamespace(instr_args=type(kind, (SimpleNamespace,), {})(**fields))


def test_what_is_handed_over_is_counted_by_call() -> None:
    """By hand: two calls of one delegate, three kernels of two operators, and a method that only says a number."""
    chain = SimpleNamespace(
        instructions=[
            call("DelegateCall", delegate_index=0),
            call("KernelCall", op_index=1),
            call("KernelCall", op_index=0),
            call("KernelCall", op_index=1),
            call("DelegateCall", delegate_index=0),
            call("FreeCall"),
        ]
    )
    delegates = [SimpleNamespace(id="VulkanBackend")]
    operators = [SimpleNamespace(name="aten::mul"), SimpleNamespace(name="aten::embedding")]
    plans = [
        SimpleNamespace(name="text_decoder", chains=[chain], delegates=delegates, operators=operators),
        SimpleNamespace(name="get_bos_id", chains=[], delegates=[], operators=[]),
    ]
    assert handed_over(plans) == {
        "text_decoder": {"delegates": {"VulkanBackend": 2}, "left": {"aten::embedding": 2, "aten::mul": 1}}
    }
    first, second = told("vulkan", handed_over(plans))
    assert first == "text_decoder: 2 calls to vulkan, left outside: aten::embedding 2, aten::mul 1"
    assert "not counted" in second
    assert told("xnnpack", {"vision_encoder": {"delegates": {"XnnpackBackend": 1}, "left": {}}}) == (
        "vision_encoder: 1 call to xnnpack, left outside: nothing",
    )


def test_a_backend_that_is_not_here() -> None:
    check_here("xnnpack", ["XnnpackBackend"])
    with pytest.raises(NotHereError, match="'vulkan', which is not in the ExecuTorch of this machine") as caught:
        check_here("vulkan", ["XnnpackBackend"])
    assert "It was lowered, and not run" in str(caught.value)
    assert "EXECUTORCH_BUILD_VULKAN" in str(caught.value) and "--option backend=xnnpack" in str(caught.value)
    assert backend_of({}) == "xnnpack"  # bundles from before
    for wrong in ("cuda", None, ["vulkan"]):
        with pytest.raises(EdgekitError, match="is not known"):
            backend_of({"backend": wrong})


@pytest.mark.parametrize("name", ["vulkan", "coreml", "mlx"])
def test_a_precision_that_is_not_lowered(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"'{name}' is not lowered in int8-static") as caught:
        executorch.plan("int8-static", {"backend": name})
    assert "XNNPACK's own quantiser" in str(caught.value)
    assert set(executorch.BACKENDS) == set(BACKENDS)


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_executorch_backend, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="lower for ExecuTorch's back-end 'coreml' here: coremltools is not"):
        executorch.plan("fp32", {"backend": "coreml"})


def test_an_unknown_backend(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="backend=cuda: no such choice") as caught:
        export_checkpoint(tiny_checkpoint, "executorch", "fp32", tmp_path / "b", options={"backend": "cuda"})
    assert "xnnpack, vulkan, coreml, mlx" in str(caught.value) and list(tmp_path.iterdir()) == []


def test_convolutions_are_not_lowered_for_all(tiny_of: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="back-end 'vulkan' cannot hold this model"):
        export_checkpoint(tiny_of("lfm2_vl"), "executorch", "fp32", tmp_path / "b", options={"backend": "vulkan"})
    assert list(tmp_path.iterdir()) == []


def file_system(files: dict[str, tuple[int, bytes]], name: str = "model.bin", size: int | None = None) -> bytes:
    """As a Core ML delegate holds it, one folder deep: bytes, then JSON written backwards."""
    data = b"".join(content for _, content in files.values())
    rows: list[dict[str, Any]] = []
    for start, content in files.values():
        place = {"offset": start, "size": len(content) if size is None else size}
        rows.append({"children": {}, "kind": 0, "name": name, "dataRegion": place})
    rows.append({"children": {name: 0}, "kind": 1, "name": "root", "dataRegion": {"offset": 0, "size": 0}})
    return data + json.dumps({"nodes": rows}).encode()[::-1]


def test_a_delegates_files(tmp_path: Path) -> None:
    coreml_delegate.unpack(file_system({"a": (0, b"abc}")}), tmp_path)
    assert (tmp_path / "model.bin").read_bytes() == b"abc}"


@pytest.mark.parametrize("name", ["../out", "/out", "..", "a\0b", "x/y"])
def test_a_delegates_file_outside(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(BundleError):
        coreml_delegate.unpack(file_system({"a": (0, b"abc")}, name), tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"] and not any((tmp_path / "in").iterdir())


def test_files_that_share_a_delegates_bytes(tmp_path: Path) -> None:
    """A hundred thousand names of the same megabyte would be 100 GB on disk."""
    place = {"children": {}, "kind": 0, "dataRegion": {"offset": 0, "size": 900}}
    root = {"children": {str(n): n for n in range(9)}, "kind": 1, "dataRegion": {"offset": 0, "size": 0}}
    data = bytes(1000) + json.dumps({"nodes": [place] * 9 + [root]}).encode()[::-1]
    with pytest.raises(BundleError, match="larger than itself"):
        coreml_delegate.unpack(data, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("size", [-1, 10**9])
def test_a_delegates_file_that_does_not_lie_in_it(size: int, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not lie in it"):
        coreml_delegate.unpack(file_system({"a": (0, b"abc")}, size=size), tmp_path)


# ------------------------------------------------------------------------------------------------------------- lowered


REST = pytest.mark.matrix  # CI lowers each back-end in a precision of few bits, and Core ML's in fp32


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8", pytest.param("int4", marks=REST)])
def test_core_ml_inside_a_program_answers_as_pytorch(precision: str, tmp_path: Path) -> None:
    """The package is taken out of the .pte and run by the evaluator: a trained model, and its own tolerances."""
    if find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed: pip install 'edgekit[coreml]'")
    student = resolve_checkpoint("demo:student")
    bundle = export_checkpoint(
        student, "executorch", precision, tmp_path / "b", prompts=8, options={"backend": "coreml"}
    )
    parity, details = bundle.manifest.parity, bundle.manifest.details
    assert parity is not None and parity["verified_by"] == "evaluator" and parity["greedy_identical"] == 1.0
    # Core ML's states are float16, and so is this cache: in fp32 that is above the tolerance of 1e-4, and is told.
    assert (parity["logits_max_abs"] < 5e-4 and not parity["passed"]) if precision == "fp32" else parity["passed"]
    assert details["backend"] == "coreml"
    for name in ("vision_encoder", "text_decoder"):
        assert details["methods"][name] == {"delegates": {"CoreMLBackend": 1}, "left": {}}
    found = verify_bundle(bundle.folder, student, None, 4)
    assert found["verified_by"] == "evaluator" and found["greedy_identical"] == 1.0
    assert any("text_decoder: 1 call to coreml, left outside: nothing" in note for note in inspect(bundle.folder).notes)


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision", "left"),
    [
        pytest.param("vulkan", "fp32", {}, marks=REST), pytest.param("vulkan", "int8", {}, marks=REST),
        ("vulkan", "int4", {}), pytest.param("mlx", "fp32", {"aten::convolution": 1}, marks=REST),
        pytest.param("mlx", "int8", {"aten::convolution": 1}, marks=REST), ("mlx", "int4", {"aten::convolution": 1}),
    ],
)  # fmt: skip
def test_lowered_and_not_run(
    backend: str, precision: str, left: dict[str, int], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    bundle = export_checkpoint(
        tiny_checkpoint, "executorch", precision, tmp_path / "b", prompts=2, options={"backend": backend}
    )
    parity, methods = bundle.manifest.parity, bundle.manifest.details["methods"]
    assert parity is not None and parity["verified_by"] == NOT_RUN and parity["passed"] is None
    assert "greedy_identical" not in parity
    delegate = BACKENDS[backend].delegate
    assert methods["text_decoder"] == {"delegates": {delegate: 1}, "left": {}}
    assert methods["vision_encoder"] == {"delegates": {delegate: 1}, "left": left}
    refused_by_name(bundle, backend, tiny_checkpoint)


def refused_by_name(bundle: Bundle, backend: str, checkpoint: Path) -> None:
    for asked in (
        lambda: RUNTIMES.load("executorch").open_session(bundle.folder, 1),
        lambda: verify_bundle(bundle.folder, checkpoint, None, 2),
    ):
        with pytest.raises(NotHereError, match=f"'{backend}', which is not in the ExecuTorch of this machine"):
            asked()
    notes = inspect(bundle.folder).notes
    assert any(f"1 call to {backend}" in note for note in notes) and not any("XNNPACK" in note for note in notes)
    command = [sys.executable, "-m", "edgekit", "run", str(bundle.folder), "--prompt", "what?"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 1 and not ran.stdout and "Traceback" not in ran.stderr
    assert "It was lowered, and not run" in ran.stderr
