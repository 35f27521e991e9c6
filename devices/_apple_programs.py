"""The programs of a Core ML bundle as their descriptions say, and what calls of them are given when they are timed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError

PREFILL_TOKENS = (16, 64, 256)


@dataclass(frozen=True)
class Program:
    """One function of a package, as its description says."""

    package: Path
    function: str | None
    inputs: dict[str, tuple[tuple[int, int], ...]]
    """Range of each axis; an upper end of -1 is none."""
    dtypes: dict[str, type[np.generic]]
    stateful: bool

    @property
    def name(self) -> str:
        """For the raw samples."""
        return self.package.stem if self.function is None else f"{self.package.stem}:{self.function}"

    @property
    def decodes(self) -> bool:
        """Whether it is the text decoder: it takes embeddings of free length, or keeps a cache."""
        return self.stateful or "inputs_embeds" in self.inputs


def programs(folder: Path) -> list[Program]:
    """Every function of every package of a bundle.

    Raises:
        EdgekitError: there is no package.
    """
    from coremltools.models.utils import load_spec

    found = []
    for package in sorted(folder.rglob("*.mlpackage")):
        description = load_spec(str(package)).description
        functions = list(description.functions) or [None]
        for one in functions:
            features = description.input if one is None else one.input
            states = description.state if one is None else one.state
            arrays = {item.name: item.type.multiArrayType for item in features}
            found.append(
                Program(
                    package,
                    None if one is None else one.name,
                    {name: axes(array) for name, array in arrays.items()},
                    {name: _dtype(array) for name, array in arrays.items()},
                    len(states) > 0,
                )
            )
    if not found:
        raise EdgekitError(f"{folder} holds no .mlpackage.", fix="Export one:  edgekit export --target coreml")
    return found


def axes(array: Any) -> tuple[tuple[int, int], ...]:
    """Range of each axis of a multi-array's type: fixed, of a range, or from the least to the largest enumerated."""
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "shapeRange":
        return tuple((item.lowerBound, item.upperBound) for item in array.shapeRange.sizeRanges)
    if flexible == "enumeratedShapes":
        shapes = [tuple(item.shape) for item in array.enumeratedShapes.shapes]
        return tuple((min(sizes), max(sizes)) for sizes in zip(*shapes, strict=True))
    return tuple((size, size) for size in array.shape)


def _dtype(array: Any) -> type[np.generic]:
    from coremltools.proto.FeatureTypes_pb2 import ArrayFeatureType

    kinds: dict[int, type[np.generic]] = {
        ArrayFeatureType.FLOAT16: np.float16,
        ArrayFeatureType.DOUBLE: np.float64,
        ArrayFeatureType.INT32: np.int32,
    }
    return kinds.get(array.dataType, np.float32)


def takes(program: Program, tokens: int) -> bool:
    """Whether a text decoder takes so many tokens at once: the second axis of its embeddings, or of its ids."""
    ranges = program.inputs.get("inputs_embeds") or program.inputs.get("input_ids")
    if ranges is None or len(ranges) < 2:
        return False
    low, high = ranges[1]
    return low <= tokens and (high < 0 or tokens <= high)


def lengths(program: Program) -> list[int]:
    """Prompt lengths to time: those of PREFILL_TOKENS that it takes; of a program of one length, that one."""
    ranges = program.inputs.get("inputs_embeds") or program.inputs.get("input_ids") or ()
    if len(ranges) > 1 and ranges[1][0] == ranges[1][1] != 1:
        return [ranges[1][0]]
    return [count for count in PREFILL_TOKENS if takes(program, count)]


def arguments(program: Program, tokens: int, cached: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of a call on `tokens` new tokens behind `cached` ones; values are small, as they cost the same.

    A free axis takes the new tokens, or in a mask its last axis all that can be seen; a fixed one keeps its size.
    """
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, ranges in program.inputs.items():
        shape = [low if low == high else max(low, tokens if high < 0 else min(tokens, high)) for low, high in ranges]
        if "mask" in name and ranges and ranges[-1][0] != ranges[-1][1]:
            low, high = ranges[-1]
            shape[-1] = max(low, cached + tokens if high < 0 else min(cached + tokens, high))
        found[name] = np.zeros(shape, program.dtypes[name])
        if "position" in name and shape:
            found[name][...] = np.arange(cached, cached + shape[-1])
        elif name == "start":
            found[name][...] = cached
    return found
