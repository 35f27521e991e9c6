"""The parts of a model in llama.cpp, run one by one: what the export's parity run and the runtime share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.families import Family, Pixels
from edgekit.families.decoding import POSITIONS, ExtraInput, Given
from edgekit.families.merging import Encoded
from edgekit.formats.gguf.process import LlamaModel

TABLE = "token_embd.weight"


class LlamaModules:
    """A loaded model whose images are edgekit's own tiles, in the order the model was trained on.

    Args:
        model: Loaded, with its mmproj.
        text: The text model's file, for the embedding table.
        family: Of the model; its `pictures` turns prepared pixels into images.
        params: Of its preprocessing.
        inputs: The decoder's extra inputs; llama.cpp takes those that clip's further outputs fill as columns behind the
            embeddings, and gives them so.
    """

    def __init__(
        self, model: LlamaModel, text: Path, family: Family, params: dict[str, Any], inputs: Sequence[ExtraInput]
    ) -> None:
        self.model, self._text, self._family, self._params = model, text, family, params
        self._extra = [one for one in inputs if one.feature]
        self._width = int(model.about["hidden"])
        self._rows: NDArray[np.float32] | None = None

    def encode(self, pixels: Pixels) -> Encoded:
        """Features of all images, by clip; it normalises by itself."""
        found = self.model.encode(self._family.images(pixels, self._params))
        whole = np.concatenate(found)
        extra, start = {}, self._width
        for one in self._extra:
            end = start + one.depth * self._width
            extra[one.feature] = whole[:, start:end].reshape(len(whole), one.depth, self._width).transpose(1, 0, 2)
            start = end
        return Encoded(whole[:, : self._width], extra)

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D), from the file's table; the library itself does not show it."""
        if self._rows is None:
            self._rows = read_table(self._text)
        return self._rows[ids]

    def decode(self, embeds: NDArray[np.float32], given: Given) -> NDArray[np.float32]:
        """Append embeddings (1, T, D) and what goes with them; the logits (V,) that follow."""
        more = [layer for one in self._extra for layer in given[one.name][:, 0]]
        rows = np.concatenate([embeds[0], *more], axis=-1) if more else embeds[0]
        logits = self.model.feed_embeds(rows, given[POSITIONS][..., 0, :])
        assert logits is not None
        return logits

    def prefill(
        self, ids: Sequence[int], positions: NDArray[np.int64], features: Encoded | None, image_token_id: int
    ) -> NDArray[np.float32]:
        """Append a prompt as llama.cpp's own programs do: words as ids, images as embeddings.

        Args:
            ids: (T,), placeholders expanded.
            positions: (T,), or (3, T) with M-RoPE.
            features: Of its images.
            image_token_id: The placeholder; without features it is a word like others.

        Returns:
            The logits (V,) that follow.
        """
        place = start = 0
        logits: NDArray[np.float32] | None = None
        while place < len(ids):
            is_image = features is not None and ids[place] == image_token_id
            end = place
            while end < len(ids) and (features is not None and ids[end] == image_token_id) == is_image:
                end += 1
            last, own = end == len(ids), positions[..., place:end]
            if is_image:
                assert features is not None
                part = slice(start, start + end - place)
                rows = [features.embeds[part]]
                rows += [layer for one in self._extra for layer in features.extra[one.feature][:, part]]
                logits = self.model.feed_embeds(np.concatenate(rows, axis=-1), own, last)
                start = part.stop
            else:
                words = own if own.ndim == 1 else own[0]  # a word's axes are equal
                logits = self.model.feed_tokens(np.array(ids[place:end]), words, last)
            place = end
        assert logits is not None
        return logits


def read_table(path: Path) -> NDArray[np.float32]:
    """The embedding table (V, D) of a text model, dequantised.

    Raises:
        BundleError: the file has none.
    """
    import gguf

    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == TABLE:
            table: NDArray[np.float32] = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            return table
    raise BundleError(f"{path} has no {TABLE}.", fix="Export the bundle again.")
