"""Bounds of what a model folder says of its images and words, before anything of that size is made.

A folder may come from anywhere. Bounds are some ten times above what any known model has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, EdgekitError
from edgekit.schema import listed

MOST_TOKENIZER_BYTES = 64 << 20
"""Gemma 3's, the largest known, has 33 MB."""
MOST_GROWTH = 64
"""Characters that a normaliser may make of one."""
MOST_AREA = 1 << 24
"""Pixels of an image that is resized."""
NUMBERS: dict[str, tuple[float, float]] = {
    "resample": (0, 5), "longest_edge": (1, 1 << 20), "tile": (1, 2048), "tile_size": (1, 2048),
    "min_pixels": (0, MOST_AREA), "max_pixels": (1, 1 << 28), "patch": (1, 1024), "encoder_patch_size": (1, 1024),
    "temporal_patch": (1, 64), "merge": (1, 64), "downsample_factor": (1, 64), "min_tiles": (0, 1024),
    "max_tiles": (1, 1024), "min_image_tokens": (1, 1 << 16), "max_image_tokens": (1, 1 << 16), "per_side": (1, 1024),
    "image_seq_len": (1, 1 << 16), "image_token_id": (0, 1 << 24), "canvases": (1, 1 << 14),
    "rescale_factor": (1e-12, 1e12), "max_pixels_tolerance": (1e-6, 1e6), "mean": (-1e6, 1e6), "std": (1e-12, 1e6),
    "sizes": (1, 1 << 14), "table_edge": (1, 1024),
}  # fmt: skip
"""Of `read_preprocessing`, by name; of a list each."""
COUNTS = {"mean": 3, "std": 3}


@contextmanager
def rust_errors(what: str) -> Iterator[None]:
    """Turn what the tokenizers library raises into a CheckpointError: bare exceptions, and panics that are none."""
    try:
        yield
    except EdgekitError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise CheckpointError(what, why=str(error)[:500]) from error
        raise


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn what a family's reader makes of settings of wrong types into a CheckpointError."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise CheckpointError(
            f"The settings of {source} are none that a model has.", why=f"{type(error).__name__}: {str(error)[:300]}",
            fix="Copy the model's own configuration files.",
        ) from error  # fmt: skip


def check_params(params: dict[str, Any], source: str) -> None:
    """Look at a family's image parameters.

    Raises:
        CheckpointError: one is out of bounds; all that are, are named.
    """
    if problems := [*_params(params), *_areas(params)]:
        raise CheckpointError(
            f"The image parameters of {source} are none that a model has:", why=listed(problems),
            fix="Copy the model's own configuration files.",
        )  # fmt: skip


def _params(params: dict[str, Any]) -> Iterator[str]:
    for name, (low, high) in NUMBERS.items():
        if name not in params or params[name] is None:
            continue
        numbers = list(_flat(params[name]))
        if len(numbers) != COUNTS.get(name, len(numbers)) or not numbers or len(numbers) > 4096:
            yield f"{name}: {len(numbers)} numbers"
        for number in numbers[:4096]:
            if not isinstance(number, (int, float)) or not (math.isfinite(number) and low <= number <= high):
                yield f"{name}: {str(number)[:40]} is not from {low:g} to {high:g}"


def _areas(params: dict[str, Any]) -> Iterator[str]:
    sizes = params.get("sizes")
    for size in sizes if isinstance(sizes, list) else ():
        if isinstance(size, (list, tuple)) and len(size) == 2 and _product(size) > MOST_AREA:
            yield f"sizes: {size[0]} x {size[1]} is more than {MOST_AREA:,} pixels"
    patch, merge = (params.get(name, 1) for name in ("patch", "merge"))
    if isinstance(patch, int) and isinstance(merge, int) and (patch * merge) ** 2 > MOST_AREA:
        yield f"patch and merge: blocks of {patch * merge} pixels"


def _product(size: Any) -> float:
    return float(size[0]) * float(size[1]) if all(isinstance(edge, (int, float)) for edge in size) else 0.0


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def check_tokenizer_file(path: Path) -> None:
    """Look at a tokenizer.json before it is read.

    Raises:
        CheckpointError: not there, no regular file, or too large.
    """
    problem = ""
    if not path.is_file():
        problem = "It is no regular file." if path.exists() else "It is not there."
    elif (size := path.stat().st_size) > MOST_TOKENIZER_BYTES:
        problem = f"It has {size:,} bytes, and no more than {MOST_TOKENIZER_BYTES:,} are read."
    if problem:
        raise CheckpointError(f"Cannot read {path}.", why=problem, fix="Copy it from the model's original folder.")


def check_tokenizer(tokenizer: Any, source: str) -> None:
    """Look what a tokenizer's rules can make of a text; how long its patterns search, its own library bounds.

    Raises:
        CheckpointError: too much.
    """
    growth = 1.0
    for rule in _all(_rules(tokenizer.normalizer)):
        if rule.get("type") in ("Replace", "Prepend"):
            growth *= max(1, len(str(rule.get("content", rule.get("prepend", "")))))
    if growth > MOST_GROWTH:
        raise CheckpointError(
            f"The tokenizer of {source} is none that a model has.",
            why=f"Its normaliser can make {growth:.3g} characters of one, and no more than {MOST_GROWTH} are made.",
        )


def _rules(part: Any) -> Any:
    if part is None:
        return {}
    state = part.__getstate__()
    return json.loads(state if isinstance(state, (str, bytes)) else "{}")


def _all(rule: Any) -> Iterator[dict[str, Any]]:
    if isinstance(rule, dict):
        yield rule
    for one in rule.values() if isinstance(rule, dict) else rule if isinstance(rule, list) else ():
        yield from _all(one)
