"""A program of ExecuTorch in this process: what the export's parity run and the runtime share."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import strict_json
from edgekit.errors import BundleError, EdgekitError
from edgekit.files import write_json
from edgekit.formats.declared import Declared, Tensor, UpTo
from edgekit.system.isolated import Isolated, ProcessDied

LIMIT_S = 900.0
"""For a program to be loaded the first time."""
MOST_KNOWN = 1000

SCALARS = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool",
}  # fmt: skip
"""NumPy's names of ExecuTorch's types, by their numbers in scalar_type.fbs."""


def load_custom_ops() -> None:
    """Make llama::custom_sdpa and llama::update_cache known, to torch and to the runtime of this process."""
    import torch

    operators: Any = torch.ops
    library = _portable_lib()  # it must be there before the operators, which register themselves with it
    folder = Path(library.__file__).parent.parent / "llm" / "custom_ops"
    operators.load_library(next(folder.glob("libcustom_ops_aot_lib.*")))


def _portable_lib() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the API calls itself experimental, once per import
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)  # and some of its optional parts miss their libraries, which say so
        try:
            from executorch.extension.pybindings import portable_lib
        finally:
            logging.disable(level)
    return portable_lib


def registered() -> list[str]:
    """Names of the delegates that the ExecuTorch of this process runs."""
    return [str(name) for name in _portable_lib()._get_registered_backend_names()]


def rehearse(path: Path, sha256: str, methods: Sequence[str], cache: Path | None = None) -> None:
    """Load a program's methods in a process of its own: a damaged one can end the process that loads it.

    Once for each file and version of ExecuTorch; what was loaded is remembered.

    Args:
        path: The .pte.
        sha256: Of the file.
        methods: Those that will be run.
        cache: Where the answer is kept; the user's cache folder by default.

    Raises:
        BundleError: it does not load, takes too long, or ends its process.
    """
    cache, key = cache or _cache_file(), f"{version('executorch')} {sha256}"
    if key in (known := _known(cache)):
        return
    with Isolated(quiet=True) as isolated:
        try:
            isolated.call(load_all, path=str(path), methods=list(methods), limit_s=LIMIT_S)
        except ProcessDied as error:
            raise BundleError(
                f"ExecuTorch does not load {path}.", why=error.what[:500], fix="Copy or export the bundle again."
            ) from error
    with contextlib.suppress(OSError, EdgekitError):  # a cache that cannot be written is made again next time
        write_json(cache, [*known, key][-MOST_KNOWN:])


def load_all(path: str, methods: list[str]) -> None:
    """Load methods of a program in this process; errors as of `Program`."""
    program = Program(Path(path), threads=1)
    for name in methods:
        program.declared(name)
        program.load(name)


def _known(cache: Path) -> list[str]:
    try:
        found = strict_json.read(cache)
    except (OSError, ValueError):
        return []
    return [key for key in found if isinstance(key, str)] if isinstance(found, list) else []


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgekit" / "executorch.json"


class Program:
    """A .pte file, its methods loaded when they are first run; mutable buffers live as long as this does."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load a file.

        Args:
            path: The .pte.
            threads: Of the pool that all programs of this process share.

        Raises:
            BundleError: ExecuTorch refuses it.
        """
        load_custom_ops()
        library = _portable_lib()
        library._unsafe_reset_threadpool(threads)  # unsafe while a program runs; none does
        try:
            # Offsets of the program are followed only where they lie in it.
            checked = library.Verification.InternalConsistency
            self._program = library._load_program(str(path), program_verification=checked)
        except RuntimeError as error:
            raise BundleError(f"ExecuTorch does not load {path}.", why=str(error)[:500]) from error
        self._methods: dict[str, Any] = {}

    def declared(self, name: str) -> Declared:
        """What a method takes and gives; it has no names for them, and does not say which sizes are free.

        Raises:
            BundleError: there is no such method.
        """
        try:
            about = self._program.method_meta(name)
            inputs = [about.input_tensor_meta(at) for at in range(about.num_inputs())]
            outputs = [about.output_tensor_meta(at) for at in range(about.num_outputs())]
        except (RuntimeError, IndexError) as error:  # also of an input that is no tensor
            raise BundleError(f"ExecuTorch does not load the method {name!r}.", why=str(error)[:500]) from error

        def of(tensors: list[Any]) -> list[Tensor]:
            return [
                Tensor("", SCALARS.get(int(one.dtype()), ""), [UpTo(size) for size in one.sizes()]) for one in tensors
            ]

        return Declared(of(inputs), of(outputs))

    def load(self, name: str) -> Any:
        """A method, its weights unpacked.

        Raises:
            BundleError: there is none, or ExecuTorch refuses it.
        """
        if name not in self._methods:
            try:
                self._methods[name] = self._program.load_method(name)
            except RuntimeError as error:
                raise BundleError(f"ExecuTorch does not load the method {name!r}.", why=str(error)[:500]) from error
        return self._methods[name]

    def close(self) -> None:
        """Free what it holds beside itself: nothing."""

    def run(self, name: str, *arrays: NDArray[Any]) -> list[Any]:
        """Run a method.

        Args:
            name: Of the method.
            arrays: Its inputs.

        Returns:
            Its outputs, tensors as arrays.

        Raises:
            BundleError: there is no such method, or it fails.
        """
        import torch

        method = self.load(name)
        try:
            found = method([torch.from_numpy(np.ascontiguousarray(array)) for array in arrays])
        except RuntimeError as error:
            raise BundleError(f"ExecuTorch does not run the method {name!r}.", why=str(error)[:500]) from error
        return [out.numpy() if isinstance(out, torch.Tensor) else out for out in found]
