"""GGUF files in the hands of programs nobody here wrote: gguf's dump, llama-cpp-python's server, @huggingface/gguf."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint

from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.data import Sample, samples
from edgekit.export.bundling import drawn_samples
from edgekit.formats.gguf.library import MARKER
from edgekit.inputs.chat import render
from edgekit.inputs.images import as_rgb
from edgekit.inputs.processor import Processor
from edgekit.runtimes import RUNTIMES

pytest.importorskip("gguf", reason="the extra gguf is not installed")
if find_spec("llama_cpp") is None:
    pytest.skip("llama-cpp-python is not installed", allow_module_level=True)
PACKAGE = "@huggingface/gguf@0.4"
SCRIPT = """
import { gguf } from '@huggingface/gguf';
const found = {};
for (const path of process.argv.slice(2)) {
  const { metadata, tensorInfos } = await gguf(path, { allowLocalFile: true });
  const plain = Object.fromEntries(Object.entries(metadata).filter(([, value]) => !Array.isArray(value)));
  found[path] = { metadata: plain, tensors: tensorInfos.length, arrays: Object.keys(metadata).length };
}
console.log(JSON.stringify(found, (_, value) => typeof value === 'bigint' ? Number(value) : value));
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo's student, Q8_0."""
    folder = tmp_path_factory.mktemp("demo") / "gguf-int8"
    return export_checkpoint(resolve_checkpoint("demo:student"), "gguf", "int8", folder, samples=drawn_samples(1))


def files_of(bundle: Bundle) -> tuple[Path, Path]:
    """The text model and the mmproj."""
    vision = next(part.file for name, part in bundle.manifest.components.items() if name.startswith("vision"))
    return bundle.path(bundle.manifest.components["text_decoder"].file), bundle.path(vision)


def as_llama_cpp(bundle: Bundle, asked: list[Sample], template: Callable[[Sample], str]) -> list[str]:
    """Greedy answers where llama.cpp itself cuts words and images of a rendered prompt."""
    session: Any = RUNTIMES.load("llamacpp").open_session(bundle.folder, 1)
    said = []
    try:
        for sample in asked:
            images = [np.ascontiguousarray(np.asarray(as_rgb(image.open()))) for image in sample.images]
            _, logits = session.own_logits(template(sample), images)
            tokens = [int(logits.argmax())]
            while tokens[-1] not in session.eos_token_ids and len(tokens) < 8:
                tokens.append(int(session.decode_step(tokens[-1]).argmax()))
            said.append(session.decode_text(tokens).strip())
    finally:
        session.close()
    return said


def test_the_dump_of_gguf_reads_both_files(bundle: Bundle) -> None:
    for path, architecture in zip(files_of(bundle), ("llama", "clip"), strict=True):
        command = [sys.executable, "-m", "gguf.scripts.gguf_dump", "--json", str(path)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found = json.loads(ran.stdout)
        assert found["metadata"]["general.architecture"]["value"] == architecture
        assert found["metadata"]["general.quantized_by"]["value"] == "edgekit"
        assert all(tensor["type"] in ("F32", "F16", "Q8_0") for tensor in found["tensors"].values())


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[str]:
    """The address of llama-cpp-python's server on loopback, with the demo's files."""
    for package in ("sse_starlette", "starlette_context", "pydantic_settings", "uvicorn", "fastapi"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'llama-cpp-python[server]'")
    text, vision = files_of(bundle)
    command = [
        sys.executable, "-m", "llama_cpp.server", "--model", str(text), "--clip_model_path", str(vision),
        "--chat_format", "mtmd", "--host", "127.0.0.1", "--port", "0", "--n_ctx", "2048", "--n_threads", "1",
        "--verbose", "false",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if "running on " in line:
                    # A pipe that nobody empties would stop it.
                    threading.Thread(target=process.stderr.read, daemon=True).start()
                    yield line.split("running on ")[1].split()[0]
                    return
            pytest.fail("the server ended:\n" + "".join(lines[-8:]))
        finally:
            process.terminate()


@pytest.mark.slow
def test_the_server_answers_questions_on_images(bundle: Bundle, server: str) -> None:
    from openai import OpenAI

    asked = list(samples("easy-vqa:test", limit=12))
    client = OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=120)
    said = []
    for sample in asked:
        assert sample.images[0].path is not None
        image = base64.b64encode(sample.images[0].path.read_bytes()).decode()
        content: Any = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
            {"type": "text", "text": sample.text},
        ]
        reply = client.chat.completions.create(
            model="student", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=8
        )
        said.append((reply.choices[0].message.content or "").strip())
    processor = Processor.load(bundle.folder)

    def template(sample: Sample) -> str:  # that server's handler shows the template an image as a piece of text
        shown = [{"role": "user", "content": [{"type": "text", "text": MARKER}, {"type": "text", "text": sample.text}]}]
        return render(processor.template, shown, processor.special)  # type: ignore[arg-type]

    assert said == as_llama_cpp(bundle, asked, template)
    assert sum(a == sample.answer for a, sample in zip(said, asked, strict=True)) >= 10


@pytest.mark.slow
def test_a_reader_in_javascript(bundle: Bundle, tmp_path: Path) -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("Node.js with npm is not installed")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    installed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install {PACKAGE}: {installed.stderr.strip().splitlines()[-1]}")
    (tmp_path / "read.mjs").write_text(SCRIPT)
    text, vision = files_of(bundle)
    ran = subprocess.run(
        ["node", "read.mjs", str(text), str(vision)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    import gguf

    for path, found in json.loads(ran.stdout).items():
        reader = gguf.GGUFReader(path)
        fields = {key: reader.get_field(key) for key in found["metadata"]}
        known = {key: field.contents() for key, field in fields.items() if field is not None}
        assert found["tensors"] == len(reader.tensors) and len(known) > 15
        assert {key: found["metadata"][key] for key in known} == pytest.approx(known)
