"""No memory, a recursion without end and logits of a wrong shape are messages and rows, not tracebacks."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tracing import traced_once
from typer.testing import CliRunner

from edgekit import api
from edgekit.cli import build
from edgekit.errors import BundleError, EdgekitError
from edgekit.runtimes._bundled import last_logits
from edgekit.runtimes.generate import exhausted
from edgekit.runtimes.onnxruntime import OnnxSession
from edgekit.runtimes.worker import Job, Worker, _done


def endless() -> None:
    endless()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        Exception(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 8"
        ),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_no_memory(
    error: Exception, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_out(*_: Any) -> None:
        raise error

    monkeypatch.setattr(OnnxSession, "run_decoder", run_out)
    done = CliRunner().invoke(build(), ["run", str(tiny_bundle), "--prompt", "q"])
    assert done.exit_code == 1 and "The memory ran out: cannot answer" in done.stderr
    worker = Worker(Job("onnxruntime", str(tiny_bundle), 1))
    worker.load()
    reply = _done(worker.answer, {"prompt": "q", "images": [], "max_new_tokens": 2, "generation": "model"})
    assert "The memory ran out" in reply["error"]


def test_no_end(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxSession, "embed", lambda *_: endless())
    with pytest.raises(EdgekitError, match="called itself without end"):
        api.run(tiny_bundle, "q")
    with pytest.raises(EdgekitError, match="called itself without end"):
        api.chat(tiny_bundle)("q")


def test_a_bug_is_left_to_crash() -> None:
    with pytest.raises(ValueError, match="memory"), exhausted("x"):
        raise ValueError("a memory of old days")


@pytest.mark.parametrize("shape", [(), (0,), (1, 5), (1, 1, 0)])
def test_logits_of_a_wrong_shape(shape: tuple[int, ...], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxSession, "run_decoder", lambda *_: np.zeros(shape, np.float32))
    with pytest.raises(EdgekitError, match="logits of shape"):
        api.run(tiny_bundle, "q")


def test_a_decoders_output() -> None:
    output = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert last_logits(output, 4).tolist() == [8, 9, 10, 11]
    for wrong in (output, output[0], output[0, 0], np.float32(3), output[:, :0]):
        with pytest.raises(BundleError, match=r"\(1, T, 5\)"):
            last_logits(wrong, 5)


def test_entries_of_the_tokenizer_without_a_row_are_no_trouble(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A tokenizer that grew while its model did not answers as before, on PyTorch and as a bundle."""
    from exporting import export_checkpoint
    from PIL import Image
    from transformers import AutoTokenizer

    grown = tmp_path / "grown"
    shutil.copytree(tiny_checkpoint, grown)
    tokenizer = AutoTokenizer.from_pretrained(grown)
    tokenizer.add_tokens([f"<extra {number}>" for number in range(9)])
    tokenizer.save_pretrained(grown)
    image = Image.new("RGB", (40, 40), (200, 30, 30))
    with traced_once(tiny_checkpoint):
        bundle = export_checkpoint(grown, "onnx", "fp32", tmp_path / "bundle", prompts=2)
    said = [
        api.run(place, prompt="what is there?", images=image, max_new_tokens=4).token_ids
        for place in (tiny_checkpoint, grown, bundle.folder)
    ]
    assert said[0] == said[1] == said[2] and len(said[0]) == 4
