"""Core ML packages: by Core ML itself on a Mac, elsewhere by the evaluator of edgekit.formats.coreml.mil.

The evaluator runs the program that ships with the weights that ship. What it says was checked is that program, not
Apple's rounding, placement or speed, so every line and row of it says `verified_by: evaluator`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, EdgekitError, MissingExtraError
from edgekit.families import Grid
from edgekit.families.decoding import Given
from edgekit.formats.coreml.programs import DECODE, FUNCTIONS, Programs, package_of
from edgekit.registry import missing_extra
from edgekit.runtimes import Runtime
from edgekit.runtimes._bundled import BundleSession
from edgekit.runtimes.session import Logits, VerifiedBy

if TYPE_CHECKING:
    pass

PACKAGES = ("coremltools",)


def open_session(folder: Path, threads: int) -> CoremlSession:
    """Load a bundle of target coreml.

    Args:
        folder: The bundle; checked by `Bundle.load`.
        threads: Of the evaluator; Core ML chooses its own.

    Raises:
        MissingExtraError: coremltools is not installed.
        BundleError: not whole, of a version that is not known, or refused by Core ML.
    """
    from edgekit.formats.coreml.mil import checked_packages, open_programs

    bundle = Bundle.load(folder)
    bundle.check_parts()
    packages = checked_packages(bundle)  # for Core ML itself too, before it compiles what is in them
    if platform.system() == "Darwin":
        try:
            return CoremlSession(bundle, _native(bundle), "runtime")
        except ModuleNotFoundError as error:
            if not missing_extra(error, set(PACKAGES)):
                raise
            raise MissingExtraError("run a coreml bundle", "coremltools", "coreml") from error
    import torch

    torch.set_num_threads(threads)
    return CoremlSession(bundle, open_programs(bundle.folder, bundle.manifest.components, packages), "evaluator")


class NativeFunction:
    """A function in Core ML itself, by coremltools' predict."""

    def __init__(self, package: Path, name: str | None) -> None:
        import coremltools

        try:
            self._model: Any = coremltools.models.MLModel(str(package), function_name=name)
        except Exception as error:  # coremltools raises what Core ML gives, of many types
            raise BundleError(
                f"Core ML does not load {f'function {name!r} of ' if name else ''}{package}.", why=str(error)[:500]
            ) from error

    @property
    def metadata(self) -> dict[str, str]:
        """The package's own entries."""
        return dict(self._model.user_defined_metadata)

    def make_state(self) -> Any:
        """A new state, all zeros."""
        return self._model.make_state()

    def predict(self, inputs: Mapping[str, Any], state: Any = None) -> Mapping[str, Any]:
        """Run it once.

        Raises:
            EdgekitError: Core ML refuses the inputs, or fails.
        """
        try:
            found: Mapping[str, Any] = self._model.predict(dict(inputs), state)
        except (RuntimeError, ValueError, TypeError) as error:
            raise EdgekitError("Core ML cannot run this function.", why=str(error)[:500]) from error
        return found


def _native(bundle: Bundle) -> Programs:
    components = bundle.manifest.components

    @cache
    def load(package: str, function: str | None) -> NativeFunction:
        return NativeFunction(bundle.path(package), function)

    decoder = package_of(components["text_decoder"])
    shared = DECODE in components
    metadata = load(decoder, FUNCTIONS["text_decoder"] if shared else None).metadata
    return Programs(components, load, metadata)


class CoremlSession(BundleSession):
    """A bundle's programs, and the cache of one conversation."""

    def __init__(self, bundle: Bundle, programs: Programs, verified_by: VerifiedBy) -> None:
        super().__init__(bundle)
        self.verified_by = verified_by
        self._programs = programs
        self.reset()

    def encode_part(
        self, component: str, grid: Grid | None, values: NDArray[np.float32]
    ) -> list[list[NDArray[np.float32]]]:
        """By the bucket's function, tiles one by one."""
        return list(self._programs.vision(component, values))

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        return self._programs.embed(ids)

    def run_decoder(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """By the functions for prompts and for single tokens."""
        return self._programs.decode(embeds, given)

    def check_room(self, tokens: int) -> None:
        """The cache has a fixed end."""
        self._programs.check_room(tokens)

    def reset(self) -> None:
        """Empty the cache."""
        super().reset()
        self._programs.reset()

    def rewind(self, length: int) -> int:
        """Go back: what lies behind the position is never read, and the next prefill says its positions."""
        if not self.manifest.cache.rewinds:
            return 0
        self._programs.rewind(length)
        return length

    def close(self) -> None:
        """Drop the programs."""
        del self._programs


RUNTIME = Runtime(("coreml",), open_session, PACKAGES)
