"""Modules of a model run one by one, from one side or another: what `edgekit verify` compares and swaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.families import family_of
from edgekit.families.decoding import ExtraInput, Given, Run, filled, next_positions
from edgekit.families.merging import Encoded, merge_images
from edgekit.inputs.chat import Message
from edgekit.runtimes.pytorch import Official, TorchSession
from edgekit.runtimes.session import Logits, Modules, Prepared

if TYPE_CHECKING:
    from PIL.Image import Image


class Preparer(Protocol):
    """What prepares prompts: any session."""

    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """See `Session`."""


class Reference:
    """The checkpoint's modules in PyTorch, as `session.Modules`.

    Vision is the untouched model's own; the decoder is the family's plain module over transformers' text model.

    Args:
        session: The loaded checkpoint; shared.
        sizes: Image sizes of the bundle, where its family bakes them.
    """

    def __init__(self, session: TorchSession, sizes: Sequence[tuple[int, int]] | None = None) -> None:
        self._session = session
        self._family = family_of(session.model.config.model_type)
        self._split = self._family.split(session.model, sizes)
        self.extra_inputs = self._split.extra_inputs
        self.image_token_id: int = self._split.image_token_id
        self.reset()

    def prepare(self, messages: list[Message], images: list[Image]) -> Official:
        """By the Hugging Face processor."""
        return self._session.prepare(messages, images)

    def encode_image(self, prepared: Prepared) -> Encoded:
        """By the untouched model, whoever prepared the pixels."""
        import torch

        if isinstance(prepared, Official):
            names = [one.feature for one in self._split.features]
            return _encoded(self._session.encode_image(prepared), names)
        with torch.no_grad():
            found = self._family.encode_images(
                self._session.model, torch.from_numpy(np.ascontiguousarray(prepared.pixels)), prepared.grids
            )
        return Encoded(
            found.embeds.float().numpy(), {name: value.float().numpy() for name, value in found.extra.items()}
        )

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """By the model's input embeddings."""
        import torch

        with torch.no_grad():
            embeds: NDArray[np.float32] = self._split.token_embedding(torch.from_numpy(ids)).float().numpy()
        return embeds

    def decode(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """By the text model, with a cache of transformers."""
        import torch

        self._length += embeds.shape[1]
        mask = torch.ones(1, self._length, dtype=torch.int64)
        rows, places, *features = (
            torch.from_numpy(np.ascontiguousarray(array))
            for array in (embeds, *(given[one.name] for one in self.extra_inputs))
        )
        with torch.no_grad():
            logits = self._split.text(rows, mask, places, self._cache, *features)
        last: Logits = logits[0, -1].float().numpy()
        return last

    def reset(self) -> None:
        """Empty the cache."""
        from transformers import DynamicCache

        text: Any = self._split.text
        self._cache = DynamicCache(config=text.text_model.config)
        self._length = 0


@dataclass(frozen=True)
class Mix:
    """A model put together from the modules of several sides.

    Attributes:
        preprocessing: Prepares prompts.
        vision, embedding, decoder: Run one module each.
        image_token_id, extra_inputs: Of the model.
    """

    preprocessing: Preparer
    vision: Modules
    embedding: Modules
    decoder: Modules
    image_token_id: int
    extra_inputs: tuple[ExtraInput, ...]

    def follow(self, messages: list[Message], images: list[Image], tokens: Sequence[int]) -> list[Logits]:
        """The logits (V,) before each of the given tokens, feeding them one by one."""
        self.decoder.reset()
        prepared = self.preprocessing.prepare(messages, images)
        assert prepared.positions is not None
        embeds = self.embedding.embed(prepared.ids)
        encoded = None if prepared.pixels is None else self.vision.encode_image(prepared)
        if encoded is not None:
            embeds = merge_images(embeds, prepared.ids, encoded.embeds, self.image_token_id)
        logits = [self.decoder.decode(embeds, self._given(prepared.ids, prepared.positions, encoded))]
        after = int(prepared.positions.max()) + 1
        for number, token in enumerate(tokens[:-1]):
            ids = np.array([[token]], dtype=np.int64)
            places = next_positions(self.extra_inputs, after + number)
            logits.append(self.decoder.decode(self.embedding.embed(ids), self._given(ids, places, None)))
        return logits

    def _given(self, ids: NDArray[np.int64], positions: NDArray[np.int64], encoded: Encoded | None) -> Given:
        extra = {} if encoded is None else encoded.extra
        return filled(self.extra_inputs, Run(ids, positions, self.image_token_id, extra))


def open_reference(folder: Path, threads: int) -> TorchSession:
    """The checkpoint in PyTorch."""
    from edgekit.runtimes.pytorch import open_session

    return open_session(folder, threads)


def _encoded(out: Any, names: Sequence[str]) -> Encoded:
    """What a model's get_image_features gives, as arrays: features, and further outputs by transformers' names."""
    import torch

    def joined(value: Any) -> Any:
        rows = [value] if isinstance(value, torch.Tensor) else list(value)
        return torch.cat([row.reshape(-1, row.shape[-1]) for row in rows]).float().numpy()

    extra = {name: np.stack([joined(layer) for layer in getattr(out, name)]) for name in names}
    return Encoded(joined(out.pooler_output), extra)
