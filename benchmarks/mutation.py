"""Mutation: small faults put into a module one by one, and whether the tests nearest to it see them.

    python benchmarks/mutation.py                                    every module of the core, a sample of each
    python benchmarks/mutation.py --module edgekit.stats --sample 0  one of them, every mutant

A mutant differs in one place: a comparison, an operator, a number, a truth value, a condition, a call that is left out.
It is run in a fork of this process, which has imported the libraries but nothing of edgekit, so that everything that
imports the module sees the mutant; what tests start as processes of their own does not. A mutant is seen when a test
fails, when a module cannot be imported, or when the tests take more than a multiple of their usual time. Results are
kept in a file of lines, and a second run goes on from there; a module that has changed meanwhile begins anew.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORE: dict[str, tuple[str, tuple[str, ...]]] = {
    "edgekit.distill.loss": ("distill/loss.py", ("tests/distill/test_rewards_and_loss.py",)),
    "edgekit.distill.policy": (
        "distill/policy.py",
        ("tests/distill/test_policy.py", "tests/distill/test_rewards_and_loss.py"),
    ),
    "edgekit.distill.groups": ("distill/groups.py", ("tests/distill/test_rewards_and_loss.py",)),
    "edgekit.distill.rewards": ("distill/rewards.py", ("tests/distill/test_rewards_and_loss.py",)),
    "edgekit.distill.masking": ("distill/masking.py", ("tests/distill/test_masking.py",)),
    "edgekit.distill.order": ("distill/order.py", ("tests/distill/test_order_and_packing.py",)),
    "edgekit.distill.packing": ("distill/packing.py", ("tests/distill/test_order_and_packing.py",)),
    "edgekit.precision": ("edgekit/precision.py", ("tests/test_precision.py",)),
    "edgekit.runtimes._onnx_cache": ("runtimes/_onnx_cache.py", ("tests/runtimes/test_onnx_cache.py",)),
    "edgekit.runtimes.generate": ("runtimes/generate.py", ("tests/runtimes/test_generate.py",)),
    "edgekit.runtimes.session": ("runtimes/session.py", ("tests/runtimes/test_generate.py",)),
    "edgekit.bundle": ("edgekit/bundle.py", ("tests/test_contracts.py",)),
    "edgekit.bundle_checks": ("edgekit/bundle_checks.py", ("tests/test_bundle_checks.py",)),
    "edgekit.strict_json": ("edgekit/strict_json.py", ("tests/test_strict_json.py",)),
    "edgekit.stats": ("edgekit/stats.py", ("tests/test_stats.py",)),
}
"""Module -> its file, and the tests nearest to it."""
LIBRARIES = ("numpy", "pytest", "hypothesis", "torch", "scipy.stats", "safetensors.torch", "tokenizers", "PIL.Image")
PATIENCE = 5.0
"""Times the time of the tests without a mutant."""
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A module with one fault.

    Attributes:
        place: Number of the node in the order of `ast.walk`, and which of its operators.
        line: In the file.
        text: What was changed into what.
        tree: The module's.
    """

    place: str
    line: int
    text: str
    tree: ast.Module


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    tree = ast.parse(source)
    skipped = set(_skipped(tree))
    for number, node in enumerate(ast.walk(tree)):
        if id(node) not in skipped:
            for way, (text, change) in enumerate(_changes(node)):
                twin = copy.deepcopy(tree)
                other = next(one for place, one in enumerate(ast.walk(twin)) if place == number)
                change(other)
                yield Mutant(f"{number}.{way}", node.lineno, text, ast.fix_missing_locations(twin))


def _skipped(tree: ast.Module) -> Iterator[int]:
    """Nodes that no test should see: annotations, words of messages, defaults of a frozen dataclass's docs."""
    for node in ast.walk(tree):
        inside: list[Any] = []
        if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert)):
            inside = [node]
        elif isinstance(node, ast.AnnAssign):
            inside = [node.annotation]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = [
                node.returns,
                *(argument.annotation for argument in ast.walk(node) if isinstance(argument, ast.arg)),
            ]
            inside += node.decorator_list
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            inside = [node]
        for top in inside:
            if top is not None:
                yield from (id(one) for one in ast.walk(top))


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """What can be changed of a node: words for it, and a function that does it."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            if type(operator) in SWAPS:
                yield _named(operator), lambda one, at=place, new=SWAPS[type(operator)]: one.ops.__setitem__(at, new())
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
        yield _named(node.op), lambda one, new=SWAPS[type(node.op)]: setattr(one, "op", new())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not x -> x", _unwrap
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield "condition -> its opposite", lambda one: setattr(one, "test", ast.UnaryOp(ast.Not(), one.test))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda one: setattr(one, "value", not one.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield f"{node.value} -> {node.value + 1}", lambda one: setattr(one, "value", one.value + 1)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield (
            f"{ast.unparse(node.value.func)[:40]}(...) left out",
            lambda one: setattr(one, "value", ast.Constant(None)),
        )
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return x -> return None", lambda one: setattr(one, "value", ast.Constant(None))


def _unwrap(node: ast.UnaryOp) -> None:
    """`not x` -> `not not x`, which is x as a truth value."""
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


def _named(operator: ast.AST) -> str:
    return f"{type(operator).__name__} -> {SWAPS[type(operator)].__name__}"


class _Loader(importlib.machinery.SourceFileLoader):
    """Gives a module another tree than its file's."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self._tree = tree

    def get_code(self, fullname: str) -> Any:
        """The mutant's, past all caches."""
        return compile(self._tree, self.path, "exec")


class _Finder:
    """Finds one module by its name."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, path, tree

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """For `sys.meta_path`."""
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path, self._tree)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


def run(module: str, path: Path, tree: ast.Module | None, tests: Sequence[str], limit_s: float) -> tuple[str, float]:
    """Run tests in a fork, with a mutant or without.

    Returns:
        "seen", "survived" or "too long", and its seconds.
    """
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if tree is not None:
            sys.meta_path.insert(0, _Finder(module, str(path), tree))  # type: ignore[arg-type]
        import pytest

        code = 3
        try:
            options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not device and not matrix"]
            code = int(pytest.main([*options, *tests]))
        finally:
            os._exit(code)
    while time.monotonic() - began < limit_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return ("survived" if status == 0 else "seen"), time.monotonic() - began
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too long", time.monotonic() - began


def measure(module: str, sample: int, seed: int, kept: Path, least_s: float = 20.0) -> list[dict[str, Any]]:
    """Run a sample of a module's mutants; what is kept is not run again.

    Args:
        module: In CORE.
        sample: So many, by chance; all for 0.
        seed: Of the choice.
        kept: File of lines.
        least_s: Time that a mutant's tests have in any case.
    """
    file, tests = CORE[module]
    source = (ROOT / file).read_text(encoding="utf-8")
    state = sha256(source.encode() + b"".join((ROOT / test).read_bytes() for test in tests)).hexdigest()[:16]
    every = list(mutants(source))
    chosen = every if not sample else random.Random(seed).sample(every, min(sample, len(every)))
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    known = {(row["state"], row["place"]): row for row in map(json.loads, lines)}
    if any((state, one.place) not in known for one in chosen):
        outcome, usual_s = run(module, ROOT / file, None, tests, 600.0)
        if outcome != "survived":
            sys.exit(f"{module}: its tests {', '.join(tests)} do not pass without a mutant.")
    rows = []
    for one in chosen:
        row = known.get((state, one.place))
        if row is None:
            outcome, seconds = run(module, ROOT / file, one.tree, tests, max(least_s, PATIENCE * usual_s))
            row = {
                "module": module, "state": state, "place": one.place, "line": one.line, "text": one.text,
                "outcome": outcome, "seconds": round(seconds, 2), "of": len(every),
            }  # fmt: skip
            with kept.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        rows.append(row)
    return rows


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row a module, and the sum."""
    lines = ["| module | mutants | tried | seen | survived | score |", "|---|---:|---:|---:|---:|---:|"]
    total: Counter[str] = Counter()
    for module, rows in found.items():
        survived = sum(row["outcome"] == "survived" for row in rows)
        numbers = {"of": rows[0]["of"] if rows else 0, "tried": len(rows), "survived": survived}
        total.update(numbers)
        lines.append(_line(f"`{module}`", **numbers))
    return "\n".join([*lines, _line("all", **total)])


def _line(name: str, of: int, tried: int, survived: int) -> str:
    share = f"{100 * (tried - survived) / tried:.0f} %" if tried else ""
    return f"| {name} | {of} | {tried} | {tried - survived} | {survived} | {share} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", choices=CORE, help="May be repeated; all of the core by default.")
    parser.add_argument("--sample", type=int, default=25, help="Mutants of each, 0 for all; 25 by default.")
    parser.add_argument("--seed", type=int, default=0, help="Of the sample.")
    parser.add_argument("--kept", type=Path, default=Path("mutation.jsonl"), help="File that a later run goes on from.")
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is not None:
            __import__(library)
    found = {}
    for module in given.module or CORE:
        found[module] = measure(module, given.sample, given.seed, given.kept)
        for row in found[module]:
            if row["outcome"] == "survived":
                sys.stderr.write(f"survived  {CORE[module][0]}:{row['line']}  {row['text']}\n")
    sys.stdout.write(table(found) + "\n")


if __name__ == "__main__":
    main()
