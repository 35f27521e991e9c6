"""A bundle in the hands of a program nobody here wrote: transformers.js on Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exporting import export_checkpoint
from PIL import Image

from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.data import samples
from edgekit.inputs.chat import question
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.generate import answer

PACKAGE = "@huggingface/transformers@4"
SCRIPT = """
import { AutoProcessor, AutoModelForImageTextToText, RawImage, env } from '@huggingface/transformers';
import fs from 'fs';
env.allowRemoteModels = false;
env.localModelPath = process.argv[2];
const dtype = process.argv[3];
const processor = await AutoProcessor.from_pretrained(dtype);
const model = await AutoModelForImageTextToText.from_pretrained(dtype, { dtype, device: 'cpu' });
const said = [], tokens = [];
for (const { question, image } of JSON.parse(fs.readFileSync('questions.json'))) {
  const messages = [{ role: 'user', content: [{ type: 'image' }, { type: 'text', text: question }] }];
  const text = processor.apply_chat_template(messages, { add_generation_prompt: true });
  const inputs = await processor(text, [await RawImage.read(image)], {});
  const out = await model.generate({ ...inputs, max_new_tokens: 8, do_sample: false });
  const fresh = out.slice(null, [inputs.input_ids.dims.at(-1), null]);
  tokens.push(Array.from(fresh.data, Number));
  said.push(processor.batch_decode(fresh, { skip_special_tokens: true })[0].trim());
}
fs.writeFileSync('said.json', JSON.stringify({ said, tokens }));
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with transformers.js installed."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("Node.js with npm is not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"type": "module"}')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install {PACKAGE}: {installed.stderr.strip().splitlines()[-1]}")
    (folder / "ask.mjs").write_text(SCRIPT)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8"), ("int4", "q4")])
def test_a_bundle_answers_there_as_here(node: Path, precision: str, dtype: str) -> None:
    questions = list(samples("easy-vqa:test", limit=24))
    bundle = export_checkpoint(resolve_checkpoint("demo:student"), "onnx", precision, node / "models" / dtype)
    session = RUNTIMES.load("onnxruntime").open_session(bundle.folder, 1)
    ours = [answer(session, q.messages, [image.open() for image in q.images], max_new_tokens=8).text for q in questions]
    asked = [{"question": q.text, "image": str(q.images[0].path)} for q in questions]
    (node / "questions.json").write_text(json.dumps(asked))
    command = ["node", "ask.mjs", str(node / "models"), dtype]
    ran = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads((node / "said.json").read_text())["said"] == ours
    assert len(set(ours)) > 3  # answers that differ, or the comparison would prove little


@pytest.mark.slow
def test_qwen2_5_vl_answers_there_as_here(node: Path, tiny_of: Callable[..., Path]) -> None:
    """Token by token, on images of the bundle's one size: M-RoPE's positions are that program's own.

    It gives the vision graph an image's grid too, and says that it is ignored.
    """
    size, rng = (112, 84), np.random.default_rng(0)
    bundle = export_checkpoint(tiny_of("qwen2_5_vl"), "onnx", "fp32", node / "qwen" / "fp32", sizes=[size])
    asked = []
    for number in range(8):
        path = node / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(size, 0).save(path)
        asked.append({"question": ("what is there?", "yes no", "blue?")[number % 3], "image": str(path)})
    session = RUNTIMES.load("onnxruntime").open_session(bundle.folder, 1)
    ours = [
        answer(session, question(one["question"]), [Image.open(one["image"])], max_new_tokens=8).token_ids
        for one in asked
    ]
    (node / "questions.json").write_text(json.dumps(asked))
    command = ["node", "ask.mjs", str(node / "qwen"), "fp32"]
    ran = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads((node / "said.json").read_text())["tokens"] == ours
    assert len(set(map(tuple, ours))) > 4
