"""Core AI, Apple's own runtime, in a process of its own; fed by edgekit's own preprocessing, transformers never loaded.

On macOS it is the runtime of the device. Its Linux package computes the same operations on the CPU and is for
correctness only: `timing_note` says so in every report.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.aimodel import LOAD_LIMIT_S, RUN_LIMIT_S, Assets, Runner, timing_note
from edgekit.bundle import Bundle
from edgekit.chat import Message
from edgekit.families import Encoded, Pixels, by_bucket, gather, merge_images, spread_deepstack
from edgekit.processor import Processor
from edgekit.runtimes.session import Logits, Prepared

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PACKAGES", "TARGETS", "CoreaiSession", "open_session", "timing_note"]

TARGETS = ("coreai",)
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


class CoreaiSession:
    """A bundle's assets, and the states that its caller owns: a reset goes back to their first place."""

    def __init__(self, bundle: Bundle, runner: Runner) -> None:
        manifest = bundle.manifest
        self._runner = runner
        self._assets = Assets(bundle.folder, manifest.components, runner)
        self._manifest = manifest
        self._processor = Processor.load(bundle.folder).for_sizes(manifest.preprocessing.get("sizes"))
        self.eos_token_ids = frozenset(manifest.text.eos_token_ids)
        self.vocab_size = self._processor.vocab_size
        self.image_token_id = manifest.text.image_token_id
        self.reset()

    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """By edgekit's own processor."""
        inputs = self._processor.encode(messages, images)
        if inputs.pixels is None:
            return Prepared(inputs.ids, None, positions=inputs.positions)
        return Prepared(inputs.ids, inputs.pixels.values, inputs.pixels.grids, inputs.positions, inputs.pixels.parts)

    def encode_image(self, prepared: Prepared) -> Encoded:
        """Each picture by the asset of its bucket, tiles one by one."""
        assert prepared.pixels is not None
        encoders = self._manifest.encoders()
        grids = {name: grid for name, (_, grid) in encoders.items()}
        parts = []
        for name, values in by_bucket(grids, Pixels(prepared.pixels, prepared.grids)):
            component, grid = encoders[name]
            parts.append(self._assets.encode(component, values, tiles=grid is None))
        return gather(parts)

    def prefill(self, prepared: Prepared, features: Encoded | None) -> Logits:
        """The whole prompt at once, image embeddings merged in."""
        assert prepared.positions is not None
        embeds = self.embed(prepared.ids)
        if features is not None:
            embeds = merge_images(embeds, prepared.ids, features.embeds, self.image_token_id)
        return self.decode(embeds, prepared.positions, self._spread(prepared.ids, features, embeds.shape[-1]))

    def decode_step(self, token: int) -> Logits:
        """One token after those in the states."""
        ids = np.array([[token]], dtype=np.int64)
        axes = self._manifest.position_axes
        positions = np.full((1, 1) if axes == 1 else (axes, 1, 1), self._position, dtype=np.int64)
        embeds = self.embed(ids)
        return self.decode(embeds, positions, self._spread(ids, None, embeds.shape[-1]))

    def decode_text(self, ids: list[int]) -> str:
        """By the bundle's tokenizer."""
        return self._processor.decode(ids, strip_end=False)

    def reset(self) -> None:
        """Start from the states' first place: what lies behind is never read."""
        self._length = self._position = 0

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

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        return self._assets.embed(ids)

    def decode(
        self, embeds: NDArray[np.float32], positions: NDArray[np.int64], deepstack: NDArray[np.float32] | None
    ) -> Logits:
        """As `session.Modules`."""
        logits: Logits = self._assets.decode(embeds, self._length, positions, deepstack)[0, -1]
        self._length += embeds.shape[1]
        self._position = int(positions.max()) + 1
        return logits

    def _spread(self, ids: NDArray[np.int64], features: Encoded | None, width: int) -> NDArray[np.float32] | None:
        if not (layers := self._manifest.deepstack):
            return None
        deepstack = None if features is None else features.deepstack
        return spread_deepstack(ids, deepstack, self.image_token_id, layers, width)
