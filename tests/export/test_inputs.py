"""What feeds a bundle is the checkpoint's own, and an export says FAIL where it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from exporting import export_checkpoint
from PIL import Image
from tracing import traced_once

from edgekit.export._inputs import with_inputs
from edgekit.families import idefics3
from edgekit.inputs.chat import question
from edgekit.inputs.official import load_processor, official_inputs
from edgekit.runtimes.verify import verify_bundle

STALE = "{{ raise_exception('nobody asks this one') }}"


def contradictory(checkpoint: Path, out: Path) -> Path:
    """A checkpoint that says everything twice, the wrong one where a simple reader looks."""
    folder = Path(shutil.copytree(checkpoint, out))
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": (folder / "chat_template.jinja").read_text()})
    )
    (folder / "chat_template.jinja").write_text(STALE)
    images = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**images, "do_image_splitting": True}))
    given = json.loads((folder / "processor_config.json").read_text())
    nested = {**images, "size": {"height": 50, "width": 90}, "rescale_factor": 1 / 100}
    (folder / "processor_config.json").write_text(json.dumps({**given, "image_processor": nested}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["rstrip"] = token["content"] == "<end_of_utterance>"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_a_bundle_of_a_checkpoint_that_says_everything_twice(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = contradictory(tiny_checkpoint, tmp_path / "m")
    with traced_once(tiny_checkpoint):
        bundle = export_checkpoint(folder, "onnx", "fp32", tmp_path / "b")
    parity: Any = bundle.manifest.parity
    assert parity["passed"], parity["checks"]
    assert parity["prompt_ids_equal"] == 1 and parity["pixel_max_abs"] == 0 and parity["pixels_by"] == "transformers"
    assert parity["inputs"] == 32 + parity["odd_pictures"] + 2
    assert {"prompt_ids_equal", "pixel_max_abs"} <= parity["checks"].keys()
    assert bundle.manifest.text.chat_template == "chat_template.jinja"
    for name in ("chat_template.json", "card.json"):
        assert not (bundle.folder / name).exists()
    assert (bundle.folder / "chat_template.jinja").read_text() != STALE
    assert "image_processor" not in json.loads((bundle.folder / "processor_config.json").read_text())
    result = verify_bundle(bundle.folder, folder, None, 4)
    assert result["passed"] and result["prompt_ids_equal"] == 1 and result["pixel_max_abs"] == 0, result["checks"]
    # Whoever reads the bundle with transformers sees the same too.
    image = Image.new("RGB", (80, 60), (9, 99, 199))
    one, other = (official_inputs(load_processor(place), question("q"), [image]) for place in (folder, bundle.folder))
    assert all((one[name] == other[name]).all() for name in ("input_ids", "pixel_values"))


def test_a_mistake_of_edgekits_own_never_passes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong factor, the same on both sides of the comparison of modules."""
    whole = idefics3.normalise
    monkeypatch.setattr(
        idefics3, "normalise", lambda pixels, params: whole(pixels, {**params, "rescale_factor": 1 / 256})
    )
    with traced_once(tiny_checkpoint):
        parity: Any = export_checkpoint(tiny_checkpoint, "onnx", "fp32", tmp_path / "b", prompts=2).manifest.parity
    assert not parity["passed"]
    assert [name for name, check in parity["checks"].items() if not check["held"]] == ["pixel_max_abs"]


@pytest.mark.parametrize(
    ("ids", "pixels", "by", "passed"),
    [
        (1.0, 0.0, "transformers", True),
        (0.99, 0.0, "transformers", False),
        (1.0, 0.1, "transformers", False),
        (1.0, None, "transformers", False),
        (1.0, 0.1, "edgekit", True),
        (0.5, 0.1, "edgekit", False),
    ],
)
def test_passing_takes_equal_inputs(ids: float, pixels: float | None, by: str, passed: bool) -> None:
    figures = {"inputs": 9, "odd_pictures": 7, "prompt_ids_equal": ids, "pixel_max_abs": pixels, "pixels_by": by}
    good = {"value": 0.0, "bar": 1.0, "held": True}
    found = with_inputs({"checks": {"logits_max_abs": good}, "passed": True}, figures)
    assert found["passed"] is passed and found["checks"]["logits_max_abs"] == good
    assert found["pixel_max_abs"] == (None if by == "edgekit" else pixels)
    assert not with_inputs({"checks": {"logits_max_abs": {**good, "held": False}}, "passed": False}, figures)["passed"]


def test_the_command_line_says_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit.commands.export import _print_inputs

    held, missed = ({"value": 0.0, "bar": 1.0, "held": one} for one in (True, False))
    _print_inputs({"checks": {"logits_max_abs": missed}})  # a manifest from before there were such checks
    _print_inputs({"checks": {"prompt_ids_equal": held}})  # no pixels to compare with
    assert capsys.readouterr().out == ""
    figures = {"inputs": 45, "prompt_ids_equal": 0.98, "pixel_max_abs": None}
    _print_inputs({**figures, "checks": {"prompt_ids_equal": missed, "pixel_max_abs": missed}})
    told = capsys.readouterr().out
    assert "not fed as transformers feeds the checkpoint, on 45 prompts: ids equal 98.0%, pixels not finite" in told
