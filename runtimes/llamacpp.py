"""llama.cpp on the CPU in a process of its own, fed by edgekit's own preprocessing; torch is never loaded.

Words go in as ids, images as embeddings that llama.cpp's clip gives for edgekit's prepared tiles: so a prompt is the
one the student was trained on, tile for tile. What llama.cpp's own tokenizer and tiling would make of it is in the
manifest's details.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.errors import ContextError
from edgekit.families import FAMILIES, Pixels
from edgekit.families.decoding import POSITIONS, Given, inputs_of
from edgekit.families.merging import Encoded
from edgekit.formats.gguf.checks import check_files
from edgekit.formats.gguf.modules import LlamaModules
from edgekit.formats.gguf.process import LlamaModel, check_packages, repacking_works
from edgekit.formats.gguf.shared import NOT_FINITE
from edgekit.runtimes import Runtime
from edgekit.runtimes._bundled import PreparedSession
from edgekit.runtimes.sampling import not_finite
from edgekit.runtimes.session import Logits, Prepared

PACKAGES = ("gguf", "llama-cpp-python")


def open_session(folder: Path, threads: int) -> LlamaSession:
    """Load a bundle of target gguf.

    Args:
        folder: The bundle; checked by `Bundle.load`.
        threads: For prompts, single tokens and images.

    Raises:
        MissingExtraError: llama-cpp-python or gguf is not installed.
        BundleError: not whole, not what its manifest describes, or llama.cpp does not load it.
    """
    check_packages("run a gguf bundle")
    return LlamaSession(Bundle.load(folder), threads)


class LlamaSession(PreparedSession):
    """One context of llama.cpp; its cache holds the tokens at the positions in `_places`."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle)
        manifest, files = bundle.manifest, check_files(bundle)
        text, context, kind = files.text.path, files.context, files.kind
        repacked = repacking_works(text, kind)
        self.notes = [
            f"llama.cpp ran {kind} with use_extra_bufts={repacked}, {threads} thread(s), a context of {context} tokens."
        ]
        if not repacked:
            self.notes.append("Its self-test with use_extra_bufts=True crashed on this machine.")
        self._context = context
        self._model = LlamaModel(
            text,
            files.vision.path,
            threads=threads,
            context=context,
            exact=manifest.precision.common == "fp32",
            image_tokens=files.image_tokens,
            extra_bufts=repacked,
        )
        self._modules = LlamaModules(
            self._model, text, FAMILIES.load(manifest.family), manifest.preprocessing, inputs_of(manifest)
        )
        self.reset()

    def encode_image(self, prepared: Prepared) -> Encoded:
        """Each tile, or each image, by clip."""
        assert prepared.pixels is not None
        pixels = Pixels(prepared.pixels, prepared.grids, prepared.parts)
        if self.manifest.view_tokens("vision_encoder") is not None:
            self._views(pixels)  # clip would make a larger one smaller, and say nothing
        return self._modules.encode(pixels)

    def prefill(self, prepared: Prepared, features: Encoded | None) -> Logits:
        """Words as ids, images as embeddings."""
        assert prepared.positions is not None
        places = prepared.positions[..., 0, :]
        self._grow(places)
        return self._modules.prefill(prepared.ids[0].tolist(), places, features, self.image_token_id)

    def decode_step(self, token: int) -> Logits:
        """One token with the cache."""
        place = np.array([self._next], dtype=np.int64)
        self._grow(place)
        logits = self._model.feed_tokens(np.array([token]), place)
        assert logits is not None
        return logits

    def decode_steps(self, tokens: Sequence[int]) -> Logits:
        """Tokens one by one with the cache, in llama.cpp's process."""
        places = self._next + np.arange(len(tokens))
        self._grow(places)
        return self._model.feed_each(np.array(tokens), places)

    def greedy_steps(self, token: int, limit: int) -> Generator[tuple[int, float], None, None]:
        """As `session.Unattended`, in llama.cpp's process."""
        room, best = self._context - len(self._places), token
        with closing(self._model.greedy(token, self._next, min(limit, room), self.eos_token_ids)) as steps:
            for best, milliseconds in steps:
                self._grow(np.array([self._next]))
                if best == NOT_FINITE:
                    raise not_finite()
                yield best, milliseconds
        if limit > room and best not in self.eos_token_ids:
            self._grow(np.array([self._next]))

    def reset(self) -> None:
        """Empty the cache."""
        self._places: list[int] = []
        self._next = 0
        self._model.cut(0)

    def rewind(self, length: int) -> int:
        """Cut the cache at a token's position; all tokens before it stand at lower ones."""
        if length >= len(self._places):
            return length
        if length == 0 or not self._model.cut(self._places[length]):
            self.reset()
            return 0
        del self._places[length:]
        return length

    def close(self) -> None:
        """End llama.cpp's process."""
        self._model.close()

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        return self._modules.embed(ids)

    def decode(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """As `session.Modules`."""
        self._grow(given[POSITIONS][..., 0, :])
        return self._modules.decode(embeds, given)

    def perf(self) -> dict[str, float]:
        """llama.cpp's own counters since the last call."""
        return self._model.perf()

    def helper_memory_bytes(self) -> int:
        """High-water mark of llama.cpp's process."""
        return self._model.peak_memory_bytes()

    def own_logits(self, text: str, images: list[NDArray[np.uint8]]) -> tuple[list[int], Logits]:
        """A prompt cut and fed by llama.cpp itself, as its own programs do, but for this session's image token limits.

        Args:
            text: Rendered, with `<__media__>` where an image stands.
            images: (H, W, 3) each.

        Returns:
            Its ids, -1 for an image's, and the logits (V,) that follow.
        """
        self.reset()
        ids, position, logits = self._model.own(text, images, evaluate=True)
        assert logits is not None
        # Where each token stands does not matter: nothing of this prompt is kept for another.
        self._places, self._next = [0] * len(ids), position
        return ids, logits

    def _grow(self, places: NDArray[np.int64]) -> None:
        """Note the positions (T,) or (3, T) of what is appended.

        Raises:
            DataError: the cache has no room for it.
        """
        if len(self._places) + places.shape[-1] > self._context:
            raise ContextError(self._context)
        first: Any = places if places.ndim == 1 else places[0]
        self._places += first.tolist()
        self._next = int(places.max()) + 1


RUNTIME = Runtime(("gguf",), open_session, PACKAGES)
