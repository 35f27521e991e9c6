"""The commands in Hugging Face optimum's own program."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tracing import traced_once

from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import checkpoint_hash
from edgekit.export import TARGETS

TASK = "image-text-to-text"
ROOT = Path(__file__).parent.parent.parent


def optimum_cli(*given: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """`optimum-cli ...`, as its entry point runs it."""
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", *given]
    inherited = [part for part in (path, os.environ.get("PYTHONPATH", "")) if part]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(inherited), "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path entry that has the commands where an installed edgekit has them; nothing where it is installed."""
    if find_spec("optimum") is None:
        pytest.skip("optimum is not installed: pip install 'edgekit[optimum]'")
    if find_spec("optimum.commands.register") is not None:
        return ""
    site = tmp_path_factory.mktemp("site")
    (site / "optimum" / "commands").mkdir(parents=True)
    (site / "optimum" / "commands" / "register").symlink_to(ROOT / "edgekit" / "optimum_register")
    return str(site)


def test_every_target_is_a_command(registered: str) -> None:
    shown = optimum_cli("export", "--help", path=registered)
    assert shown.returncode == 0
    for target in TARGETS.names():
        assert f"{target}-vlm" in shown.stdout
    options = optimum_cli("export", "onnx-vlm", "--help", path=registered).stdout
    assert all(word in options for word in ("--model", "--precision", "--image-size", "output"))


def test_it_makes_a_bundle(
    registered: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, where graphs are traced already; the other tests start optimum's program."""
    from optimum.commands.optimum_cli import main

    if registered:
        pytest.skip("edgekit is not installed beside optimum: pip install -e .")
    out = tmp_path / "made here"
    given = ["export", "onnx-vlm", "--model", str(tiny_checkpoint), str(out), "--samples", "4"]
    monkeypatch.setattr(sys, "argv", ["optimum-cli", *given])
    with traced_once(tiny_checkpoint), pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    bundle = Bundle.load(out)
    assert bundle.manifest.target == "onnx" and bundle.manifest.precision.common == "fp32"
    assert bundle.manifest.student_sha256 == checkpoint_hash(tiny_checkpoint)
    assert "PASS  on 4 prompts" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_wrong_is_said_without_a_traceback(registered: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    cases = (
        (("--model", str(tmp_path / "no"), str(tmp_path / "out")), "No model at"),
        (("--model", str(tiny_checkpoint), str(tmp_path / "out"), "--precision", "int3"), "has no precision 'int3'"),
        (("--model", str(tiny_checkpoint), str(tmp_path / "out"), "--image-size", "64"), "no image size"),
    )
    for given, message in cases:
        done = optimum_cli("export", "onnx-vlm", *given, path=registered)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    # Another task, named or inferred by optimum.
    other = tmp_path / "llama"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    for given in (("--model", str(other)), ("--model", str(tiny_checkpoint), "--task", "text-generation")):
        done = optimum_cli("export", "onnx-vlm", *given, str(tmp_path / "out"), path=registered)
        assert done.returncode == 1 and "is for text-generation" in done.stderr and "Traceback" not in done.stderr
    # A target whose packages are not there.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['onnxscript'] = None")
    path = os.pathsep.join(part for part in (str(tmp_path), registered) if part)
    done = optimum_cli("export", "onnx-vlm", "--model", str(tiny_checkpoint), str(tmp_path / "out"), path=path)
    assert done.returncode == 1 and "onnxscript is not installed" in done.stderr and "edgekit[onnx]" in done.stderr
    assert not (tmp_path / "out").exists() and "Traceback" not in done.stderr


def test_a_bundle_takes_optimums_dummy_inputs(tiny_bundle: Path) -> None:
    """Inputs that optimum makes by a convention's names alone, from its normalised configuration, fit the graphs."""
    pytest.importorskip("optimum", reason="optimum is not installed: pip install 'edgekit[optimum]'")
    import numpy as np
    import onnxruntime
    from optimum.utils import NormalizedTextAndVisionConfig
    from optimum.utils.input_generators import (
        DummyTextInputGenerator,
        DummyVisionInputGenerator,
        MistralDummyPastKeyValuesGenerator,
    )
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny_bundle)
    both = NormalizedTextAndVisionConfig.with_args(text_config="text_config", vision_config="vision_config")(config)
    text = NormalizedTextAndVisionConfig.with_args(
        num_layers="num_hidden_layers", num_key_value_heads="num_key_value_heads", allow_new=True
    )(config.text_config)
    batch, past, new = 2, 3, 1  # the decoder takes several tokens behind a past for one prompt at a time
    size = {"batch_size": batch, "sequence_length": new}
    words = DummyTextInputGenerator(TASK, both, **size)
    cache = MistralDummyPastKeyValuesGenerator(TASK, text, batch_size=batch, sequence_length=past)
    images = DummyVisionInputGenerator(TASK, both, batch_size=batch)
    paths = {name: tiny_bundle / part.file for name, part in Bundle.load(tiny_bundle).manifest.components.items()}
    run = {name: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for name, path in paths.items()}

    ids = words.generate("input_ids").numpy()
    embeds = run["token_embedding"].run(None, {"input_ids": ids})[0]
    assert embeds.shape == (batch, new, text.hidden_size)
    pixels = images.generate("pixel_values").numpy()
    features = run["vision_encoder"].run(None, {"pixel_values": pixels[:, None]})[0]
    assert features.shape[0] == batch and features.shape[-1] == text.hidden_size
    feeds = {"inputs_embeds": embeds, "attention_mask": np.ones((batch, past + new), dtype=np.int64)}
    for layer, (key, value) in enumerate(cache.generate("past_key_values")):
        feeds |= {f"past_key_values.{layer}.key": key.numpy(), f"past_key_values.{layer}.value": value.numpy()}
    logits, *present = run["text_decoder"].run(None, feeds)
    assert logits.shape == (batch, new, both.vocab_size) and np.isfinite(logits).all()
    assert len(present) == 2 * text.num_layers and present[0].shape[2] == past + new


def test_edgekit_needs_no_optimum() -> None:
    code = (
        "import sys; sys.modules['optimum'] = None\n"
        "import edgekit.optimum_register.edgekit_vlm as module\n"
        "try:\n    module.REGISTER_COMMANDS\nexcept ImportError:\n    print('asked for')\n"
        "assert not hasattr(module, 'anything')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "asked for\n", done.stderr
