"""Mutation: small faults put into a module one by one, and whether the tests nearest to it see them.

    python benchmarks/mutation.py                                    every module of the core, a sample of each
    python benchmarks/mutation.py --module edgekit.stats --sample 0  one of them, every mutant
    python benchmarks/mutation.py --after 10 --sample 16             16 others than `--sample 10` drew

A mutant differs in one place: a comparison, an operator, a number, a truth value, a condition, a value that is not
given back, a call or a `yield` that is left out. It runs in a fork of this process, which has imported the packages
that the tests need but nothing of edgekit, so that everything that imports the module sees it; what tests start as
processes of their own does not, so such tests are not chosen. A mutant is seen when a test fails, when a module cannot
be imported, or when the tests take more than a multiple of their usual processor time. Results are kept in a file of
lines, and a later run goes on from there; a module that has changed meanwhile, or its tests, begins anew.

Not mutated, because no test should see it: annotations, decorators and their arguments, docstrings, what is raised or
asserted (the condition for it is), texts of messages and of notes, `strict` of `zip`, which is an assertion. Mutants
that differ in nothing that can be seen stand in mutation_equivalent.toml, each with its reason; where the sample draws
one it is counted as such, and neither as seen nor as survived.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import importlib.util
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.toml")


class Part(NamedTuple):
    """A module's file, and the tests nearest to it."""

    file: str
    tests: tuple[str, ...]


LOSS = ("tests/distill/test_rewards_and_loss.py", "tests/distill/test_policy.py")
CORE: dict[str, Part] = {
    "edgekit.distill.loss": Part("distill/loss.py", LOSS),
    "edgekit.distill.policy": Part("distill/policy.py", LOSS),
    "edgekit.distill.groups": Part("distill/groups.py", ("tests/distill/test_rewards_and_loss.py",)),
    "edgekit.distill.rewards": Part("distill/rewards.py", ("tests/distill/test_rewards_and_loss.py",)),
    "edgekit.distill.masking": Part("distill/masking.py", ("tests/distill/test_masking.py",)),
    "edgekit.distill.order": Part("distill/order.py", ("tests/distill/test_order_and_packing.py",)),
    "edgekit.distill.packing": Part("distill/packing.py", ("tests/distill/test_order_and_packing.py",)),
    "edgekit.precision": Part("edgekit/precision.py", ("tests/test_precision.py",)),
    "edgekit.runtimes._onnx_cache": Part("runtimes/_onnx_cache.py", ("tests/runtimes/test_onnx_cache.py",)),
    "edgekit.runtimes.generate": Part("runtimes/generate.py", ("tests/runtimes/test_loop.py",)),
    "edgekit.runtimes.session": Part("runtimes/session.py", ("tests/runtimes/test_loop.py",)),
    "edgekit.bundle": Part("edgekit/bundle.py", ("tests/test_bundle.py",)),
    "edgekit.bundle_checks": Part("edgekit/bundle_checks.py", ("tests/test_bundle_checks.py",)),
    "edgekit.strict_json": Part("edgekit/strict_json.py", ("tests/test_strict_json.py",)),
    "edgekit.stats": Part("edgekit/stats.py", ("tests/test_stats.py",)),
    "edgekit.formats.declared": Part("edgekit/formats/declared.py", ("tests/formats/test_declared.py",)),
    "edgekit.checkpoint.generation": Part(
        "edgekit/checkpoint/generation.py", ("tests/checkpoint/test_generation_settings.py",)
    ),
    "edgekit.checkpoint.rules": Part("edgekit/checkpoint/rules.py", ("tests/checkpoint/test_generation_settings.py",)),
    "edgekit.data.scenes": Part("edgekit/data/scenes.py", ("tests/data/test_scenes.py",)),
}
"""By the module's name."""
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
        scope: The function or class it is in, dotted; "" outside of any.
        was, becomes: The statement before and after; of one with a body its head.
        module: The whole module, as it is.
        change: Does it to the node.
    """

    place: str
    line: int
    text: str
    scope: str
    was: str
    becomes: str
    module: ast.Module
    change: Callable[[Any], object]

    def tree(self) -> ast.Module:
        """The module with the fault."""
        twin = copy.deepcopy(self.module)
        self.change(list(ast.walk(twin))[int(self.place.partition(".")[0])])
        return ast.fix_missing_locations(twin)


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    tree = ast.parse(source)
    skipped, around = set(_skipped(tree)), _around(tree)
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        for way, (text, change) in enumerate(_changes(node)):
            assert isinstance(node, (ast.stmt, ast.expr))
            scope, statement = around[id(node)]
            twin = copy.deepcopy(statement)
            pairs = zip(ast.walk(statement), list(ast.walk(twin)), strict=True)
            change(next(other for one, other in pairs if one is node))
            was, becomes = _head(statement), _head(twin)
            yield Mutant(f"{number}.{way}", node.lineno, text, scope, was, becomes, tree, change)


def _around(tree: ast.Module) -> dict[int, tuple[str, ast.stmt]]:
    """By the id of a node: the function or class it is in, and its statement."""
    found: dict[int, tuple[str, ast.stmt]] = {}

    def enter(node: ast.AST, scope: str, statement: ast.stmt | None) -> None:
        for child in ast.iter_child_nodes(node):
            own = child if isinstance(child, ast.stmt) else statement
            if own is not None:
                found[id(child)] = scope, own
            name = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else ""
            enter(child, f"{scope}.{name}".strip("."), own)

    enter(tree, "", None)
    return found


def _head(statement: ast.stmt) -> str:
    """A statement as text, without decorators and body."""
    bare = copy.copy(statement)
    for name in ("body", "orelse", "decorator_list"):
        if hasattr(bare, name):
            setattr(bare, name, [ast.Pass()] if name == "body" else [])
    return ast.unparse(bare).splitlines()[0]


def _skipped(tree: ast.Module) -> Iterator[int]:
    """Nodes that no test should see; the module's docstring lists their kinds."""
    for node in ast.walk(tree):
        inside: list[Any] = []
        name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert)):
            inside = [node]
        elif isinstance(node, ast.AnnAssign):
            inside = [node.annotation]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = (argument.annotation for argument in ast.walk(node.args) if isinstance(argument, ast.arg))
            inside = [node.returns, *arguments, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            inside = node.decorator_list
        elif isinstance(node, ast.Call) and name in ("note", "note_once", "zip"):
            inside = node.keywords if name == "zip" else [*node.args, *node.keywords]
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
        # `not not x`, which is x as a truth value.
        yield "not x -> x", lambda one: setattr(one, "operand", ast.UnaryOp(ast.Not(), one.operand))
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield "condition -> its opposite", lambda one: setattr(one, "test", ast.UnaryOp(ast.Not(), one.test))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda one: setattr(one, "value", not one.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield f"{node.value} -> {node.value + 1}", lambda one: setattr(one, "value", one.value + 1)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = ast.unparse(node.value.func)[:40]
        yield f"{called}(...) left out", lambda one: setattr(one, "value", ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, (ast.Yield, ast.YieldFrom)):
        # Of nothing at all, so that the function stays a generator.
        yield "yield left out", lambda one: setattr(one, "value", ast.YieldFrom(ast.Tuple([], ast.Load())))
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return x -> return None", lambda one: setattr(one, "value", ast.Constant(None))


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
        loader = _Loader(fullname, self._path, self._tree)
        ours = fullname == self._name
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader) if ours else None


def run(module: str, tree: ast.Module | None, limit_s: float, imported: Path | None = None) -> tuple[str, float]:
    """Run a module's tests in a fork, with a mutant or without.

    Args:
        module: In CORE.
        tree: The mutant's; None without.
        limit_s: Processor time it has; a machine may be busy, so of its clock it has 60 times as much.
        imported: File to write the names of other packages' modules into that the tests imported.

    Returns:
        "seen", "survived" or "too long", and its seconds of processor time.
    """
    part, began = CORE[module], time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit_s), math.ceil(limit_s) + 1))
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        if tree is not None:
            sys.meta_path.insert(0, _Finder(module, str(ROOT / part.file), tree))  # type: ignore[arg-type]
        import pytest

        code = 3
        try:
            options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not device and not matrix"]
            code = int(pytest.main([*options, *part.tests]))
            if imported is not None:
                imported.write_text("\n".join(_of_others()), encoding="utf-8")
        finally:
            os._exit(code)
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
            return "too long" if late else "seen" if status else "survived", used.ru_utime + used.ru_stime
        if time.monotonic() - began > 60 * limit_s:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)


def _of_others() -> list[str]:
    """Modules that this process has imported and that are not of this repository, in the order they came."""
    files = {name: getattr(one, "__file__", None) for name, one in sys.modules.items()}
    return [name for name, file in files.items() if file and "site-packages" in file and not name.startswith("edgekit")]


def drawn(module: str, sample: int, seed: int, after: int = 0) -> tuple[list[Mutant], int]:
    """A sample of a module's mutants, and how many there are.

    Args:
        module: In CORE.
        sample: So many; all that are left for 0.
        seed: Of the order they are taken in.
        after: So many are left out first: those that an earlier sample of the same seed was.
    """
    every = list(mutants((ROOT / CORE[module].file).read_text(encoding="utf-8")))
    order = random.Random(seed).sample(every, len(every))
    return order[after : after + sample if sample else None], len(every)


def equivalents(module: str) -> dict[tuple[str, str, str], str]:
    """Function, statement before and after of each mutant that differs in nothing to be seen -> why."""
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutant"]
    return {(one["in"], one["was"], one["becomes"]): one["why"] for one in listed if one["module"] == module}


def measure(
    module: str, sample: int, seed: int, kept: Path, *, after: int = 0, least_s: float = 10.0
) -> list[dict[str, Any]]:
    """Run a sample of a module's mutants; what is kept is not run again.

    Args:
        module, sample, seed, after: As for `drawn`.
        kept: File of lines.
        least_s: Processor time that a mutant's tests have in any case.
    """
    part = CORE[module]
    texts = [(ROOT / name).read_bytes() for name in (part.file, *part.tests)]
    state = sha256(b"".join(texts)).hexdigest()[:16]
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    known = {(row["state"], row["place"]): row for row in map(json.loads, lines)}
    alike, usual_s, rows = equivalents(module), None, []
    ours, of = drawn(module, sample, seed, after)
    for one in ours:
        row = {"module": module, "state": state, "place": one.place, "line": one.line, "text": one.text, "of": of}
        if why := alike.get((one.scope, one.was, one.becomes)):
            rows.append({**row, "outcome": "equivalent", "why": why})
            continue
        if (state, one.place) not in known:
            if usual_s is None:
                usual_s = _usual(module)
            outcome, seconds = run(module, one.tree(), max(least_s, PATIENCE * usual_s))
            row |= {"in": one.scope, "was": one.was, "becomes": one.becomes}
            known[state, one.place] = row = {**row, "outcome": outcome, "seconds": round(seconds, 2)}
            with kept.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        rows.append(known[state, one.place])
    return rows


def _usual(module: str) -> float:
    """Seconds of a module's tests without a mutant; what they import of other packages is imported here as well."""
    with tempfile.TemporaryDirectory() as folder:
        imported = Path(folder) / "imported"
        outcome, seconds = run(module, None, 600.0, imported)
        if outcome != "survived":
            sys.exit(f"{module}: its tests {', '.join(CORE[module].tests)} do not pass without a mutant.")
        for name in imported.read_text(encoding="utf-8").splitlines():
            with suppress(Exception):  # some can only be imported by their own package
                importlib.import_module(name)
    return seconds


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row a module, and the sum. The interval is Wilson's; a module tried whole has none."""
    lines = [
        "| module | mutants | tried | seen | survived | equivalent | score | its 95 % |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    total: Counter[str] = Counter()
    for module, rows in found.items():
        outcomes = Counter(row["outcome"] for row in rows)
        survived, equivalent = outcomes["survived"], outcomes["equivalent"]
        numbers = {"of": rows[0]["of"] if rows else 0, "tried": len(rows) - equivalent}
        numbers |= {"survived": survived, "equivalent": equivalent}
        total.update(numbers)
        lines.append(_line(f"`{module}`", **numbers))
    return "\n".join([*lines, _line("all", **total)])


def _line(name: str, of: int, tried: int, survived: int, equivalent: int) -> str:
    from edgekit.stats import score_interval

    seen, share, interval = tried - survived, "", ""
    if tried:
        share = f"{100 * seen / tried:.0f} %"
        if tried + equivalent < of and name != "all":
            low, high = score_interval([1.0] * seen + [0.0] * survived)
            interval = f"{100 * low:.0f} to {100 * high:.0f} %"
    return f"| {name} | {of} | {tried} | {seen} | {survived} | {equivalent} | {share} | {interval} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", choices=CORE, help="May be repeated; all of the core by default.")
    parser.add_argument("--sample", type=int, default=16, help="Mutants of each, 0 for all; 16 by default.")
    parser.add_argument("--seed", type=int, default=0, help="Of the order they are taken in.")
    parser.add_argument("--after", type=int, default=0, help="Leave out so many first, which an earlier sample had.")
    parser.add_argument("--kept", type=Path, default=Path("mutation.jsonl"), help="File that a later run goes on from.")
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    found = {}
    for module in given.module or CORE:
        found[module] = measure(module, given.sample, given.seed, given.kept, after=given.after)
        for row in found[module]:
            if row["outcome"] == "survived":
                place = f"{CORE[module].file}:{row['line']}"
                sys.stderr.write(f"survived  {place}  {row['text']}\n    {row['was']}\n    {row['becomes']}\n")
    sys.stdout.write(table(found) + "\n")


if __name__ == "__main__":
    main()
