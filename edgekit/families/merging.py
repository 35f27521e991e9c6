"""From what vision encoders give to what the decoder is given, in NumPy: the same for every runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError, DataError
from edgekit.families import Grid, Pixels


@dataclass(frozen=True)
class Encoded:
    """What exported vision encoders give for the K image tokens of a prompt, in the pictures' order.

    Attributes:
        embeds: (K, D).
        deepstack: (L, K, D); None for most families.
    """

    embeds: NDArray[np.float32]
    deepstack: NDArray[np.float32] | None = None


def by_bucket(grids: Mapping[str, Grid | None], pixels: Pixels) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Which vision encoder takes which part of a prompt's pixels, in the pictures' order.

    Args:
        grids: Of each bucket; None where a bucket takes tiles, all pictures' at once.
        pixels: Of all pictures.
    Raises:
        DataError: a picture's grid has no bucket.
    """
    if set(grids.values()) == {None}:
        yield next(iter(grids)), pixels.values
        return
    names = {grid: name for name, grid in grids.items()}
    start = 0
    for grid in pixels.grids:
        if grid not in names:
            raise DataError(
                f"A picture of {' x '.join(map(str, grid))} patches has no vision encoder here.",
                why=f"There are encoders for {', '.join(' x '.join(map(str, known)) for known in names if known)}.",
                fix="Prepare pictures with the bundle's own parameters.",
            )
        size = math.prod(grid)
        yield names[grid], pixels.values[start : start + size]
        start += size


def gather(
    parts: Sequence[Sequence[NDArray[np.float32]]], pack: Callable[[NDArray[np.float32]], Any] | None = None
) -> Encoded:
    """The outputs of several runs of vision encoders as one: (N, D) or (M, N, D), and (L, N, D) where there are two.

    Args:
        parts: Of each run.
        pack: The family's, of these grids: from the features of all tiles (M, N, D) to (K, D).
    """
    if pack is not None:
        return Encoded(pack(np.concatenate([part[0].reshape(-1, *part[0].shape[-2:]) for part in parts])))
    embeds = np.concatenate([part[0].reshape(-1, part[0].shape[-1]) for part in parts])
    deepstack = np.concatenate([part[1] for part in parts], axis=1) if len(parts[0]) > 1 else None
    return Encoded(embeds, deepstack)


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
            why="The prompt and the pictures do not belong together, or a literal image token stands in the question.",
        )
    merged = embeds.copy()
    merged[where] = flat
    return merged


def spread_deepstack(
    ids: NDArray[np.int64], deepstack: NDArray[np.float32] | None, image_token_id: int, layers: int, width: int
) -> NDArray[np.float32]:
    """Deepstack features (L, K, D) at the image tokens of ids (1, T), zero elsewhere: (L, 1, T, D).

    Args:
        ids: Of a prompt, or of one token.
        deepstack: None for a prompt without pictures.
        image_token_id: Of the model.
        layers, width: L and D.
    """
    spread = np.zeros((layers, *ids.shape, width), dtype=np.float32)
    if deepstack is not None:
        spread[:, ids == image_token_id] = deepstack
    return spread
