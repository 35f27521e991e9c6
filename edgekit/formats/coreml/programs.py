"""How a student's Core ML programs are called: what the export's parity run and the runtime share.

It knows functions by what they take, and not who runs them: Core ML itself, or the evaluator of
`edgekit.formats.coreml.mil`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, ContextError
from edgekit.families.decoding import Given
from edgekit.manifest import Component

HIDDEN = -1e4
"""Added to the score of a token that may not be seen; float16 holds it, and exp of it is 0."""
DECODE = "decode"
"""The component that takes one token, where there is one beside `text_decoder`."""
FUNCTIONS = {"text_decoder": "prefill"}
"""Functions of a multifunction package that have another name than their component."""
CONTEXT, LENGTHS, LABEL = "edgekit.context", "edgekit.prompt_lengths", "edgekit.manifest"
"""Entries of a package's metadata: tokens the cache holds; sizes of a prefill, with commas; SHA-256 of what made it."""


class Function(Protocol):
    """A loaded function."""

    def make_state(self) -> Any:
        """A new state, all zeros."""

    def predict(self, inputs: Mapping[str, Any], state: Any = None) -> Mapping[str, Any]:
        """Run it once; states are written to."""


Opener = Callable[[str, str | None], Function]
"""(package inside the bundle, function or None for its only one) -> the function."""


def package_of(component: Component) -> str:
    """The `.mlpackage` folder of a component, as a name inside the bundle."""
    return PurePosixPath(component.file).parts[0]


class Programs:
    """A bundle's functions with the cache of one conversation.

    Attributes:
        length: Tokens in the cache.
    """

    def __init__(self, components: Mapping[str, Component], open_function: Opener, metadata: Mapping[str, str]) -> None:
        """Load all functions.

        Args:
            components: Of the bundle.
            open_function: Loads one.
            metadata: Of the package that holds the decoder.

        Raises:
            BundleError: the metadata lack what the decoder is called by.
        """
        shared = DECODE in components
        self._components = components
        self._functions = {
            name: open_function(package_of(part), FUNCTIONS.get(name, name) if shared else None)
            for name, part in components.items()
        }
        try:
            self.context = int(metadata[CONTEXT])
            self._lengths = sorted(int(size) for size in metadata[LENGTHS].split(",") if size)
            if min([self.context, *self._lengths]) < 1:
                raise ValueError(f"{CONTEXT} is {self.context}, {LENGTHS} are {metadata[LENGTHS]!r}")
        except (KeyError, ValueError) as error:
            raise BundleError(
                "The package's metadata do not say how its decoder is called.", why=repr(error), fix="Export it again."
            ) from error
        decoder = components["text_decoder"].inputs
        self._past = {spec.name: spec for spec in decoder if spec.name.startswith("past_")}
        self.reset()

    def vision(self, name: str, values: NDArray[np.float32]) -> Iterator[list[NDArray[np.float32]]]:
        """What a vision encoder gives: for tiles (M, 3, H, W) once for each, for patches or one view once."""
        for part in values[:, None] if values.ndim == 4 else [values]:
            yield self._run(name, {"pixel_values": part})

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        (embeds,) = self._run("token_embedding", {"input_ids": ids.astype(np.int32)})
        return embeds

    def decode(self, embeds: NDArray[np.float32], given: Given) -> NDArray[np.float32]:
        """Append embeddings (1, T, D) to the cache; the logits (V,) that follow them.

        Args:
            embeds: Of any number of tokens; they go in pieces where the package takes some lengths only.
            given: The decoder's extra inputs for them, by name.

        Raises:
            DataError: they do not fit into the cache.
        """
        tokens = embeds.shape[1]
        self.check_room(tokens)
        done, logits = 0, None
        for real, size in pieces(tokens, self._lengths, self.context - self.length):
            part = slice(done, done + real)
            feeds = {
                name: _pad(array[(*[slice(None)] * axis, part)], axis, size)
                for name, array, axis in self._by_token({"inputs_embeds": embeds, **given})
            }
            logits = self._step(feeds, real, size)
            done += real
        assert logits is not None
        last: NDArray[np.float32] = logits[0, -1]
        return last

    def _by_token(self, given: Given) -> Iterator[tuple[str, NDArray[Any], int]]:
        """Each input that the decoder takes, and its axis of tokens."""
        for spec in self._components["text_decoder"].inputs:
            if spec.name in given:
                free = [axis for axis, size in enumerate(spec.shape) if isinstance(size, str)]
                if len(free) != 1 or len(spec.shape) != given[spec.name].ndim:
                    raise _not_described("text_decoder", f"{spec.name!r} is of shape {list(spec.shape)!s:.80}")
                yield spec.name, given[spec.name], free[0]

    def check_room(self, tokens: int) -> None:
        """Refuse what does not fit.

        Raises:
            DataError: so many tokens do not fit behind those in the cache.
        """
        if self.length + tokens > self.context:
            raise ContextError(self.context, fix="or export it with a larger --option context=TOKENS")

    def reset(self) -> None:
        """Empty the cache. What lies behind the position is never read, so a state is kept; see `rewind`."""
        self.length = 0
        self._state = None if self._past else self._functions["text_decoder"].make_state()
        # Core ML has no array of size 0: an empty cache holds one token that the mask hides for good.
        self._grown = {
            name: np.zeros([1 if isinstance(size, str) else size for size in spec.shape], spec.dtype)
            for name, spec in self._past.items()
        }

    def rewind(self, length: int) -> None:
        """Keep the first tokens of the cache only."""
        self.length = length
        self._grown = {name: value[:, :, : length + 1] for name, value in self._grown.items()}

    def _step(self, feeds: dict[str, Any], real: int, size: int) -> NDArray[np.float32]:
        name = DECODE if size == 1 and DECODE in self._components else "text_decoder"
        ahead = 1 if self._past else 0  # the token that is always hidden
        wide = self.context if self._lengths else self.length + size + ahead
        feeds["attention_mask"] = causal_mask(self.length, size, wide, ahead)
        if self._lengths:
            feeds["start"] = np.array([self.length], dtype=np.int32)
        logits, *grown = self._run(name, {**feeds, **self._grown})
        self._grown = dict(zip(self._past, grown, strict=True))
        self.length += real
        return logits

    def _run(self, name: str, feeds: Mapping[str, Any]) -> list[NDArray[np.float32]]:
        part = self._components[name]
        if unknown := [spec.name for spec in part.inputs if spec.name not in feeds]:
            raise _not_described(name, f"it takes {unknown[0]!r}")
        given = {spec.name: np.ascontiguousarray(feeds[spec.name]).astype(spec.dtype) for spec in part.inputs}
        stateful = name in ("text_decoder", DECODE) and not self._past
        found = self._functions[name].predict(given, self._state if stateful else None)
        if absent := [spec.name for spec in part.outputs if spec.name not in found]:
            raise _not_described(name, f"it gives {absent[0]!r}")
        cached = [spec.name for spec in part.outputs if spec.name.startswith("present_")]
        return [
            np.asarray(found[spec.name]) if spec.name in cached else np.asarray(found[spec.name], dtype=np.float32)
            for spec in part.outputs
        ]


def _not_described(component: str, claim: str) -> BundleError:
    return BundleError(
        f"The manifest does not describe the program of {component!r}.",
        why=f"It says that {claim}, which is not so.",
        fix="Copy or export the bundle again.",
    )


def causal_mask(past: int, tokens: int, wide: int, ahead: int = 0) -> NDArray[np.float32]:
    """(1, 1, T, S): 0 where a token may look, else HIDDEN.

    Args:
        past: Tokens in the cache.
        tokens: T, new ones.
        wide: S.
        ahead: So many places at the start that nobody may look at.
    """
    place = np.arange(wide)[None]
    seen = (place >= ahead) & (place <= ahead + past + np.arange(tokens)[:, None])
    return np.where(seen, np.float32(0), np.float32(HIDDEN))[None, None]


def pieces(tokens: int, lengths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """How a prompt is cut: (tokens, size of the call) of each piece.

    The last token is always the last of its call, because a call gives the logits of its last row alone; the others
    may be followed by padding, whose places in the cache the next piece writes over.

    Args:
        tokens: At least one.
        lengths: Sizes a call can have, rising; any where there are none.
        room: Free places in the cache.
    """
    if not lengths:
        yield tokens, tokens
        return
    while tokens > 1:
        exact = tokens in lengths
        left = tokens if exact else tokens - 1
        fitting = [size for size in lengths if size <= room]
        size = next((size for size in fitting if size >= left), fitting[-1] if fitting else 1)
        real = min(left, size)
        yield real, size
        tokens, room = tokens - real, room - real
    if tokens:
        yield 1, 1


def _pad(values: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    missing = size - values.shape[axis]
    if not missing:
        return values
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, missing)
    return np.pad(values, widths)
