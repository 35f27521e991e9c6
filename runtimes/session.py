"""A session: one model loaded in one runtime, answering one prompt at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.chat import Message
from edgekit.families import Grid

if TYPE_CHECKING:
    from PIL.Image import Image

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """A prompt after preprocessing.

    Attributes:
        ids: int64 (1, T).
        pixels: float32, tiles (M, 3, H, W) or patches (M, patch) of all images; None without images.
        grids: Of each image, as the family counts it.
        positions: int64 (1, T) or (3, 1, T), where the runtime does not leave them to the model.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.float32] | None
    grids: list[Grid] = field(default_factory=list)
    positions: NDArray[np.int64] | None = None


class Session(Protocol):
    """What every runtime offers; the loops over it exist once, in generate.py."""

    eos_token_ids: frozenset[int]

    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """Tokenise and preprocess with the runtime's own code."""

    def encode_image(self, prepared: Prepared) -> Any:
        """Features of all its pictures, in the runtime's own type; it has some."""

    def prefill(self, prepared: Prepared, features: Any) -> Logits:
        """Run a whole prompt from an empty cache; the logits (V,) that follow it. No features without pictures."""

    def decode_step(self, token: int) -> Logits:
        """Append one token; the logits (V,) that follow it."""

    def decode_text(self, ids: list[int]) -> str:
        """Text of generated tokens."""

    def reset(self) -> None:
        """Empty the cache."""

    def close(self) -> None:
        """Free what the session holds."""
