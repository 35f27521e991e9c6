"""What a decoder takes beside embeddings and a mask, and what it keeps from one run to the next.

A family names both; loops, targets and runtimes carry inputs as a mapping from name to array and states in their order,
and know none of them by name. A target says which kinds of either it can hold (`Target.knows`, beside `USUAL`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgekit.manifest import Manifest

Array = NDArray[Any]
Given = Mapping[str, Array]
"""The extra inputs of one run of a decoder, by name."""
BATCH, TOKENS = "batch", "tokens"
USUAL = frozenset({"positions", "axes", "features", "key", "value"})
"""Kinds of inputs and states that every target holds."""
POSITIONS = "position_ids"
DEEP_INPUT, DEEP_OUTPUT = "deepstack_embeds", "deepstack_features"


@dataclass(frozen=True)
class Run:
    """What is known of the tokens that a decoder is run on.

    Attributes:
        ids: (1, T).
        positions: (1, T), or (A, 1, T) where an axis has its own.
        image_token_id: Of the model.
        features: The vision encoder's further outputs (..., K, D) by name, of the K image tokens in `ids`; empty where
            there are no images.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    image_token_id: int
    features: Given = field(default_factory=dict)


def no_arguments(tensor: Any) -> dict[str, Any]:
    """Of an input that transformers' text model is not given by a name of its own."""
    return {}


@dataclass(frozen=True)
class ExtraInput:
    """An input of the decoder.

    Attributes:
        name: Of the programs' input.
        kind: What a target must be able to hold: positions, axes, blocks, features.
        shape: With the free sizes BATCH and TOKENS.
        dtype: NumPy's name.
        fill: A run -> its array, in NumPy.
        about: In a sentence, for a target that cannot hold it.
        feature: The vision encoder's output that it is filled from, (..., N, D); "" where it is from none.
        arguments: Its tensor -> arguments of transformers' own text model.
    """

    name: str
    kind: str
    shape: tuple[int | str, ...]
    dtype: str
    fill: Callable[[Run], Array] = field(compare=False)
    about: str = ""
    feature: str = ""
    arguments: Callable[[Any], dict[str, Any]] = field(default=no_arguments, compare=False)

    def sized(self, batch: Any, tokens: Any) -> tuple[Any, ...]:
        """The shape with these in the free sizes' places."""
        return tuple(
            {BATCH: batch, TOKENS: tokens}.get(size, size) if isinstance(size, str) else size for size in self.shape
        )

    @cached_property
    def of_one(self) -> tuple[int, ...]:
        """The shape of one token's, asked for at every step."""
        return self.sized(1, 1)

    def encoded(self, tokens: Any) -> tuple[Any, ...]:
        """Shape of the encoder's output that it is filled from."""
        return tuple(size for size in self.sized(BATCH, tokens) if size != BATCH)

    @property
    def depth(self) -> int:
        """How many times a token's width it holds for each token."""
        return int(np.prod([size for size in self.shape[:-1] if isinstance(size, int)], dtype=np.int64))


@dataclass(frozen=True)
class State:
    """What a decoder keeps of the tokens it has seen: one tensor of one layer, all zeros before the first token.

    Attributes:
        layer: Of the decoder.
        kind: key, value, conv (the last inputs of a short convolution), or recurrent (a matrix for each head).
        shape: Without the batch; None is the axis of tokens, which grows. A tensor without one has this shape always.
        about: In a sentence, for a target that cannot hold it.
    """

    layer: int
    kind: str
    shape: tuple[int | None, ...]
    about: str = field(default="", compare=False)

    @property
    def grows(self) -> bool:
        """Whether it has a row for every token."""
        return None in self.shape

    @property
    def rewinds(self) -> bool:
        """Whether its last tokens can be forgotten: rows can be cut, and what was mixed into one size cannot."""
        return self.grows

    def sized(self, tokens: int) -> tuple[int, ...]:
        """The shape with so many tokens in it, and a batch of one before."""
        return (1, *(tokens if size is None else size for size in self.shape))

    def empty(self) -> NDArray[np.float32]:
        """Before the first token."""
        return np.zeros(self.sized(0), dtype=np.float32)


def filled(inputs: Iterable[ExtraInput], run: Run) -> dict[str, Array]:
    """The extra inputs of one run."""
    return {one.name: one.fill(run) for one in inputs}


def positions(axes: int = 1) -> ExtraInput:
    """The decoder's positions.

    Args:
        axes: 1; 3 for M-RoPE's frame, row and column; 2 where an image's tokens see each other in both directions: the
            first is the position, the second that of the first token of the same image, for a token of text its own.
    """
    kinds = {1: ("positions", ""), 2: ("blocks", "its decoder lets the tokens of an image see each other")}
    kind, about = kinds.get(axes, ("axes", ""))
    shape: tuple[int | str, ...] = (BATCH, TOKENS) if axes == 1 else (axes, BATCH, TOKENS)
    return ExtraInput(POSITIONS, kind, shape, "int64", lambda run: run.positions, about)


def layer_features(layers: int, width: int) -> tuple[ExtraInput, ...]:
    """Vision features that are added behind the first decoder layers, zero off the image tokens.

    Source: Qwen3-VL's deepstack.

    Args:
        layers: How many; none where 0.
        width: D.
    """

    def spread(run: Run) -> Array:
        made = np.zeros((layers, *run.ids.shape, width), dtype=np.float32)
        if DEEP_OUTPUT in run.features:
            made[:, run.ids == run.image_token_id] = run.features[DEEP_OUTPUT]
        return made

    shape = (layers, BATCH, TOKENS, width)
    one = ExtraInput(DEEP_INPUT, "features", shape, "float32", spread, "deepstack features", DEEP_OUTPUT)
    return (one,) if layers else ()


def keys_and_values(layers: int, heads: int, width: int) -> tuple[State, ...]:
    """A key and a value (H, T, D_head) for each layer."""
    return tuple(State(layer, kind, (heads, None, width)) for layer in range(layers) for kind in ("key", "value"))


def convolution(layer: int, shape: tuple[int, int]) -> State:
    """The last inputs (D, kernel) of a layer that is a short convolution."""
    return State(layer, "conv", shape, "its decoder's cache holds states of convolutions beside keys and values")


def recurrence(layer: int, shape: tuple[int, int, int]) -> State:
    """The matrices (H, D_k, D_v) of a layer that mixes each token into one for each head."""
    return State(layer, "recurrent", shape, "its decoder's cache holds a matrix for each head beside keys and values")


class Named(Protocol):
    """An input of a decoder, as declared or as a manifest lists it."""

    @property
    def name(self) -> str:
        """Of the programs' input."""

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Numbers are fixed."""


def manifest_fields(inputs: Iterable[Named]) -> dict[str, Any]:
    """What a manifest says of a decoder's inputs, in fields that are older than their names."""
    shapes = {one.name: one.shape for one in inputs}
    # Core AI counts tokens by an input of that name, and calls positions of several axes otherwise.
    axes = next((shapes[name][0] for name in ("rotary_ids", POSITIONS) if len(shapes.get(name, ())) == 3), 1)
    return {"position_axes": axes, "deepstack": shapes[DEEP_INPUT][0] if shapes.get(DEEP_INPUT) else 0}


def inputs_of(manifest: Manifest) -> tuple[ExtraInput, ...]:
    """A bundle's extra inputs, `positions` first, by those fields."""
    shapes = {spec.name: spec.shape for spec in manifest.components["text_decoder"].inputs}
    width = shapes["inputs_embeds"][-1] if shapes.get("inputs_embeds") else 0
    return (
        positions(manifest.position_axes),
        *layer_features(manifest.deepstack, width if isinstance(width, int) else 0),
    )


def next_positions(inputs: Sequence[ExtraInput], place: int) -> NDArray[np.int64]:
    """Positions of one token behind all others: `place` on every axis."""
    return np.full(inputs[0].of_one, place, dtype=np.int64)
