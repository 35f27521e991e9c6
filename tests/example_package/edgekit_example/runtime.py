"""The runtime of the target `example`: PyTorch, on the modules made from its one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.families import Grid
from edgekit.families.decoding import Given
from edgekit.runtimes import Runtime
from edgekit.runtimes._bundled import BundleSession, last_logits
from edgekit.runtimes.session import Logits
from edgekit_example import weights

Array = NDArray[np.float32]


class ExampleSession(BundleSession):
    """The modules, and the cache of one conversation."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        import torch

        super().__init__(bundle)
        torch.set_num_threads(threads)
        self._split = weights.read(bundle.folder)
        self._past: list[Array] = []
        self.notes = ["weights are widened to float32 as they are loaded"]
        self.reset()

    def encode_part(self, component: str, grid: Grid | None, values: Array) -> Sequence[Sequence[Array]]:
        """By the split's only encoder."""
        return [_run(self._split.vision[""].module, values)]

    def embed(self, ids: NDArray[np.int64]) -> Array:
        """(1, T) -> (1, T, D)."""
        (embeds,) = _run(self._split.token_embedding, ids)
        return embeds

    def run_decoder(self, embeds: Array, given: Given) -> Logits:
        """With all that came before in the cache."""
        length = self._past[0].shape[2] + embeds.shape[1]
        mask = np.ones((1, length), dtype=np.int64)
        logits, *self._past = _run(self._split.text_decoder, embeds, mask, *given.values(), *self._past)
        return last_logits(logits, self.manifest.vocab_size)

    def reset(self) -> None:
        """Empty the cache."""
        super().reset()
        cache = self.manifest.cache
        self._past = [np.zeros((1, cache.kv_heads, 0, cache.head_dim), np.float32)] * (2 * cache.layers)

    def rewind(self, length: int) -> int:
        """Cut the cache."""
        self._past = [tensor[:, :, :length] for tensor in self._past]
        return length

    def close(self) -> None:
        """Drop the modules."""
        del self._split, self._past


def _run(module: Any, *arrays: NDArray[Any]) -> list[Array]:
    import torch

    with torch.no_grad():
        out = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
    return [tensor.numpy() for tensor in (out if isinstance(out, tuple) else (out,))]


def open_session(folder: Path, threads: int) -> ExampleSession:
    """Load a bundle of the target `example`."""
    return ExampleSession(Bundle.load(folder), threads)


RUNTIME = Runtime(targets=("example",), open_session=open_session, packages=("safetensors",))
