"""Weights of Core ML programs in fewer bits, by coremltools' own passes.

Only linear layers are compressed, and the table of token embeddings: tables of positions and norms stay as they are.
A layer that a grid does not fit, because its width is no multiple of a block, gets 8 bits per channel.

Grids are chosen for the least square error of the weights. Calibrated ones are for that of the layer's output, each
weight's error counted by the mean square of its input (`_moments.py`):

    palettes      1-D k-means, exact, weighted where calibrated. Source: SqueezeLLM, arXiv:2306.07629, section 4.1; a
                  weight counts by the loss's Fisher information there, while here all outputs of a layer are alike
    int4 blocks   a search for each block's scale. Source: llama.cpp, ggml-quants.c, make_qx_quants; where calibrated
                  with its importance matrix for weights
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.export._moments import Moments

BLOCK = 32  # inputs that share a scale in int4
GROUP = 16  # outputs that share a palette
SMALLEST = 512  # weights of fewer numbers stay as they are
WEIGHT = {"linear": "weight", "gather": "x"}  # the input that holds it
PALETTES = {"pal4": 4, "pal6": 6}
CALIBRATED_SUFFIX = "-calibrated"
# Scales that are tried: the block's largest magnitude over each of these; over 7 it is the plain grid's own. Far above
# it the largest is cut off, for the sake of the others.
STEPS = np.geomspace(5, 35, 56)
AT_ONCE = 1 << 20  # numbers that are searched at a time: several float32 arrays of that size are held
LOWEST, HIGHEST = -8, 7


def compress(converted: Any, word: str, operation: str, *, grouped: bool, moments: Moments | None = None) -> Any:
    """A converted model with its weights compressed.

    Args:
        converted: From `coremltools.convert`, in float16.
        word: int8, int4, pal4, pal6, or a calibrated one of them; another one leaves it as it is.
        operation: Whose weights: "linear", or "gather" for embeddings.
        grouped: Groups of outputs have palettes of their own; iOS 17 knows one for a whole weight only.
        moments: For a calibrated word. A weight that they do not know is compressed as without them.
    """
    from coremltools.optimize import coreml as optimize

    def chosen(model: Any, config: Any) -> Any:
        # By name: for a type coremltools refuses a model whose linear layer and norm share a constant, as zero biases.
        return optimize.OptimizationConfig(op_name_configs=dict.fromkeys(weights_of(model, operation), config))

    def quantised(model: Any, **settings: Any) -> Any:
        config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=SMALLEST, **settings)
        return _quantise(model, chosen(model, config), known)

    known = moments or Moments()
    plain = word.removesuffix(CALIBRATED_SUFFIX)
    if plain in PALETTES:
        converted = _palettise(converted, weights_of(converted, operation), PALETTES[plain], known, grouped=grouped)
    elif plain == "int4":
        converted = quantised(converted, dtype="int4", granularity="per_block", block_size=BLOCK)
    elif plain != "int8":
        return converted
    # What a pass above has compressed is no plain weight any longer, and is passed over here.
    return quantised(converted, dtype="int8", granularity="per_channel")


def weights_of(converted: Any, operation: str) -> list[str]:
    """Names of the constants that are weights of an operation, those already compressed left out.

    They are the constants' own names, which coremltools selects by; their outputs' may differ.
    """
    block = next(iter(converted.get_spec().mlProgram.functions["main"].block_specializations.values()))
    constants = {
        part.outputs[0].name: part.attributes["name"].immediateValue.tensor.strings.values[0]
        for part in block.operations
        if part.type == "const"
    }
    key = WEIGHT[operation]
    used = {part.inputs[key].arguments[0].name for part in block.operations if part.type == operation}
    return sorted(constants[name] for name in used & constants.keys())


def _palettise(converted: Any, names: list[str], bits: int, known: Moments, *, grouped: bool) -> Any:
    """The weights of these names as palettes."""
    from coremltools.models.utils import _apply_graph_pass
    from coremltools.optimize import coreml as optimize
    from coremltools.optimize.coreml._quantization_passes import palettize_weights

    class Weighed(palettize_weights):  # type: ignore[misc]
        @staticmethod
        def blockwise_compress(original_data: Any, mode: str, nbits: Any, blocks: Any, *_: Any, **more: Any) -> Any:
            """coremltools' parameters of one weight: indices, table, axis; None where groups do not fit."""
            importance = known.of(original_data)
            return palettize_weights.blockwise_compress(
                original_data, mode, nbits, blocks, lambda group: best_palette(group, bits, importance),
                channel_axis=more["channel_axis"],
            )  # fmt: skip

    granularity = {"granularity": "per_grouped_channel", "group_size": GROUP} if grouped else {}
    config = optimize.OpPalettizerConfig(
        mode="custom",
        lut_function=lambda group: best_palette(group, bits),
        weight_threshold=SMALLEST,
        **granularity,
    )
    configs = optimize.OptimizationConfig(op_name_configs=dict.fromkeys(names, config))
    return _apply_graph_pass(converted, Weighed(configs))


def best_palette(
    weight: NDArray[Any], bits: int, importance: NDArray[np.float64] | None = None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """The palette with the least mean square error: exact 1-D k-means (coremltools' own `kmeans1d`).

    Below 10,000 numbers coremltools itself would take scikit-learn's iterations instead, from a random start.

    Args:
        weight: (N, K), outputs that share it.
        bits: Of an index.
        importance: (K,), above zero: what the square of an error counts for each input; all the same when None.
    Returns:
        (2^bits,) values of the weight's type, zeros where fewer are needed; and the index of each number (N K,).
    """
    from coremltools._deps import _kmeans1d

    values, places = np.unique(weight, return_inverse=True)
    mass = None if importance is None else np.broadcast_to(importance, weight.shape).ravel()
    found = _kmeans1d.cluster(values, min(values.size, 1 << bits), weights=np.bincount(places.ravel(), mass))
    palette = np.zeros(1 << bits, weight.dtype)
    palette[: len(found.centroids)] = found.centroids
    return palette, np.array(found.clusters, np.uint8)[places.ravel()]


def _quantise(converted: Any, config: Any, known: Moments) -> Any:
    """coremltools' `linear_quantize_weights`, with searched scales for 4-bit blocks."""
    from coremltools.models.utils import _apply_graph_pass
    from coremltools.optimize.coreml._quantization_passes import linear_quantize_weights

    class Searched(linear_quantize_weights):  # type: ignore[misc]
        @classmethod
        def blockwise_compress_by_dtype(cls, original_data: Any, dtype: Any, mode: str, block_sizes: Any) -> Any:
            """coremltools' parameters of one weight: data, scale, offset, nbits; None where blocks do not fit."""
            plain = super().blockwise_compress_by_dtype(original_data, dtype, mode, block_sizes)
            if plain is None or plain.nbits != 4:
                return plain
            importance = known.of(original_data)
            if importance is None:
                importance = np.ones(original_data.shape[1])
            scale, data = best_blocks(original_data, importance)
            # The type of 4 bits is a remark on int8 that NumPy keeps when it converts from another type.
            return plain._replace(data=data.astype(plain.data.dtype), scale=scale.reshape(plain.scale.shape))

    return _apply_graph_pass(converted, Searched(config))


def best_blocks(weight: NDArray[Any], importance: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Scales of 4-bit blocks with the least weighted square error that a search finds; never more than the plain grid.

    Args:
        weight: (N, K), K a multiple of BLOCK.
        importance: (K,), above zero: what the square of an error counts for each input.
    Returns:
        Scales (N, K / BLOCK) of the weight's type, and whole numbers -8 to 7 (N, K).
    """
    rows = max(1, AT_ONCE // weight.shape[1])
    parts = [_best_rows(weight[start : start + rows], importance) for start in range(0, len(weight), rows)]
    scales, whole = (np.concatenate(made) for made in zip(*parts, strict=True))
    return scales, whole


def _best_rows(weight: NDArray[Any], importance: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float32]]:
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
    return scales[..., 0].astype(weight.dtype), _rounded(blocks, scales).reshape(weight.shape)


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
