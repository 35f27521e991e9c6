"""ExecuTorch on the CPU by its Python binding, fed by edgekit's own preprocessing; transformers is never loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, ContextError, MissingExtraError
from edgekit.families import Grid
from edgekit.families.decoding import Given
from edgekit.formats.declared import check_numbers, check_tensors
from edgekit.formats.executorch.delegates import BACKENDS, backend_of, check_here
from edgekit.formats.executorch.program import Program, registered
from edgekit.formats.executorch.program import rehearse as try_out
from edgekit.registry import missing_extra
from edgekit.runtimes import Runtime
from edgekit.runtimes._bundled import BundleSession, last_logits
from edgekit.runtimes.session import Logits

if TYPE_CHECKING:
    pass

PACKAGES = ("executorch",)
NUMBERS = {"vocab_size": "get_vocab_size", "cache.layers": "get_n_layers"}
"""Fields of the manifest, and the methods that say them too."""


def open_session(folder: Path, threads: int) -> ExecutorchSession:
    """Load a bundle of target executorch.

    Args:
        folder: The bundle; checked by `Bundle.load`.
        threads: Of the runtime's thread pool.

    Raises:
        MissingExtraError: executorch is not installed.
        BundleError: not whole, or the runtime refuses the program.
    """
    bundle = Bundle.load(folder)
    try:
        return ExecutorchSession(bundle, threads)
    except ModuleNotFoundError as error:
        if not missing_extra(error, set(PACKAGES)):
            raise
        raise MissingExtraError("run an executorch bundle", "executorch", "executorch") from error


def rehearse(folder: Path) -> None:
    """Do what the first load of a bundle's program does besides loading it; a bench calls it before it takes times.

    Raises:
        BundleError: as `open_session`.
    """
    bundle = Bundle.load(folder)
    bundle.check_parts()
    if not _evaluated(bundle):
        _rehearse(bundle)


def _evaluated(bundle: Bundle) -> bool:
    """Whether edgekit's own evaluator stands in for a back-end that is not here.

    Raises:
        NotHereError: the back-end is not here, and nothing stands in for it.
    """
    name, here = backend_of(bundle.manifest.details), registered()
    if BACKENDS[name].delegate not in here and BACKENDS[name].evaluated:
        return True
    check_here(name, here)
    return False


def _rehearse(bundle: Bundle) -> None:
    components = bundle.manifest.components
    file = components["text_decoder"].file
    try_out(bundle.path(file), bundle.manifest.files[file].sha256, list(components))


class ExecutorchSession(BundleSession):
    """One program whose cache is its own; it stands at a position, and a reset goes back to the first."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle)
        components = self.manifest.components
        self._program: Program
        evaluated = _evaluated(bundle)
        if not evaluated:
            _rehearse(bundle)
        for name, part in components.items():
            if part.file != components["text_decoder"].file:
                raise BundleError(
                    f"components.{name}.file: {part.file} is not the program.",
                    why=f"All methods are in {components['text_decoder'].file}.",
                    fix="Copy or export the bundle again.",
                )
        if evaluated:
            from edgekit.formats.executorch.coreml_delegate import EvaluatedProgram

            self.verified_by = "evaluator"
            self._program = EvaluatedProgram(bundle.path(components["text_decoder"].file), threads)
        else:
            self._program = Program(bundle.path(components["text_decoder"].file), threads)
        check_tensors(components, {name: self._program.declared(name) for name in components})
        check_numbers(self.manifest, {path: self._number(method) for path, method in NUMBERS.items()})
        self._context = self._number("get_max_context_len")
        for name in self.manifest.components:  # unpack the weights now, not in the first answer
            self._program.load(name)
        self._takes = [spec.name for spec in components["text_decoder"].inputs[2:]]
        self._length = 0

    def _number(self, method: str) -> int:
        """What a method without inputs says.

        Raises:
            BundleError: no whole number, or none above 0.
        """
        (found, *_) = [*self._program.run(method), None]
        if not isinstance(found, int) or found < 1:
            raise BundleError(f"The program's method {method!r} gives {found!r:.80}.", fix="Export the bundle again.")
        return found

    def encode_part(
        self, component: str, grid: Grid | None, values: NDArray[np.float32]
    ) -> list[list[NDArray[np.float32]]]:
        """By the bucket's method, tiles one by one."""
        runs = [tile[None] for tile in values] if grid is None else [values]
        return [self._program.run(component, part) for part in runs]

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        embeds: NDArray[np.float32] = self._program.run("token_embedding", ids)[0]
        return embeds

    def run_decoder(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """By the decoder's method; positions of one axis it counts itself."""
        start, self._length = self._length, self._length + embeds.shape[1]
        more = [given[name] for name in self._takes if name in given]
        output = self._program.run("text_decoder", embeds, np.array([start], dtype=np.int64), *more)[0]
        return last_logits(output, self.manifest.vocab_size)

    def check_room(self, tokens: int) -> None:
        """The cache has a fixed end."""
        if self._length + tokens > self._context:
            raise ContextError(self._context)

    def reset(self) -> None:
        """Empty the cache: what lies behind the position is never read."""
        super().reset()
        self._length = 0

    def rewind(self, length: int) -> int:
        """Go back: what lies behind the position is never read, and the next prefill says its positions."""
        if not self.manifest.cache.rewinds:
            return 0
        self._length = length
        return length

    def close(self) -> None:
        """Drop the program."""
        self._program.close()
        del self._program


RUNTIME = Runtime(("executorch",), open_session, PACKAGES, rehearse=rehearse)
