"""Folders, layers, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKED = ("distill", "export", "runtimes", "devices")
TOP = ("edgekit.cli", "edgekit.__main__", "edgekit.api", "edgekit.commands")


def sources() -> Iterator[tuple[str, Path]]:
    """(module name, file) of every source file, each once."""
    for top in ("edgekit", *LINKED):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[0] == "edgekit" and len(parts) > 1 and parts[1] in LINKED:
                continue  # the links: the same files again
            name = ".".join(parts if parts[0] == "edgekit" else ("edgekit", *parts))
            yield name.removesuffix(".__init__"), path


def imported(path: Path) -> set[str]:
    """Names a file imports, inside functions too; TYPE_CHECKING imports count as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def allowed(module: str, name: str) -> bool:
    """Whether STYLE's layers let `module` import `name` of edgekit."""
    if any(within(module, top) for top in TOP):
        return True
    own = next((folder for folder in LINKED if within(module, f"edgekit.{folder}")), None)
    target = next((folder for folder in LINKED if within(name, f"edgekit.{folder}")), None)
    if any(within(name, top) for top in TOP):
        return False
    return target is None or target == own or (own == "runtimes" and target == "devices")


def test_layers_hold() -> None:
    broken = [
        f"{module} imports {name}"
        for module, path in sources()
        for name in imported(path)
        if within(name, "edgekit") and not allowed(module, name)
    ]
    assert not broken


def test_the_layer_rule_can_fail() -> None:
    assert not allowed("edgekit.export.onnx", "edgekit.runtimes.session")
    assert not allowed("edgekit.recipe", "edgekit.distill.loss")
    assert not allowed("edgekit.distill.loss", "edgekit.export.onnx")
    assert not allowed("edgekit.runtimes.bench", "edgekit.api")
    assert allowed("edgekit.runtimes.bench", "edgekit.devices.host")


def test_links() -> None:
    for name in LINKED:
        link = ROOT / "edgekit" / name
        assert link.is_symlink() and link.readlink().as_posix() == f"../{name}"


BLOCK = """
import importlib, importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(name + " was imported")
sys.meta_path.insert(0, Block())
for name in {modules}:
    importlib.import_module(name)
"""


def run_blocked(modules: list[str], blocked: set[str]) -> str:
    code = BLOCK.format(blocked=blocked, modules=modules)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stderr


def test_contracts_do_not_import_torch() -> None:
    modules = [
        m for m, _ in sources() if not any(within(m, f"edgekit.{f}") for f in LINKED) and m != "edgekit.__main__"
    ]
    assert len(modules) > 30
    assert run_blocked(modules, {"torch", "transformers"}) == ""
    assert "torch was imported" in run_blocked(["edgekit.distill.loss"], {"torch"})


def test_the_command_line_starts_light() -> None:
    heavy = {
        "torch",
        "transformers",
        "numpy",
        "datasets",
        "pyarrow",
        "scipy",
        "onnx",
        "onnxruntime",
        "PIL",
        "tokenizers",
    }
    assert run_blocked(["edgekit.cli"], heavy) == ""
    code = "import edgekit.cli as c; c.build()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert run_blocked([f"edgekit.commands.{verb}" for verb in ("distill", "export", "bench", "data")], heavy) == ""


def test_an_onnx_bundle_runs_without_torch() -> None:
    assert run_blocked(["edgekit.runtimes.onnxruntime", "edgekit.runtimes.worker"], {"torch", "transformers"}) == ""


@pytest.mark.slow
def test_every_source_is_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix() if module.startswith("edgekit") and path.is_relative_to(ROOT / "edgekit")
        else f"edgekit/{path.relative_to(ROOT).as_posix()}"
        for module, path in sources()
    }  # fmt: skip
    assert not wanted - names
    for data in (
        "py.typed",
        "demo/demo.yaml",
        "demo/weights/teacher/model.safetensors",
        "demo/weights/student/card.json",
    ):
        assert f"edgekit/{data}" in names
    assert not [name for name in names if not name.startswith(("edgekit/", "edgekit-"))]
