"""From what vision encoders give to what the decoder is given, in NumPy: the same for every runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError, DataError
from edgekit.families import ANY_GRID, Grid, Pixels, Split
from edgekit.families.decoding import ExtraInput


@dataclass(frozen=True)
class Encoded:
    """What exported vision encoders give for the K image tokens of a prompt, in the images' order.

    Attributes:
        embeds: (K, D).
        extra: Further outputs (..., K, D) by name, as the decoder's `ExtraInput.feature` has them.
    """

    embeds: NDArray[np.float32]
    extra: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def runs_of(split: Split, pixels: Pixels) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """As `by_bucket`, for the modules that a target exports."""
    return by_bucket({name: part.grid for name, part in split.vision.items()}, pixels, split.views)


def by_bucket(
    grids: Mapping[str, Grid | None],
    pixels: Pixels,
    views: Callable[[Pixels], list[NDArray[np.float32]]] | None = None,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Which vision encoder takes which part of a prompt's pixels, in the images' order.

    Args:
        grids: Of each bucket; None where a bucket takes tiles, all images' at once; ANY_GRID where it takes any view.
        pixels: Of all images.
        views: The family's, where there may be such an encoder.

    Raises:
        DataError: an image's grid has no bucket.
    """
    if set(grids.values()) == {None}:
        yield next(iter(grids)), pixels.values
        return
    if set(grids.values()) == {ANY_GRID} and views is not None:
        yield from ((next(iter(grids)), view) for view in views(pixels))
        return
    names = {grid: name for name, grid in grids.items()}
    start = 0
    for grid in pixels.grids:
        if grid not in names:
            raise DataError(
                f"An image of {' x '.join(map(str, grid))} patches has no vision encoder here.",
                why=f"There are encoders for {', '.join(' x '.join(map(str, known)) for known in names if known)}.",
                fix="Prepare images with the bundle's own parameters.",
            )
        size = math.prod(grid)
        yield names[grid], pixels.values[start : start + size]
        start += size


def gather(
    parts: Sequence[Sequence[NDArray[np.float32]]],
    inputs: Iterable[ExtraInput] = (),
    pack: Callable[[NDArray[np.float32]], Any] | None = None,
) -> Encoded:
    """The outputs of several runs of vision encoders as one: (N, D) or (M, N, D) of each, then its further outputs.

    Args:
        parts: Of each run.
        inputs: The decoder's, which name further outputs in their order.
        pack: The family's, of these grids: from the features of all tiles (M, N, D) to (K, D).

    Raises:
        CheckpointError: the encoder gives fewer outputs than that.
    """
    if pack is not None:
        return Encoded(pack(np.concatenate([part[0].reshape(-1, *part[0].shape[-2:]) for part in parts])))
    embeds = np.concatenate([part[0].reshape(-1, part[0].shape[-1]) for part in parts])
    names = [one.feature for one in inputs if one.feature]
    if len(parts[0]) <= len(names):
        raise CheckpointError(
            f"The vision encoder gives {len(parts[0])} outputs, and the decoder is filled from {1 + len(names)}.",
            why="They are not of one model.",
            fix="Export the bundle again.",
        )
    extra = {name: np.concatenate([part[place] for part in parts], axis=-2) for place, name in enumerate(names, 1)}
    return Encoded(embeds, extra)


def merge_images(
    embeds: NDArray[np.float32], ids: NDArray[np.int64], features: NDArray[np.float32], image_token_id: int
) -> NDArray[np.float32]:
    """Put image embeddings (K, D) or (M, N, D) in the places of the image tokens of ids (1, T) in embeds (1, T, D).

    Raises:
        CheckpointError: the prompt has room for another number of image tokens than the encoder gave.
    """
    where = ids == image_token_id
    flat = features.reshape(-1, features.shape[-1])
    if int(where.sum()) != flat.shape[0]:
        raise CheckpointError(
            f"The prompt has {int(where.sum())} image tokens but the vision encoder gave {flat.shape[0]} embeddings.",
            why="The prompt and the images do not belong together, or a literal image token stands in the question.",
        )
    merged = embeds.copy()
    merged[where] = flat
    return merged
