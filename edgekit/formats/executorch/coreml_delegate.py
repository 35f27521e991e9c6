"""Core ML's programs inside an ExecuTorch program, run by the evaluator of edgekit.formats.coreml.mil.

A delegate holds a reference, `CMJR` and JSON, to data that the program names; those are a small file system: the files'
bytes, then JSON that says where each lies, written backwards from the end. In it lies one package with a function for
each method. What is evaluated is what ships, with the weights that ship; not Apple's rounding, placement or speed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import strict_json
from edgekit.bundle_checks import name_problem
from edgekit.errors import BundleError, UnsupportedError
from edgekit.files import inside
from edgekit.formats.executorch.delegates import BACKENDS
from edgekit.formats.executorch.program import Program
from edgekit.system.temporary import room

REFERENCE = b"CMJR"
MOST_DEPTH = 32
DELEGATE = BACKENDS["coreml"].delegate


class EvaluatedProgram(Program):
    """A program whose methods of Core ML are run by the evaluator, and the others by ExecuTorch."""

    def __init__(self, path: Path, threads: int) -> None:
        """Unpack a file's Core ML package.

        Args:
            path: The .pte.
            threads: Of ExecuTorch's pool, and of the evaluator.

        Raises:
            BundleError: it is not whole.
            UnsupportedError: a method is in parts, or a delegate is no package of Core ML's.
        """
        import torch

        super().__init__(path, threads)
        torch.set_num_threads(threads)
        self._held = ExitStack()
        folder = self._held.enter_context(room("delegates"))
        try:
            self._functions = dict(_functions(_read(path), folder))
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:  # a stranger's file
            self.close()
            raise BundleError(
                f"{path} holds no Core ML package that can be read.", why=f"{type(error).__name__}: {str(error)[:200]}"
            ) from error
        except BaseException:
            self.close()
            raise

    def load(self, name: str) -> Any:
        """As of `Program`; what the evaluator runs is loaded already."""
        return None if name in self._functions else super().load(name)

    def run(self, name: str, *arrays: NDArray[Any]) -> list[Any]:
        """As of `Program`."""
        if name not in self._functions:
            return super().run(name, *arrays)
        function, inputs, outputs, state = self._functions[name]
        if len(inputs) != len(arrays):
            raise BundleError(f"The method {name!r} takes {len(inputs)} inputs, and is given {len(arrays)}.")
        given = [array.astype(np.int32) if array.dtype == np.int64 else array for array in arrays]
        made = function.predict(dict(zip(inputs, given, strict=True)), state)
        return [made[output] for output in outputs]

    def close(self) -> None:
        """Remove what was unpacked."""
        self._held.close()


def _read(path: Path) -> Any:
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary(path.read_bytes())


def _functions(file: Any, folder: Path) -> Any:
    """(method, (function, names of its inputs, of its outputs, its state)) of each method that Core ML has."""
    from edgekit.formats.coreml.mil import Package

    opened: dict[str, tuple[Package, Mapping[str, Any]]] = {}
    for plan in file.program.execution_plan:
        if not any(delegate.id == DELEGATE for delegate in plan.delegates or ()):
            continue
        calls = [one.instr_args for chain in plan.chains for one in chain.instructions]
        if len(calls) != 1 or list(calls[0].args) != [*plan.inputs, *plan.outputs]:
            raise UnsupportedError(
                f"The method {plan.name!r} is not whole in Core ML: {len(calls)} calls.",
                why="The evaluator runs methods that are one delegate.",
                fix="Run it on a Mac or an iPhone.",
            )
        where = plan.delegates[calls[0].delegate_index].processed
        data = bytes(file.program.backend_delegate_data[where.index].data)
        if not data.startswith(REFERENCE):
            raise UnsupportedError(f"The delegate of {plan.name!r} holds no reference to a package of Core ML's.")
        reference = strict_json.loads(data[len(REFERENCE) :].rstrip(b"\0"))
        key = str(reference["key"])
        if key not in opened:
            place = folder / str(len(opened))
            place.mkdir()
            named = file.named_data
            unpack(_bytes(named.buffers[named.pte_data[key].buffer_index]), place)
            about = strict_json.read(place / "metadata.json")
            opened[key] = Package(place / "model.mlpackage"), about["methods"]
        package, methods = opened[key]
        function = package.function(str(reference["functionName"]))
        names = methods[str(plan.name)]
        yield str(plan.name), (function, names["inputNames"], names["outputNames"], function.make_state())


def _bytes(buffer: Any) -> bytes:
    return bytes(getattr(buffer, "data", buffer))


def unpack(data: bytes, folder: Path) -> None:
    """Write a delegate's small file system to a folder.

    Args:
        data: Files, then their JSON written backwards.
        folder: Where its root's files go; nothing is written outside it.

    Raises:
        BundleError: a name leads out of the folder, or a file out of the data.
        ValueError, LookupError, TypeError: it is no such file system.
    """
    tail = data[::-1].decode("latin-1")
    nodes, _ = json.JSONDecoder().raw_decode(tail)
    rows = nodes["nodes"]
    children = {int(child) for row in rows for child in row["children"].values()}
    (root,) = (number for number in range(len(rows)) if number not in children)
    sizes = [int(row["dataRegion"]["size"]) for row in rows if not row["kind"]]
    if max(sizes, default=0) <= len(data) < sum(sizes):  # files that share bytes would fill a disk
        raise BundleError("A delegate's files are larger than itself.", fix="Do not use this bundle.")
    _write(data, rows, root, folder, 0)


def _write(data: bytes, rows: Sequence[Any], number: int, folder: Path, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise BundleError("A delegate's folders lie too deep.", fix="Do not use this bundle.")
    for name, child in rows[number]["children"].items():
        if "/" in name or name_problem(name):
            raise BundleError(f"A delegate holds a file named {name[:80]!r}.", fix="Do not use this bundle.")
        row, place = rows[int(child)], inside(folder, name)
        if row["kind"]:
            place.mkdir()
            _write(data, rows, int(child), place, depth + 1)
            continue
        start, size = int(row["dataRegion"]["offset"]), int(row["dataRegion"]["size"])
        if min(start, size) < 0 or start + size > len(data):
            raise BundleError(f"A delegate's file {name!r} does not lie in it.", fix="Export the bundle again.")
        place.write_bytes(data[start : start + size])
