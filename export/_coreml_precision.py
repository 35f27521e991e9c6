"""Weights of Core ML programs in fewer bits, by coremltools' own passes.

Only linear layers are compressed, and the table of token embeddings: tables of positions and norms stay as they are.
A layer that a grid does not fit, because its width is no multiple of a block, gets 8 bits per channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edgekit.export._grids import BLOCK, Grids, nearest

GROUP = 16  # outputs that share a palette
SMALLEST = 512  # weights of fewer numbers stay as they are
WEIGHT = {"linear": "weight", "gather": "x"}  # the input that holds it
PALETTES = {"pal4": 4, "pal6": 6}
CALIBRATED_SUFFIX = "-calibrated"


def compress(converted: Any, precision: str, operation: str, grids: Grids, *, grouped: bool, label: str = "") -> Any:
    """A converted model with its weights compressed.

    Args:
        converted: From `coremltools.convert`, in float16.
        precision: int8, int4, pal4, pal6, or a calibrated one of them; another one leaves it as it is.
        operation: Whose weights: "linear", or "gather" for embeddings.
        grids: Of this export.
        grouped: Groups of outputs have palettes of their own; iOS 17 knows one for a whole weight only.
        label: Of the progress, where grids are searched.
    """
    from coremltools.optimize import coreml as optimize

    def chosen(config: Any) -> Any:
        # By name: for a type coremltools refuses a model whose linear layer and norm share a constant, as zero biases.
        return optimize.OptimizationConfig(op_name_configs=dict.fromkeys(weights, config))

    def quantised(**settings: Any) -> Any:
        config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=SMALLEST, **settings)
        return _quantise(converted, chosen(config), grids, calibrated=calibrated)

    plain = precision.removesuffix(CALIBRATED_SUFFIX)
    calibrated = plain != precision
    if plain not in {"int8", "int4", *PALETTES}:
        return converted
    weights = weights_of(converted, operation)
    if plain != "int8":
        with grids.shown(f"{label}: weights to {precision}", sum(weights.values())):
            if plain in PALETTES:
                granularity = {"granularity": "per_grouped_channel", "group_size": GROUP} if grouped else {}
                converted = _palettise(converted, chosen, granularity, PALETTES[plain], grids, calibrated=calibrated)
            else:
                converted = quantised(dtype="int4", granularity="per_block", block_size=BLOCK)
        weights = weights_of(converted, operation)  # what a pass above has compressed is no plain weight any longer
    return quantised(dtype="int8", granularity="per_channel")


def weights_of(converted: Any, operation: str) -> dict[str, int]:
    """Names of the constants that are weights of an operation, and how many numbers each has; no compressed ones.

    They are the constants' own names, which coremltools selects by; their outputs' may differ.
    """
    block = next(iter(converted.get_spec().mlProgram.functions["main"].block_specializations.values()))
    constants = {part.outputs[0].name: part for part in block.operations if part.type == "const"}
    key = WEIGHT[operation]
    used = {part.inputs[key].arguments[0].name for part in block.operations if part.type == operation}
    found = {}
    for name in used & constants.keys():
        shape = constants[name].outputs[0].type.tensorType.dimensions
        own = constants[name].attributes["name"].immediateValue.tensor.strings.values[0]
        found[own] = math.prod(size.constant.size for size in shape)
    return dict(sorted(found.items()))


def _palettise(
    converted: Any, chosen: Callable[[Any], Any], granularity: dict[str, Any], bits: int, grids: Grids, *,
    calibrated: bool,
) -> Any:  # fmt: skip
    """coremltools' `palettize_weights`, with palettes of our own."""
    from coremltools.models.utils import _apply_graph_pass
    from coremltools.optimize import coreml as optimize
    from coremltools.optimize.coreml._quantization_passes import palettize_weights

    class Own(palettize_weights):  # type: ignore[misc]
        @staticmethod
        def blockwise_compress(original_data: Any, mode: str, nbits: Any, blocks: Any, *_: Any, **more: Any) -> Any:
            """coremltools' parameters of one weight: indices, table, axis; None where groups do not fit."""
            rows = blocks[0] or len(original_data)
            found: Iterator[Any] = iter(())
            if len(original_data) % rows == 0:
                found = iter(grids.palettes(original_data, bits, rows, calibrated=calibrated))

            def table(group: Any) -> tuple[Any, Any]:
                palette = next(found)  # coremltools asks for one group after the other
                return np.pad(palette, (0, (1 << bits) - len(palette))), nearest(palette, group)

            return palettize_weights.blockwise_compress(
                original_data, mode, nbits, blocks, table, channel_axis=more["channel_axis"]
            )

    def never(_: Any) -> Any:
        raise AssertionError("coremltools takes the table from `Own`")

    config = optimize.OpPalettizerConfig(
        mode="custom", lut_function=never, weight_threshold=SMALLEST, **granularity
    )  # fmt: skip
    return _apply_graph_pass(converted, Own(chosen(config)))


def _quantise(converted: Any, config: Any, grids: Grids, *, calibrated: bool) -> Any:
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
            scale, data = grids.blocks(original_data, calibrated=calibrated)
            # The type of 4 bits is a remark on int8 that NumPy keeps when it converts from another type.
            return plain._replace(data=data.astype(plain.data.dtype), scale=scale.reshape(plain.scale.shape))

    return _apply_graph_pass(converted, Searched(config))
