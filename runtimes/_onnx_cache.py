"""The key-value cache of a decoder graph in ONNX Runtime: buffers it appends to in place, or arrays handed on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.manifest import Manifest

FIRST = 256  # tokens of the first buffers; they double from there


class KeyValueCache:
    """Runs a decoder and keeps what it has seen.

    Where the bundle says that the graph appends in place, keys and values stand in buffers with room to grow, bound as
    past and present alike: a step then writes one row for each layer, instead of copying all rows before it. States of
    convolutions have one size always, and are handed on as arrays.
    """

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session, self._in_place = session, manifest.cache.in_place
        component = manifest.components["text_decoder"]
        self._inputs = {spec.name for spec in component.inputs}
        past = [spec for spec in component.inputs if spec.name.startswith("past_")]
        self._past = [spec.name for spec in past]
        self._present = [spec.name for spec in component.outputs if spec.name.startswith("present")]
        self._shapes = [tuple(size if isinstance(size, int) else None for size in spec.shape[1:]) for spec in past]
        self._states = [None not in shape for shape in self._shapes]
        self._values: list[Any] = []
        self._room = 0
        self._binding: Any = None
        (logits,) = (spec for spec in component.outputs if spec.name == "logits")
        self._single_logits = np.zeros((1, 1, int(logits.shape[-1])), dtype=np.float32)
        self._single = self._bound(self._single_logits) if self._in_place else None
        self.clear()

    def clear(self) -> None:
        """Forget all tokens; buffers keep their size."""
        self.length = 0
        if not self._in_place:
            self._values = [self._zeros(shape, 0) for shape in self._shapes]
        elif self._values:
            self._binding = None if any(self._states) else self._binding
            self._values = [
                self._bound(self._zeros(shape, 0)) if state else value
                for shape, state, value in zip(self._shapes, self._states, self._values, strict=True)
            ]

    def cut(self, length: int) -> int:
        """Forget the tokens from `length` on.

        Returns:
            `length`, or 0 where states cannot go back, and nothing is forgotten.
        """
        if any(self._states):
            return 0
        self.length = length
        if not self._in_place:
            self._values = [value[:, :, :length] for value in self._values]
        return length

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Append tokens.

        Args:
            feeds: The decoder's inputs but the mask and the cache, for one prompt: inputs_embeds (1, T, D) among them.
                What the graph does not take, as positions that it counts by itself, is left out.

        Returns:
            Logits (1, T, V).
        """
        tokens = feeds["inputs_embeds"].shape[1]
        self.length += tokens
        feeds = {name: array for name, array in feeds.items() if name in self._inputs}
        feeds["attention_mask"] = np.ones((1, self.length), dtype=np.int64)
        if self._in_place:
            return self._append(feeds, tokens)
        logits: NDArray[np.float32]
        logits, *self._values = self._session.run(None, {**feeds, **dict(zip(self._past, self._values, strict=True))})
        return logits

    def _append(self, feeds: dict[str, NDArray[Any]], tokens: int) -> NDArray[np.float32]:
        self._grow(self.length - tokens)
        if self._binding is None:
            self._binding = self._bind()
        binding = self._binding
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        if tokens == 1 and not any(self._states):
            binding.bind_ortvalue_output("logits", self._single)
            self._session.run_with_iobinding(binding)
            return self._single_logits.copy()
        binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(binding)
        *present, logits = binding.get_outputs()
        if any(self._states):
            pairs = zip(present, self._values, self._states, strict=True)
            self._values, self._binding = [new if state else buffer for new, buffer, state in pairs], None
        last: NDArray[np.float32] = logits.numpy()
        return last

    def _bind(self) -> Any:
        """The cache in its places: bound once for many steps, as binding 120 buffers takes 2 % of a small model's."""
        binding = self._session.io_binding()
        for past, name, buffer, state in zip(self._past, self._present, self._values, self._states, strict=True):
            binding.bind_ortvalue_input(past, buffer)
            if state:  # it is read while the new one is written
                binding.bind_output(name, "cpu")
            else:
                binding.bind_ortvalue_output(name, buffer)
        return binding

    def _grow(self, kept: int) -> None:
        """Make room for all tokens, keeping the first `kept` rows."""
        if self.length <= self._room:
            return
        self._room = max(FIRST, 2 * self._room, self.length)
        old, self._values, self._binding = self._values or [None] * len(self._past), [], None
        for value, shape, state in zip(old, self._shapes, self._states, strict=True):
            array = self._zeros(shape, self._room)
            if value is not None and not state:
                array[:, :, :kept] = value.numpy()[:, :, :kept]
            self._values.append(value if value is not None and state else self._bound(array))

    @staticmethod
    def _bound(array: NDArray[np.float32]) -> Any:
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy(array)

    @staticmethod
    def _zeros(shape: tuple[int | None, ...], room: int) -> NDArray[np.float32]:
        return np.zeros((1, *(room if size is None else size for size in shape)), dtype=np.float32)
