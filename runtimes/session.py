"""A session: one model loaded in one runtime, answering one prompt at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoint.generation import PLAIN, Generation, Mode
from edgekit.families import Grid
from edgekit.families.decoding import Given
from edgekit.families.merging import Encoded
from edgekit.inputs.chat import Message

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgekit.inputs.processor import Inputs

Logits = NDArray[np.float32]
VerifiedBy = Literal["runtime", "evaluator"]


@dataclass(frozen=True)
class Prepared:
    """A prompt after preprocessing.

    Attributes:
        ids: int64 (1, T).
        pixels: float32, tiles (M, 3, H, W) or patches (M, patch) of all images; None without images.
        grids: Of each image, as the family counts it.
        positions: int64 (1, T) or (3, 1, T), where the runtime does not leave them to the model.
        parts: Entries of `pixels` that belong to each image.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.float32] | None
    grids: list[Grid] = field(default_factory=list)
    positions: NDArray[np.int64] | None = None
    parts: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, inputs: Inputs) -> Prepared:
        """From what edgekit's own processor gives."""
        if inputs.pixels is None:
            return cls(inputs.ids, None, positions=inputs.positions)
        return cls(inputs.ids, inputs.pixels.values, inputs.pixels.grids, inputs.positions, inputs.pixels.parts)

    def head(self, length: int) -> Prepared:
        """The first tokens of a prompt without images."""
        positions = None if self.positions is None else self.positions[..., :length]
        return replace(self, ids=self.ids[:, :length], positions=positions)

    def tail(self, start: int, image: int) -> Prepared:
        """What is left of a conversation when its first tokens are in the cache.

        Args:
            start: Tokens to leave out.
            image: Images to leave out: those whose tokens stand before `start`.
        """
        pixels = None
        if self.pixels is not None and image < len(self.parts):
            pixels = self.pixels[sum(self.parts[:image]) :]
        positions = None if self.positions is None else self.positions[..., start:]
        return replace(
            self,
            ids=self.ids[:, start:],
            pixels=pixels,
            grids=self.grids[image:],
            positions=positions,
            parts=self.parts[image:],
        )


class Session(ABC):
    """What every runtime offers; the loops over it exist once, in generate.py.

    Attributes:
        eos_token_ids: Those that end an answer.
        vocab_size: Tokens that can be an answer: entries of the tokenizer that have a row of the output head, and the
            other way.
        image_token_id: What stands in a prompt for an image.
        verified_by: What its answers are seen on: the runtime itself, or an evaluator of its programs.
        notes: For the report: what the runtime chose by itself.
    """

    eos_token_ids: frozenset[int]
    vocab_size: int
    image_token_id: int
    verified_by: VerifiedBy = "runtime"
    notes: Sequence[str] = ()

    @property
    def generation(self) -> Generation:
        """The model's own generation settings; none where the runtime knows of none.

        Raises:
            CheckpointError: they are not valid.
        """
        return PLAIN

    def helper_memory_bytes(self) -> int:
        """High-water mark of a process of the runtime's own, where it has one."""
        return 0

    @abstractmethod
    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """Tokenise and preprocess with the runtime's own code."""

    @abstractmethod
    def encode_image(self, prepared: Prepared) -> Any:
        """Features of all its images, in the runtime's own type; it has some."""

    @abstractmethod
    def prefill(self, prepared: Prepared, features: Any) -> Logits:
        """Append a prompt, or what is new of a conversation, to the cache; the logits (V,) that follow it.

        Without new images there are no features.
        """

    @abstractmethod
    def decode_step(self, token: int) -> Logits:
        """Append one token; the logits (V,) that follow it."""

    @abstractmethod
    def decode_text(self, ids: list[int]) -> str:
        """Text of generated tokens, special tokens left out; white space at its end is kept."""

    @abstractmethod
    def reset(self) -> None:
        """Empty the cache."""

    @abstractmethod
    def rewind(self, length: int) -> int:
        """Forget all but the first tokens of the cache; a prefill comes next.

        Args:
            length: Tokens to keep, not more than there are.

        Returns:
            How many are kept: `length`, or 0 where the runtime cannot keep some of them.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the session holds."""


def generation_of(session: Session, mode: Mode = "model") -> Generation:
    """The model's own generation settings; none for plain greedy decoding.

    Raises:
        CheckpointError: they are not valid.
    """
    return PLAIN if mode == "greedy" else session.generation


@runtime_checkable
class Unattended(Protocol):
    """A session whose runtime takes several steps by itself, where a message for each token would cost time."""

    def decode_steps(self, tokens: Sequence[int]) -> Logits:
        """Append tokens one by one, as so many `decode_step`; the logits (V,) that follow the last."""

    def greedy_steps(self, token: int, limit: int) -> Iterator[tuple[int, float]]:
        """Append a token, then the best token that follows, and so on.

        Args:
            token: The first.
            limit: How many to append at most; fewer where an end token comes.

        Yields:
            Each best token, not appended yet, and the milliseconds of its step. When the iterator is closed, what was
            appended behind the last token that was taken is forgotten.

        Raises:
            NotFiniteError: a logit is NaN or infinite.
        """


@runtime_checkable
class Modules(Protocol):
    """A session whose modules can be run one by one, for `edgekit verify` to compare and to swap them."""

    def encode_image(self, prepared: Prepared) -> Encoded:
        """Features of all its images."""

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""

    def decode(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """Append embeddings (1, T, D) to the cache; the logits (V,) that follow them.

        Args:
            embeds: Of new tokens.
            given: The decoder's extra inputs for them, by name.
        """

    def reset(self) -> None:
        """Empty the cache."""
