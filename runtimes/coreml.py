"""Core ML packages: by Core ML itself on a Mac, elsewhere by the evaluator of edgekit.runtimes.mil.

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
from edgekit.chat import Message
from edgekit.errors import BundleError, EdgekitError, MissingExtraError
from edgekit.families import Encoded, Pixels, by_bucket, gather, merge_images, spread_deepstack
from edgekit.mlprogram import DECODE, FUNCTIONS, Programs, package_of
from edgekit.processor import Processor
from edgekit.registry import missing_extra
from edgekit.runtimes.session import Logits, Prepared, VerifiedBy

if TYPE_CHECKING:
    from PIL.Image import Image

TARGETS = ("coreml",)
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
    bundle = Bundle.load(folder)
    if platform.system() == "Darwin":
        try:
            return CoremlSession(bundle, _native(bundle), "runtime")
        except ModuleNotFoundError as error:
            if not missing_extra(error, set(PACKAGES)):
                raise
            raise MissingExtraError("run a coreml bundle", "coremltools", "coreml") from error
    import torch

    from edgekit.runtimes.mil import open_programs

    torch.set_num_threads(threads)
    return CoremlSession(bundle, open_programs(bundle.folder, bundle.manifest.components), "evaluator")


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


class CoremlSession:
    """A bundle's programs, and the cache of one conversation."""

    def __init__(self, bundle: Bundle, programs: Programs, verified_by: VerifiedBy) -> None:
        self.verified_by = verified_by
        self._programs = programs
        self._manifest = manifest = bundle.manifest
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
        """Each picture by the function of its bucket, tiles one by one."""
        assert prepared.pixels is not None
        encoders = self._manifest.encoders()
        grids = {name: grid for name, (_, grid) in encoders.items()}
        parts: list[list[NDArray[np.float32]]] = []
        for name, values in by_bucket(grids, Pixels(prepared.pixels, prepared.grids)):
            parts += self._programs.vision(encoders[name][0], values)
        return gather(parts)

    def prefill(self, prepared: Prepared, features: Encoded | None) -> Logits:
        """The whole prompt, image embeddings merged in."""
        assert prepared.positions is not None
        self._programs.check_room(prepared.ids.shape[1])
        embeds = self.embed(prepared.ids)
        if features is not None:
            embeds = merge_images(embeds, prepared.ids, features.embeds, self.image_token_id)
        return self.decode(embeds, prepared.positions, self._spread(prepared.ids, features, embeds.shape[-1]))

    def decode_step(self, token: int) -> Logits:
        """One token with the cache."""
        ids = np.array([[token]], dtype=np.int64)
        axes = self._manifest.position_axes
        positions = np.full((1, 1) if axes == 1 else (axes, 1, 1), self._position, dtype=np.int64)
        self._programs.check_room(1)
        embeds = self.embed(ids)
        return self.decode(embeds, positions, self._spread(ids, None, embeds.shape[-1]))

    def decode_text(self, ids: list[int]) -> str:
        """By the bundle's tokenizer."""
        return self._processor.decode(ids, strip_end=False)

    def reset(self) -> None:
        """Empty the cache."""
        self._programs.reset()
        self._position = 0

    def rewind(self, length: int) -> int:
        """Go back: what lies behind the position is never read, and the next prefill says its positions."""
        self._programs.rewind(length)
        return length

    def close(self) -> None:
        """Drop the programs."""
        del self._programs

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        return self._programs.embed(ids)

    def decode(
        self, embeds: NDArray[np.float32], positions: NDArray[np.int64], deepstack: NDArray[np.float32] | None
    ) -> Logits:
        """As `session.Modules`."""
        self._position = int(positions.max()) + 1
        return self._programs.decode(embeds, positions, deepstack)

    def _spread(self, ids: NDArray[np.int64], features: Encoded | None, width: int) -> NDArray[np.float32] | None:
        if not (layers := self._manifest.deepstack):
            return None
        deepstack = None if features is None else features.deepstack
        return spread_deepstack(ids, deepstack, self.image_token_id, layers, width)
