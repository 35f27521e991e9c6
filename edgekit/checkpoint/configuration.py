"""What a checkpoint's configuration may say: numbers in their ranges, no quantised weights, end tokens as numbers.

Read from the files alone, before anything is built from them: a billion layers would be built for hours. What only the
built model shows is in `edgekit.checkpoint.skeleton`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.families import family_of, read_optional_json

CONFIG, GENERATION = "config.json", "generation_config.json"
PARTS = ("text_config", "vision_config")
LAYERS, HEADS, WIDTH, FACTOR, PIXELS = (1, 1 << 10), (1, 1 << 12), (1, 1 << 18), (1, 1 << 6), (1, 1 << 16)
WHOLE = {
    "num_hidden_layers": LAYERS,
    "depth": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "num_heads": HEADS,
    "head_dim": HEADS,
    "hidden_size": WIDTH,
    "embed_dim": WIDTH,
    "out_hidden_size": WIDTH,
    "projector_hidden_size": WIDTH,
    "intermediate_size": (1, 1 << 22),
    "vocab_size": (1, 1 << 24),
    "max_position_embeddings": (1, 1 << 40),
    "num_position_embeddings": (1, 1 << 24),
    "num_patches": (1, 1 << 24),
    "image_size": PIXELS,
    "patch_size": PIXELS,
    "window_size": PIXELS,
    "temporal_patch_size": FACTOR,
    "spatial_merge_size": FACTOR,
    "scale_factor": FACTOR,
    "downsample_factor": FACTOR,
    "num_channels": FACTOR,
    "in_channels": FACTOR,
    "mm_tokens_per_image": PIXELS,
    "image_seq_length": PIXELS,
    "conv_L_cache": (1, 1 << 10),
    "linear_conv_kernel_dim": (1, 1 << 10),
    "linear_key_head_dim": HEADS,
    "linear_value_head_dim": HEADS,
    "linear_num_key_heads": HEADS,
    "linear_num_value_heads": HEADS,
    "image_token_id": (0, 1 << 24),
    "image_token_index": (0, 1 << 24),
}
"""Whole numbers and their ranges, well beyond any model there is."""
OPTIONAL = ("head_dim", "num_key_value_heads")
"""Those that may be null, and follow from others then."""
POSITIVE = ("rope_theta", "query_pre_attn_scalar", "downsample_ratio", "factor")
FLAGS = ("return_dict", "output_hidden_states", "output_attentions")
DTYPES = ("float64", "float32", "float16", "bfloat16", "auto")
NUMBERS = (*POSITIVE, "rms_norm_eps", "layer_norm_eps", "norm_eps", "initializer_range", "layer_scale_init_value")
END = "eos_token_id"
QUANTISERS = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fp8": "blockwise FP8",
    "fbgemm_fp8": "FBGEMM FP8",
    "hqq": "HQQ",
    "torchao": "torchao",
    "mxfp4": "MXFP4",
    "quanto": "quanto",
    "modelopt": "ModelOpt",
}
"""How methods of quantization_config are spelt; others are named as they stand there."""


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json, its fields looked at one by one.

    Raises:
        CheckpointError: not there, of a family edgekit does not know, quantised, or a field says what none can.
    """
    path = folder / CONFIG
    if not path.exists():
        raise CheckpointError(
            f"{folder} is not a model folder: it has no {CONFIG}.", fix="Give a Hugging Face checkpoint folder."
        )
    config = read_optional_json(path)
    if "model_type" not in config:
        raise CheckpointError(
            f"{path} has no model_type.",
            why="So it does not say what kind of model this is.",
            fix="Give a Hugging Face checkpoint folder.",
        )
    family = family_of(str(config["model_type"]))
    refuse_quantised(path, config)
    refuse_fields(path, [*_fields(config, family.pairs), *_ends(config)])
    refuse_fields(folder / GENERATION, _ends(read_optional_json(folder / GENERATION)))
    return config


def refuse_fields(path: Path, problems: list[str] | Iterator[str]) -> None:
    """Raise one error that lists the fields of a file which cannot be.

    Raises:
        CheckpointError: there are any.
    """
    if found := list(problems):
        more = f"\nand {len(found) - 8} more" if len(found) > 8 else ""
        raise CheckpointError(
            f"{path} contradicts itself: {found[0]}." if len(found) == 1 else f"{path} contradicts itself.",
            why="" if len(found) == 1 else "\n".join(found[:8]) + more,
            fix="Take this file from the model's original folder.",
        )


def refuse_quantised(path: Path, config: dict[str, Any]) -> None:
    """Refuse weights that are codes, with what they are.

    Raises:
        CheckpointError: the configuration says how they were quantised.
    """
    text = config.get("text_config")
    for where, part in (("", config), ("text_config.", text if isinstance(text, dict) else {})):
        for name in ("quantization_config", "compression_config"):
            if given := part.get(name):
                raise CheckpointError(
                    f"{path.parent} is quantised{_method(given)}.",
                    why=f"{path.name} has a {where}{name}. Masks, training and exports start from the full numbers; "
                    "codes rounded once would be rounded again.",
                    fix="Give the full-precision folder it was made from (bf16, fp16 or fp32), and let an export "
                    "quantise it.",
                )


def _method(given: Any) -> str:
    if not isinstance(given, dict):
        return ""
    bits = next(
        (f", {given[name]} bits" for name in ("bits", "w_bit", "nbits") if isinstance(given.get(name), int)), ""
    )
    if given.get("load_in_4bit") or given.get("load_in_8bit"):
        bits = ", 4 bits" if given.get("load_in_4bit") else ", 8 bits"
    method = given.get("quant_method") or ("bitsandbytes" if bits else None)
    return f" with {QUANTISERS.get(str(method), str(method))}{bits}" if method else ""


def _fields(config: dict[str, Any], pairs: tuple[str, ...], where: str = "") -> Iterator[str]:
    """What is wrong with single fields, as sentences without an end.

    Args:
        config: Of the model, or of a part.
        pairs: Fields that the family has as (height, width) too.
        where: The part, with a point.
    """
    for name, value in config.items():
        spot = f"{where}{name}"
        if name in PARTS and not where:
            if isinstance(value, dict):
                yield from _fields(value, pairs, f"{spot}.")
            else:
                yield f"{spot} is {_shown(value)}, not an object of settings"
        elif name in ("rope_parameters", "rope_scaling"):
            yield from _rope(spot, value)
        elif name in WHOLE and not (value is None and name in OPTIONAL):
            yield from _whole(spot, value, WHOLE[name], pair=name in pairs)
        elif value is None:
            continue
        elif name in NUMBERS:
            yield from _number(spot, value, positive=name in POSITIVE)
        elif name in ("dtype", "torch_dtype") and value not in DTYPES:
            yield f"{spot} is {_shown(value)}, none of {', '.join(DTYPES)}"
        elif name == "model_type" and not isinstance(value, str):
            yield f"{spot} is {_shown(value)}, not a name"
        elif name in FLAGS:
            yield from _flag(spot, value)
        elif name == "id2label":
            yield from _labels(spot, value)


def _flag(spot: str, value: Any) -> Iterator[str]:
    layers = spot.endswith("output_hidden_states") and isinstance(value, list)  # transformers takes a list of them too
    if not isinstance(value, bool) and not (layers and all(type(one) is int for one in value)):
        yield f"{spot} is {_shown(value)}; it is true or false"


def _labels(spot: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict) or not all(str(key).lstrip("-").isdecimal() for key in value):
        yield f"{spot} is {_shown(value)}; it is an object of numbers and names"


def _rope(spot: str, value: Any) -> Iterator[str]:
    """Of rope_parameters; a family with layers of two kinds has one for each."""
    if value is None:
        return
    if not isinstance(value, dict):
        yield f"{spot} is {_shown(value)}, not an object of settings"
        return
    for name, part in value.items():
        if isinstance(part, dict) and name.endswith("_attention"):
            yield from _rope(f"{spot}.{name}", part)
        elif name == "rope_theta" or (name in NUMBERS and part is not None):
            yield from _number(f"{spot}.{name}", part, positive=name in POSITIVE)


def _whole(spot: str, value: Any, span: tuple[int, int], *, pair: bool) -> Iterator[str]:
    entries = value if pair and isinstance(value, list) and len(value) == 2 else [value]
    low, high = span
    if not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in entries):
        yield f"{spot} is {_shown(value)}, not a whole number"
    elif not all(low <= entry <= high for entry in entries):
        yield f"{spot} is {_shown(value)}; it goes from {low} to {high:,}"


def _number(spot: str, value: Any, *, positive: bool) -> Iterator[str]:
    if not isinstance(value, int | float) or isinstance(value, bool) or not _finite(value):
        yield f"{spot} is {_shown(value)}, not a number"
    elif value < 0 or (positive and value == 0):
        yield f"{spot} is {_shown(value)}; it is above 0"


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def _ends(config: dict[str, Any]) -> Iterator[str]:
    """End tokens, which a file's author may have written as text."""
    text = config.get("text_config")
    for spot, part in ((END, config), (f"text_config.{END}", text if isinstance(text, dict) else {})):
        value = part.get(END)
        entries = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(one, int) and not isinstance(one, bool) for one in entries):
            yield f"{spot} is {_shown(value)}; end tokens are whole numbers, the tokenizer's ids"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def end_token_ids(folder: Path) -> list[int]:
    """Tokens that end an answer of a checkpoint, the usual one first; none where it has none.

    As `generate` of transformers has them: from generation_config.json where there is one, and then from it alone;
    else from config.json, and its text_config where the outer one is silent. The tokenizer's own end token never
    counts.

    Raises:
        CheckpointError: a file is damaged, or says an end token in words.
    """
    name = GENERATION if (folder / GENERATION).exists() else CONFIG
    config = read_optional_json(folder / name)
    refuse_fields(folder / name, _ends(config))
    ends = config.get(END)
    text = config.get("text_config")
    if ends is None and name == CONFIG and isinstance(text, dict):
        ends = text.get(END)
    return end_list(ends)


def end_list(ends: Any) -> list[int]:
    """End tokens as a list: of one, of several, or of none."""
    if ends is None:
        return []
    return [int(ends)] if isinstance(ends, int) else [int(token) for token in ends]
