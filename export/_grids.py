"""Palettes and scales of 4-bit blocks with the least square error of a weight, or of what its layer gives.

The second is each weight's error counted by the mean square of its input (`_moments.py`).

    palettes      1-D k-means, exact, weighted where calibrated. Source: SqueezeLLM, arXiv:2306.07629, section 4.1; a
                  weight counts by the loss's Fisher information there, while here all outputs of a layer are alike
    int4 blocks   a search for each block's scale. Source: llama.cpp, ggml-quants.c, make_qx_quants; where calibrated
                  with its importance matrix for weights
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.console import Bar
from edgekit.export._moments import Moments

BLOCK = 32  # inputs that share a scale in int4
# Scales that are tried: the block's largest magnitude over each of these; over 7 it is the plain grid's own. Far above
# it the largest is cut off, for the sake of the others.
STEPS = np.geomspace(5, 35, 56)
AT_ONCE = 1 << 18  # numbers that are searched at a time on each core: several float32 arrays of that size are held
LOWEST, HIGHEST = -8, 7

T = TypeVar("T")
R = TypeVar("R")


class Grids:
    """Grids of one export: searched on all cores, and once for a weight that several functions hold.

    So these hold the same numbers too, which is what lets a package keep one copy. Only palettes and scales are
    remembered, not what they are for: as much as the small part of the file.
    """

    def __init__(self, moments: Moments | None = None, bar: Bar | None = None, threads: int | None = None) -> None:
        """Begin.

        Args:
            moments: For calibrated grids.
            bar: Shows how far it is.
            threads: All cores that this process may use by default.
        """
        self._bar, self._done = bar, 0
        self._task: Any = None
        self._moments = moments or Moments()
        self._threads = threads or _cores()
        self._found: dict[bytes, Any] = {}

    @contextmanager
    def shown(self, label: str, weights: int) -> Iterator[None]:
        """Progress while grids of so many numbers are asked for; those that no grid fits are counted at the end."""
        if self._bar is None or not weights:
            yield
            return
        self._task, self._done = self._bar.add_task(label, total=weights), 0
        yield
        if self._done < weights:
            self._bar.update(self._task, completed=weights)
        self._task = None

    def palettes(self, weight: NDArray[Any], bits: int, rows: int, *, calibrated: bool) -> Sequence[NDArray[Any]]:
        """A palette for each group of outputs, as `best_palette` has them.

        Args:
            weight: (N, K).
            bits: Of an index.
            rows: Outputs that share a palette; N is a multiple of it.
            calibrated: Inputs count by their mean squares; a weight that was not measured is taken plainly.
        """
        importance = self._moments.of(weight) if calibrated else None

        def search() -> list[NDArray[Any]]:
            groups = (weight[start : start + rows] for start in range(0, len(weight), rows))
            return self._each(lambda group: best_palette(group, bits, importance), groups)

        found: list[NDArray[Any]] = self._once(weight, f"palette {bits} {rows}", importance, search)
        return found

    def blocks(self, weight: NDArray[Any], *, calibrated: bool) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Scales and whole numbers, as `best_scales` and `rounded` have them.

        Args:
            weight: (N, K), K a multiple of BLOCK.
            calibrated: As for `palettes`.
        """
        importance = self._moments.of(weight) if calibrated else None
        rows = max(1, AT_ONCE // weight.shape[1])
        parts = [weight[start : start + rows] for start in range(0, len(weight), rows)]

        def search() -> NDArray[Any]:
            return np.concatenate(self._each(lambda part: best_scales(part, importance), parts))

        scales: NDArray[Any] = self._once(weight, "blocks", importance, search)
        pairs = zip(parts, np.split(scales, range(rows, len(weight), rows)), strict=True)
        return scales, np.concatenate(self._each(lambda pair: rounded(*pair), pairs))

    def _each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """In threads: k-means and NumPy let go of the interpreter while they compute."""
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(work, items))

    def _once(
        self, weight: NDArray[Any], kind: str, importance: NDArray[np.float64] | None, search: Callable[[], Any]
    ) -> Any:
        key = hashlib.blake2b(f"{kind} {weight.dtype} {weight.shape}".encode(), digest_size=32)
        for numbers in (weight, importance):
            if numbers is not None:
                key.update(np.ascontiguousarray(numbers).view(np.uint8).data)
        found = self._found.get(key.digest())
        if found is None:
            found = self._found[key.digest()] = search()
        self._done += weight.size
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done)
        return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def best_palette(weight: NDArray[Any], bits: int, importance: NDArray[np.float64] | None = None) -> NDArray[Any]:
    """The palette with the least mean square error: exact 1-D k-means (coremltools' own `kmeans1d`).

    Below 10,000 numbers coremltools itself would take scikit-learn's iterations instead, from a random start.

    Args:
        weight: (N, K), outputs that share it.
        bits: Of an index.
        importance: (K,), above zero: what the square of an error counts for each input; all the same when None.

    Returns:
        At most 2^bits values of the weight's type, rising; fewer where the weight has fewer.
    """
    from coremltools._deps import _kmeans1d

    values, places = np.unique(weight, return_inverse=True)
    mass = None if importance is None else np.broadcast_to(importance, weight.shape).ravel()
    found = _kmeans1d.cluster(values, min(values.size, 1 << bits), weights=np.bincount(places.ravel(), mass))
    return np.array(found.centroids, weight.dtype)


def nearest(palette: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.uint8]:
    """The place in a rising palette that is nearest to each number of a weight; flat."""
    exact = palette.astype(np.float64)
    return np.searchsorted((exact[1:] + exact[:-1]) / 2, weight.ravel()).astype(np.uint8)


def best_scales(weight: NDArray[Any], importance: NDArray[np.float64] | None = None) -> NDArray[Any]:
    """Scales of 4-bit blocks with the least weighted square error that a search finds; never more than the plain grid.

    Args:
        weight: (N, K), K a multiple of BLOCK.
        importance: (K,), above zero: what the square of an error counts for each input; all the same when None.

    Returns:
        (N, K / BLOCK), of the weight's type.
    """
    if importance is None:
        importance = np.ones(weight.shape[1])
    blocks = weight.astype(np.float32).reshape(len(weight), -1, BLOCK)
    counted = importance.astype(np.float32).reshape(1, -1, BLOCK)
    largest = np.abs(blocks).max(-1, keepdims=True)
    # Not below what float16 tells from zero: a block of zeros is zeros whatever its scale.
    tiny = np.finfo(np.float16).tiny
    scales = np.maximum(largest / HIGHEST, tiny).astype(weight.dtype).astype(np.float32)
    errors = _error(blocks, counted, scales)
    for step in STEPS:
        # The best scale for the whole numbers that this one rounds to, then as the file will hold it.
        tried = _rounded(blocks, np.maximum(largest / np.float32(step), tiny))
        over = (counted * tried * tried).sum(-1, keepdims=True)
        fitted = (counted * tried * blocks).sum(-1, keepdims=True) / np.maximum(over, np.finfo(np.float32).tiny)
        fitted = np.maximum(fitted, tiny).astype(weight.dtype).astype(np.float32)
        found = _error(blocks, counted, fitted)
        better = found < errors
        errors, scales = np.where(better, found, errors), np.where(better, fitted, scales)
    best: NDArray[Any] = scales[..., 0].astype(weight.dtype)
    return best


def rounded(weight: NDArray[Any], scales: NDArray[Any]) -> NDArray[np.float32]:
    """Whole numbers -8 to 7 (N, K) of a weight (N, K) over scales (N, K / BLOCK)."""
    blocks = weight.astype(np.float32).reshape(len(weight), -1, BLOCK)
    return _rounded(blocks, scales.astype(np.float32)[..., None]).reshape(weight.shape)


def _rounded(blocks: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Core ML's int4 has an eighth step below zero, which coremltools' own grid leaves unused."""
    whole: NDArray[np.float32] = np.clip(np.rint(blocks / scales), LOWEST, HIGHEST)
    return whole


def _error(
    blocks: NDArray[np.float32], counted: NDArray[np.float32], scales: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weighted square error of each block, with its last axis kept."""
    gap = blocks - _rounded(blocks, scales) * scales
    total: NDArray[np.float32] = (counted * gap * gap).sum(-1, keepdims=True)
    return total
