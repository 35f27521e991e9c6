"""The key-value cache of a decoder graph in ONNX Runtime: buffers it appends to in place, or arrays handed on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Manifest

FIRST = 256  # tokens of the first buffers; they double from there


class KeyValueCache:
    """Runs a decoder and keeps what it has seen.

    Where the bundle says that the graph appends in place, keys and values stand in buffers with room to grow, bound as
    past and present alike: a step then writes one row for each layer, instead of copying all rows before it.
    """

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session, self._in_place = session, manifest.cache.in_place
        component = manifest.components["text_decoder"]
        self._past = [spec.name for spec in component.inputs if spec.name.startswith("past_key_values.")]
        self._present = [spec.name for spec in component.outputs if spec.name.startswith("present.")]
        self._heads, self._width = manifest.cache.kv_heads, manifest.cache.head_dim
        self._values: list[Any] = []
        self._room = 0
        self.clear()

    def clear(self) -> None:
        """Forget all tokens; buffers keep their size."""
        self.length = 0
        if not self._in_place:
            self._values = [self._zeros(0)] * len(self._past)

    def cut(self, length: int) -> None:
        """Forget the tokens from `length` on."""
        self.length = length
        if not self._in_place:
            self._values = [value[:, :, :length] for value in self._values]

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Append tokens.

        Args:
            feeds: The decoder's inputs but the mask and the cache, for one prompt: inputs_embeds (1, T, D) among them.
        Returns:
            Logits (1, T, V).
        """
        tokens = feeds["inputs_embeds"].shape[1]
        self.length += tokens
        feeds = {**feeds, "attention_mask": np.ones((1, self.length), dtype=np.int64)}
        if self._in_place:
            return self._append(feeds, tokens)
        logits: NDArray[np.float32]
        logits, *self._values = self._session.run(None, {**feeds, **dict(zip(self._past, self._values, strict=True))})
        return logits

    def _append(self, feeds: dict[str, NDArray[Any]], tokens: int) -> NDArray[np.float32]:
        self._grow(self.length - tokens)
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for past, present, buffer in zip(self._past, self._present, self._values, strict=True):
            binding.bind_ortvalue_input(past, buffer)
            binding.bind_ortvalue_output(present, buffer)
        binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.get_outputs()[-1].numpy()
        return logits

    def _grow(self, kept: int) -> None:
        """Make room for all tokens, keeping the first `kept` rows."""
        from onnxruntime import OrtValue

        if self.length <= self._room:
            return
        self._room = max(FIRST, 2 * self._room, self.length)
        old = [value.numpy()[:, :, :kept] for value in self._values]
        self._values = []
        for number in range(len(self._past)):
            array = self._zeros(self._room)
            if old:
                array[:, :, :kept] = old[number]
            self._values.append(OrtValue.ortvalue_from_numpy(array))

    def _zeros(self, room: int) -> NDArray[np.float32]:
        return np.zeros((1, self._heads, room, self._width), dtype=np.float32)
