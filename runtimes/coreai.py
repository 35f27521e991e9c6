"""Core AI, Apple's own runtime, in a process of its own; fed by edgekit's own preprocessing, transformers never loaded.

On macOS it is the runtime of the device. Its Linux package computes the same operations on the CPU and is for
correctness only: `timing_note` says so in every report.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.families import Grid
from edgekit.families.decoding import Given
from edgekit.formats.coreai.assets import LOAD_LIMIT_S, RUN_LIMIT_S, Assets, Runner, timing_note
from edgekit.runtimes import Runtime
from edgekit.runtimes._bundled import BundleSession, last_logits
from edgekit.runtimes.session import Logits

PACKAGES = ("coreai-core",)


def open_session(
    folder: Path, threads: int, *, load_limit_s: float = LOAD_LIMIT_S, run_limit_s: float = RUN_LIMIT_S
) -> CoreaiSession:
    """Load a bundle of target coreai.

    Args:
        folder: The bundle; checked by `Bundle.load`.
        threads: Asked of the process; the Linux package has no setting for its own.
        load_limit_s, run_limit_s: Seconds for one asset to be compiled and loaded, and for one run.

    Raises:
        MissingExtraError: coreai-core is not installed.
        BundleError: not whole, or the runtime refuses an asset, breaks down or takes too long.
    """
    bundle = Bundle.load(folder)
    runner = Runner(threads, load_limit_s=load_limit_s, run_limit_s=run_limit_s)
    try:
        return CoreaiSession(bundle, runner)
    except BaseException:
        runner.close()
        raise


class CoreaiSession(BundleSession):
    """A bundle's assets, and the states that its caller owns: a reset goes back to their first place."""

    def __init__(self, bundle: Bundle, runner: Runner) -> None:
        super().__init__(bundle)
        self._runner = runner
        self._assets = Assets(bundle.folder, bundle.manifest.components, runner)
        self.reset()

    def encode_part(
        self, component: str, grid: Grid | None, values: NDArray[np.float32]
    ) -> list[list[NDArray[np.float32]]]:
        """By the bucket's asset, tiles one by one."""
        return [self._assets.encode(component, values, tiles=grid is None)]

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        return self._assets.embed(ids)

    def run_decoder(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """By the main asset and its states."""
        output = self._assets.decode(embeds, self._length, given)
        logits = last_logits(output, self.manifest.vocab_size)
        self._length += embeds.shape[1]
        return logits

    def reset(self) -> None:
        """Start from the states' first place: what lies behind is never read."""
        super().reset()
        self._length = 0

    def rewind(self, length: int) -> int:
        """Go back: what lies behind is never read, and the next prefill says its positions."""
        self._length = length
        return length

    def close(self) -> None:
        """End the runtime's process."""
        self._runner.close()

    def helper_memory_bytes(self) -> int:
        """High-water mark of the runtime's process, which stands beside this one."""
        return self._runner.peak_memory_bytes()


RUNTIME = Runtime(("coreai",), open_session, PACKAGES, timing_note=timing_note)
