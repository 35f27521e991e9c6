"""What an index would serve, installed where nothing is: the source archive and the wheel, on each Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from package_index import need_package_index

import edgekit

ROOT = Path(__file__).parent.parent
LEFT_OUT = ("build", "*.egg-info", "dist", ".*", "__pycache__", "demo-run", "tests", "benchmarks")
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
CASES = [(OWN, "tar.gz"), *((version, "whl") for version in ("3.11", "3.12", "3.13"))]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that is built from it."""
    clean, out = tmp_path_factory.mktemp("clean") / "edgekit", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, clean, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(clean)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return out


def interpreter(version: str) -> str:
    """A Python of this version, or a skip."""
    if version == OWN:
        return sys.executable
    found = [shutil.which(f"python{version}") or "", *map(str, PYENV.glob(f"versions/{version}.*/bin/python"))]
    for path in found:  # a shim may stand there for a version that is switched off
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    pytest.skip(f"there is no Python {version} here")


# A few hundred megabytes each; the usual slow run has one.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "kind"), [CASES[0], *(pytest.param(*case, marks=pytest.mark.matrix) for case in CASES[1:])]
)
def test_a_clean_environment_exports_and_answers(built: Path, version: str, kind: str, tmp_path: Path) -> None:
    python = interpreter(version)
    need_package_index()
    (archive,) = built.glob(f"*.{kind}")
    assert archive.name.split("-")[1].removesuffix(".tar.gz") == edgekit.__version__
    # Nothing of the environment that the tests run in: no paths, no links to the sources.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    constraints = str(ROOT / "constraints.txt")

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run(python, "-m", "venv", "env")
    inside = tmp_path / "env/bin"
    run(str(inside / "python"), "-m", "pip", "install", "-q", "-c", constraints, "torch==2.13.0")
    run(str(inside / "python"), "-m", "pip", "install", "-q", "-c", constraints, f"{archive}[onnx]")
    tool = str(inside / "edgekit")
    assert run(tool, "--version").strip() == f"edgekit {edgekit.__version__}"
    where = run(str(inside / "python"), "-c", "import edgekit; print(edgekit.__file__)").strip()
    assert Path(where).is_relative_to(tmp_path)
    assert "PASS" in run(tool, "export", "demo:student", "--target", "onnx", "--precision", "int8", "--out", "b")
    assert (tmp_path / "b/manifest.json").exists()
    image = "from edgekit.demo.shapes import draw; draw(0)[0].save('shape.png')"
    run(str(inside / "python"), "-c", image)
    said = run(tool, "run", "b", "--image", "shape.png", "--prompt", "is there a circle?")
    assert said.strip() in ("yes", "no")
    shutil.rmtree(tmp_path / "env")  # a gigabyte
