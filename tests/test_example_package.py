"""Another package's target, runtime, family and device (tests/example_package), found by their entry points and driven
by the commands a person would use."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edgekit import families, registry
from edgekit.bundle import Bundle
from edgekit.cli import build
from edgekit.demo import tiny
from edgekit.demo.tiny import _parts
from edgekit.errors import EdgekitError
from edgekit.runtimes import RUNTIMES, Runtime

PACKAGE = Path(__file__).parent / "example_package"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
cli = CliRunner()


def call(*arguments: str) -> Any:
    """What a command prints as JSON."""
    result = cli.invoke(build(), [*arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package, as pip would leave it, for this process and those it starts."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    about = tmp_path_factory.mktemp("site") / "edgekit_example-1.0.dist-info"
    about.mkdir()
    name, version = project["name"], project["version"]
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        for place in (str(about.parent), str(PACKAGE)):
            patch.syspath_prepend(place)
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        patch.setattr(registry, "_entry_points", cache(registry._entry_points.__wrapped__))
        patch.setattr(families, "_by_model_type", cache(families._by_model_type.__wrapped__))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA with its processor, as the hub's folders are."""
    import torch
    from transformers import LlavaConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llava")
    tokenizer = tiny.make_tokenizer(tiny.BLUEPRINTS.load("llava_onevision").special, [])
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        text_config=_parts.text_fields("llama", tiny.TINY, tokenizer.get_vocab_size()),
        vision_config={"model_type": "clip_vision_model", **tower, "image_size": 42, "patch_size": 14},
        image_token_index=tokenizer.token_to_id("<image>"),
        image_seq_length=9,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = tiny.make_model(config, 32)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = [2], 0
    model.save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    image = {
        **_parts.STEPS, **_parts.CLIP,
        "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
        "size": {"height": 42, "width": 42}, "do_center_crop": False, "resample": 3,
    }  # fmt: skip
    words = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "processor_config.json").write_text(
        json.dumps({**words, "image_token": "<image>", "processor_class": "LlavaProcessor"})
    )
    return folder


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported by the command, in fp32 and in the target's own precision."""
    out = tmp_path_factory.mktemp("bundles")
    asked = ("--target", "example", "--precision", "fp32,e5m2", "--out", str(out))
    cli.invoke(
        build(), ["export", str(checkpoint), *asked]
    )  # exit 3: random weights do not keep the tolerances of trained
    return out


def test_the_lists_know_them() -> None:
    (target,) = [row for row in call("targets") if row["target"] == "example"]
    assert target["precisions"] == ["fp32", "fp16", "e5m2"] and target["ready"] and target["runtimes"] == ["example"]
    (device,) = call("devices", "example://shelf")
    assert device == {"device": "example://shelf", "ready": True, "detail": "a board at shelf"}
    assert "example" in [row["device"] for row in call("devices")]
    rows = {row["name"]: row for row in call("doctor")}
    assert rows["extra example"]["detail"].startswith("safetensors ")
    assert not [name for name in rows if name.endswith((" example", " llava")) and not rows[name]["ready"]]


def test_what_it_exports(bundles: Path) -> None:
    whole, eight = (Bundle.load(bundles / f"example-{name}") for name in ("fp32", "e5m2"))
    assert whole.manifest.family == "llava" and eight.manifest.precision.native.startswith("float8")
    assert whole.manifest.parity is not None and whole.manifest.parity["passed"]
    assert whole.manifest.parity["logits_max_abs"] < 1e-5
    assert eight.manifest.parity is not None and eight.manifest.parity["logits_max_abs"] > 1e-3
    assert eight.manifest.parity["checks"]["top1_agreement"]["bar"] == 0.8
    sizes = [one.manifest.files["weights.safetensors"].bytes for one in (eight, whole)]
    assert sizes[0] < 0.3 * sizes[1]


def test_it_answers_as_the_checkpoint_does(bundles: Path, checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    image = tmp_path / "image.png"
    Image.effect_noise((60, 40), 80).convert("RGB").save(image)
    asked = ("--image", str(image), "--prompt", "what is there?", "--max-new-tokens", "8", "--generation", "greedy")
    ours, theirs = (call("run", str(place), *asked) for place in (bundles / "example-fp32", checkpoint))
    assert ours["runtime"] == "example" and theirs["runtime"] == "pytorch"
    assert ours["token_ids"] == theirs["token_ids"] and ours["token_ids"]
    verified = call("verify", str(bundles / "example-fp32"), "--reference", str(checkpoint), "--samples", "2")
    assert verified["passed"] and verified["runtime"] == "example" and verified["pixel_max_abs"] < 1e-5
    assert verified["checks"]["decoder_snr_db"]["bar"] == 80.0


def test_a_conversation_goes_on_from_its_cache(bundles: Path) -> None:
    from edgekit.inputs.chat import question

    session = RUNTIMES.load("example").open(bundles / "example-fp32", 1)
    prompt = session.prepare(question("is there a circle?", 0), [])
    whole = session.prefill(prompt, None)
    assert session.rewind(3) == 3
    np.testing.assert_allclose(session.prefill(prompt.tail(3, 0), None), whole, rtol=0, atol=1e-5)


def test_it_is_measured_here_and_on_its_board(bundles: Path, tmp_path: Path) -> None:
    asked = (
        "--data",
        "easy-vqa:test",
        "--limit",
        "2",
        "--repetitions",
        "1",
        "--processes",
        "1",
        "--prompt-tokens",
        "4",
    )
    asked = (*asked, "--new-tokens", "2", "--out", str(tmp_path))
    report = call("bench", str(bundles / "example-e5m2"), "--device", "example://shelf?speed=7", *asked)
    here, there = report["rows"][-2:]
    assert (here["device"], here["status"], here["runtime"], here["n"]) == ("host", "ok", "example", 2), here
    assert (there["device"], there["status"]) == ("example://shelf", "ok"), there
    assert there["decode_tokens_per_s"] == 7.0 and any("widened" in note for note in report["notes"])


def test_a_session_that_is_none_is_named(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = Runtime(targets=("example",), open_session=lambda folder, threads: object())  # type: ignore[arg-type]
    with pytest.raises(EdgekitError, match="The runtime for example gave a object, no session") as caught:
        strange.open(bundles / "example-fp32", 1)
    assert "edgekit.runtimes.session.Session" in caught.value.why
    assert RUNTIMES.load("example").open(bundles / "example-fp32", 1).verified_by == "runtime"


def test_a_second_runtime_of_a_target_runs_it_when_it_is_asked_for(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    """Its name comes first in the alphabet, and edgekit's own is the first choice all the same."""
    assert RUNTIMES.names()[0] == "another-onnx" < "onnxruntime"
    asked = ("--prompt", "is there a circle?", "--max-new-tokens", "3")
    usual, other = (call("run", str(tiny_bundle), *asked, *more) for more in ((), ("--runtime", "another-onnx")))
    assert (usual["runtime"], other["runtime"]) == ("onnxruntime", "another-onnx")
    assert usual["token_ids"] == other["token_ids"]
    for name, wanted in (
        ("example", "does not run bundles of target 'onnx'"),
        ("nothing", "Unknown runtime 'nothing'"),
    ):
        refused = cli.invoke(build(), ["run", str(tiny_bundle), *asked, "--runtime", name])
        assert refused.exit_code == 1 and wanted in " ".join(refused.output.split()), refused.output
    refused = cli.invoke(build(), ["run", str(tiny_checkpoint), *asked, "--runtime", "another-onnx"])
    assert "does not run checkpoints" in refused.output and "Those that do: pytorch" in refused.output


@pytest.mark.slow
def test_a_second_runtime_is_verified_and_measured(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(tiny_bundle, bundle)
    more = ("--reference", str(tiny_checkpoint), "--runtime", "another-onnx")
    verified = call("verify", str(bundle), "--samples", "2", *more)
    assert verified["passed"] and verified["runtime"] == "another-onnx"
    counts = ("--limit", "2", "--repetitions", "0", "--processes", "1")
    report = call("bench", str(bundle), "--data", "easy-vqa:test", *counts, "--out", str(tmp_path / "r"), *more)
    assert [(row["runtime"], row["status"]) for row in report["rows"]] == [("pytorch", "ok"), ("another-onnx", "ok")]
