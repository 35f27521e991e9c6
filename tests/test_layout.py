"""Folders, layers, and what an import costs."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKED = ("distill", "export", "runtimes", "devices")
TOP = ("edgekit.cli", "edgekit.__main__", "edgekit.api", "edgekit.commands", "edgekit.optimum_register")
FORMATS = "edgekit.formats"  # how formats are read and called: above the contracts, below the four folders
ABOVE_FORMATS = ("edgekit.apps",)
EVALUATOR = "edgekit.formats.coreml.mil"  # what runs a Core ML program where Core ML is not: a library of its own
EVALUATORS_OWN = ("edgekit.formats.declared", "edgekit.formats.coreml.programs")
REGISTER = "optimum/commands/register/"  # the one folder that lies elsewhere in the wheel: optimum's own namespace


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
    """Whether the layers (CONTRIBUTING.md) let `module` import `name` of edgekit."""
    if any(within(module, top) for top in TOP):
        return True
    own = next((folder for folder in LINKED if within(module, f"edgekit.{folder}")), None)
    target = next((folder for folder in LINKED if within(name, f"edgekit.{folder}")), None)
    if any(within(name, top) for top in TOP):
        return False
    if within(name, FORMATS):
        return own is not None or any(within(module, room) for room in (FORMATS, *ABOVE_FORMATS))
    return target is None or target == own or (own == "runtimes" and target == "devices")


def arrows() -> dict[str, set[str]]:
    """What every module of edgekit imports of it, inside functions too; for annotations alone does not count."""
    modules = dict(sources())
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))]
        mine = found[module] = set()
        for node in ast.walk(ast.Module(body, [])):
            if isinstance(node, ast.Import):
                mine |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                mine |= {name if name in modules else node.module for name in full}
        mine &= modules.keys() - {module}
    return found


def circles_of(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that each need all others of theirs."""
    reached = {module: _reached(module, arrows) for module in arrows}
    circles: list[set[str]] = []
    for module, beyond in reached.items():
        circle = {other for other in beyond if module in reached[other]}
        if module in beyond and circle not in circles:
            circles.append(circle)
    return circles


def _reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = arrows[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def test_layers_hold() -> None:
    broken = [
        f"{module} imports {name}"
        for module, path in sources()
        for name in imported(path)
        if within(name, "edgekit") and not allowed(module, name)
    ]
    assert not broken


def test_the_evaluator_stands_alone() -> None:
    outside = [
        f"{module} imports {name}"
        for module, path in sources()
        if within(module, EVALUATOR)
        for name in imported(path)
        if within(name, FORMATS)
        and not any(within(name, one) for one in (EVALUATOR, *EVALUATORS_OWN))
        and name != FORMATS
    ]
    assert not outside


def test_no_module_needs_itself() -> None:
    assert circles_of(arrows()) == []
    assert circles_of({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [{"b", "c"}]


def test_the_layer_rule_can_fail() -> None:
    assert not allowed("edgekit.export.onnx", "edgekit.runtimes.miles")
    assert not allowed("edgekit.export.onnx", "edgekit.runtimes.session")
    assert not allowed("edgekit.formats.coreml.inspect", "edgekit.runtimes.coreml")
    assert not allowed("edgekit.formats.coreml.mil", "edgekit.export.coreml")
    assert not allowed("edgekit.bundle", "edgekit.formats.coreml.mil")
    assert not allowed("edgekit.families.idefics3", "edgekit.formats.gguf.header")
    assert not allowed("edgekit.recipe.model", "edgekit.distill.loss")
    assert not allowed("edgekit.distill.loss", "edgekit.export.onnx")
    assert not allowed("edgekit.runtimes.bench", "edgekit.api")
    assert allowed("edgekit.runtimes.bench", "edgekit.devices.host")
    assert allowed("edgekit.export.coreml", "edgekit.formats.coreml.mil")


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
    may = {f"edgekit.{folder}" for folder in LINKED} | {EVALUATOR, "edgekit.__main__"}
    modules = [module for module, _ in sources() if not any(within(module, room) for room in may)]
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
    verbs = [path.stem for path in (ROOT / "edgekit" / "commands").glob("*.py") if path.stem != "__init__"]
    assert {"distill", "data", "run"} <= set(verbs)
    assert run_blocked(["edgekit.cli", *(f"edgekit.commands.{verb}" for verb in verbs)], heavy) == ""
    assert "numpy was imported" in run_blocked(["edgekit.inputs.processor"], heavy)
    code = "import edgekit.cli as c; c.build()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_an_onnx_bundle_runs_without_torch() -> None:
    assert run_blocked(["edgekit.runtimes.onnxruntime", "edgekit.runtimes.worker"], {"torch", "transformers"}) == ""


BUILD_LEFTOVERS = ("build", "*.egg-info", "dist", ".*", "__pycache__", "demo-run", "tests", "docs", "benchmarks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel that the source archive gives, which is built from a copy: setuptools would put what an
    earlier build left in build/ into it."""
    clean, out = tmp_path_factory.mktemp("clean") / "edgekit", tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, clean, symlinks=True, ignore=shutil.ignore_patterns(*BUILD_LEFTOVERS))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(clean)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-1000:] + built.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def test_every_source_is_in_the_wheel(wheel: set[str]) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT / "edgekit")
        else f"edgekit/{path.relative_to(ROOT).as_posix()}"
        for _, path in sources()
    }  # fmt: skip
    assert len(wanted) > 60 and {"edgekit/cli.py", "edgekit/distill/objectives/jsd.py"} <= wanted
    wanted = {name.replace("edgekit/optimum_register/", REGISTER) for name in wanted}
    assert not wanted - wheel
    # An __init__.py there would hide the commands of every other package.
    others = [name for name in wheel if not name.startswith(("edgekit/", "edgekit-"))]
    assert others == [f"{REGISTER}edgekit_vlm.py"]


def test_every_other_file_is_in_the_wheel(wheel: set[str]) -> None:
    """Weights, recipes, py.typed: whatever lies in a source folder and is no Python file."""
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edgekit").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not within_link(path)
    }
    wanted |= {
        f"edgekit/{path.relative_to(ROOT).as_posix()}"
        for folder in LINKED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {"edgekit/py.typed", "edgekit/demo/demo.yaml", "edgekit/demo/weights/student/card.json"} <= wanted
    assert not wanted - wheel


def within_link(path: Path) -> bool:
    parts = path.relative_to(ROOT / "edgekit").parts
    return parts[0] in LINKED
