"""The commands in Hugging Face optimum's own program."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgekit.bundle import Bundle
from edgekit.checkpoint import checkpoint_hash
from edgekit.export import TARGETS

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


def test_it_makes_a_bundle(registered: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "made here"
    done = optimum_cli(
        "export", "onnx-vlm", "--model", str(tiny_checkpoint), str(out), "--samples", "4", path=registered
    )
    assert done.returncode == 0, done.stderr
    bundle = Bundle.load(out)
    assert bundle.manifest.target == "onnx" and bundle.manifest.precision.common == "fp32"
    assert bundle.manifest.student_sha256 == checkpoint_hash(tiny_checkpoint) and "PASS  on 4 prompts" in done.stdout


def test_what_is_wrong_is_said_without_a_traceback(registered: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    cases = (
        (("--model", str(tmp_path / "no"), str(tmp_path / "out")), "No model at"),
        (("--model", str(tiny_checkpoint), str(tmp_path / "out"), "--precision", "int3"), "has no precision 'int3'"),
        (("--model", str(tiny_checkpoint), str(tmp_path / "out"), "--image-size", "64"), "no picture size"),
    )
    for given, message in cases:
        done = optimum_cli("export", "onnx-vlm", *given, path=registered)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    # A target whose packages are not there.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['onnxscript'] = None")
    path = os.pathsep.join(part for part in (str(tmp_path), registered) if part)
    done = optimum_cli("export", "onnx-vlm", "--model", str(tiny_checkpoint), str(tmp_path / "out"), path=path)
    assert done.returncode == 1 and "onnxscript is not installed" in done.stderr and "edgekit[onnx]" in done.stderr
    assert not (tmp_path / "out").exists() and "Traceback" not in done.stderr


def test_edgekit_needs_no_optimum() -> None:
    code = (
        "import sys; sys.modules['optimum'] = None\n"
        "import edgekit.optimum_register.edgekit_vlm as module\n"
        "try:\n    module.REGISTER_COMMANDS\nexcept ImportError:\n    print('asked for')\n"
        "assert not hasattr(module, 'anything')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "asked for\n", done.stderr
