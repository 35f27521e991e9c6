"""Weights of Core ML programs in fewer bits, by coremltools' own passes.

Only linear layers are compressed, and the table of token embeddings: tables of positions and norms stay as they are.
A layer that a grid does not fit, because its width is no multiple of a block, gets 8 bits per channel.
"""

from __future__ import annotations

from typing import Any

BLOCK = 32  # inputs that share a scale in int4
GROUP = 16  # outputs that share a palette
SMALLEST = 512  # weights of fewer numbers stay as they are
WEIGHT = {"linear": "weight", "gather": "x"}  # the input that holds it
PALETTES = {"pal4": 4, "pal6": 6}


def compress(converted: Any, word: str, operation: str, *, grouped: bool) -> Any:
    """A converted model with its weights compressed.

    Args:
        converted: From `coremltools.convert`, in float16.
        word: int8, int4, pal4, pal6; another one leaves it as it is.
        operation: Whose weights: "linear", or "gather" for embeddings.
        grouped: Groups of outputs have palettes of their own; iOS 17 knows one for a whole weight only.
    """
    from coremltools.optimize import coreml as optimize

    def chosen(model: Any, config: Any) -> Any:
        # By name: for a type coremltools refuses a model whose linear layer and norm share a constant, as zero biases.
        return optimize.OptimizationConfig(op_name_configs=dict.fromkeys(weights_of(model, operation), config))

    def quantised(model: Any, **settings: Any) -> Any:
        config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=SMALLEST, **settings)
        return optimize.linear_quantize_weights(model, chosen(model, config))

    if word in PALETTES:
        granularity = {"granularity": "per_grouped_channel", "group_size": GROUP} if grouped else {}
        palette = optimize.OpPalettizerConfig(
            mode="custom", lut_function=_clusters(PALETTES[word]), weight_threshold=SMALLEST, **granularity
        )
        converted = optimize.palettize_weights(converted, chosen(converted, palette))
    elif word == "int4":
        converted = quantised(converted, dtype="int4", granularity="per_block", block_size=BLOCK)
    elif word != "int8":
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


def _clusters(bits: int) -> Any:
    """The best palette in the mean square: exact 1-D k-means, which coremltools keeps for large float16 weights.

    Below 10,000 numbers it would take scikit-learn's iterations instead, from a random start.
    """
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    def palette(weight: Any) -> tuple[Any, Any]:
        """(2^bits,) values, and the index of each number."""
        values, indices = _get_kmeans_lookup_table_and_weight(bits, weight, force_kmeans1d=True)
        return values.astype(weight.dtype), indices.astype("uint8").flatten()

    return palette
