"""Granite-docling and SmolDocling are of Idefics3's class: a folder as theirs is laid out loads, and exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from exporting import export_checkpoint
from PIL import Image

from edgekit.api import ladder
from edgekit.demo import tiny
from edgekit.demo.tiny import smolvlm
from edgekit.errors import CheckpointError
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor

ROLES = ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")
# One role and one part after the other; the answer's role has no end. No system turn, as the hub's folder has none.
TEMPLATE = (
    "{%- for message in messages -%}{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' -}}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{- part['text'] -}}"
    "{%- elif part['type'] == 'image' -%}{{- '<image>' -}}{%- endif -%}{%- endfor -%}{{- '<|end_of_text|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Idefics3's names in every file, the template in a file of its own, another token that ends a turn."""
    made = tmp_path_factory.mktemp("granite-docling")
    blueprint = tiny.BLUEPRINTS.load("smolvlm")
    with pytest.MonkeyPatch.context() as patched:
        kinds: dict[str, Any] = {**vars(blueprint), "special": (*blueprint.special, *ROLES), "end": ROLES[2]}
        patched.setattr(smolvlm, "BLUEPRINT", tiny.Blueprint(**kinds))
        tiny.write_checkpoint("smolvlm", made, seed=0)
    for path in made.glob("*.json"):
        if path.name != "tokenizer.json":
            path.write_text(path.read_text().replace("SmolVLM", "Idefics3").replace('"smolvlm', '"idefics3'))
    settings = made / "tokenizer_config.json"
    given = json.loads(settings.read_text())
    given.pop("chat_template", None)
    settings.write_text(json.dumps(given))
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


def test_it_stands_on_the_rungs_of_a_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "idefics3" and config["architectures"] == ["Idefics3ForConditionalGeneration"]
    assert ladder.names(str(folder)) == "" and ladder.inputs(str(folder)) == "" and ladder.modules(str(folder)) == ""
    processor = Processor.load(folder)
    text = processor.tokenizer.decode(
        processor.encode(question("Convert this page to docling."), [Image.new("RGB", (60, 40))]).ids[0].tolist(),
        skip_special_tokens=False,
    )
    assert text.startswith("<|start_of_role|>user<|end_of_role|><fake_token_around_image>")
    assert text.endswith("docling.<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>")


def test_its_bundle_answers_as_it_does(folder: Path, tmp_path: Path) -> None:
    parity = export_checkpoint(folder, "onnx", "fp32", tmp_path / "b").manifest.parity
    assert parity is not None and parity["greedy_identical"] == 1.0 and parity["logits_max_abs"] < 1e-4


def test_newer_ones_are_another_model(tmp_path: Path) -> None:
    """granite-for-docling: deepstack, a router and Granite's multipliers."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "granite_docling"}))
    with pytest.raises(CheckpointError, match="'granite_docling'"):
        ladder.names(str(tmp_path))
