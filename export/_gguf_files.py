"""The two GGUF files of a vision-language model, written from PyTorch weights: text model and mmproj."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.export import _gguf_delta as delta
from edgekit.families._clip import MmProj, Names
from edgekit.inputs.images import from_unit

# transformers' name of a decoder -> llama.cpp's.
ARCHITECTURES = {
    "lfm2": "lfm2",
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen2_5_vl_text": "qwen2vl",
    "qwen3": "qwen3",
    "qwen3_5_text": "qwen35",
    "qwen3_vl_text": "qwen3vl",
}
Tensors = Iterable[tuple[str, NDArray[np.float32]]]


def check_shapes(config: Mapping[str, Any], plan: MmProj) -> str:
    """llama.cpp's name of the decoder's architecture, once its shapes are known to fit.

    Raises:
        CheckpointError: an architecture or a shape that llama.cpp cannot take.
    """
    text = config["text_config"]
    problems = []
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    if text["model_type"] not in ARCHITECTURES:
        problems.append(
            f"its decoder is a {text['model_type']!r}; the known ones are {', '.join(sorted(ARCHITECTURES))}"
        )
    if heads % kv_heads:
        problems.append(f"{heads} heads are no multiple of {kv_heads} key-value heads")
    if head_dim % 2:
        problems.append(f"its heads have an odd width, {head_dim}")
    if text.get("attention_bias") and ARCHITECTURES.get(text["model_type"]) != "llama":
        problems.append("its attention has biases, and llama.cpp knows of none behind such attention")
    if text.get("mlp_bias") or text.get("hidden_act", "silu") != "silu":
        problems.append("its feed-forward layers are not SwiGLU without biases")
    if (kind := _rope(text).get("rope_type", "default")) not in ("default", "linear"):
        problems.append(f"its rotary positions are scaled by {kind!r}; known are 'default' and 'linear'")
    problems += delta.problems(text)
    sizes = plan.sizes
    if sizes["embedding_length"] % sizes["attention.head_count"]:
        problems.append(
            f"the vision encoder's width {sizes['embedding_length']} does not divide into "
            f"{sizes['attention.head_count']} heads"
        )
    if sizes["embedding_length"] == sizes["feed_forward_length"]:
        problems.append(
            f"the vision encoder is as wide outside its feed-forward layers as inside, {sizes['embedding_length']}: "
            "llama.cpp takes that for an old file and swaps their matrices"
        )
    if problems:
        raise CheckpointError(
            "llama.cpp cannot run this model.", why="; ".join(problems) + ".", fix="Export to another target."
        )
    return ARCHITECTURES[text["model_type"]]


def _rope(text: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = text.get("rope_parameters") or {}
    return found


def text_metadata(config: Mapping[str, Any], architecture: str, rows: int) -> dict[str, Any]:
    """The decoder's sizes under llama.cpp's keys.

    Args:
        config: config.json, every default filled in.
        architecture: llama.cpp's name.
        rows: Of the embedding table.
    """
    text = config["text_config"]
    rope = _rope(text)
    heads = text["num_attention_heads"]
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    kinds = text.get("layer_types") or ()
    keys = [0 if kind == "conv" else text["num_key_value_heads"] for kind in kinds]
    found: dict[str, Any] = {
        "vocab_size": rows,
        "context_length": text["max_position_embeddings"],
        "embedding_length": text["hidden_size"],
        "block_count": text["num_hidden_layers"],
        "feed_forward_length": _feed_forward(text),
        "attention.head_count": heads,
        "attention.head_count_kv": keys if 0 in keys else text["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(text["rms_norm_eps" if "rms_norm_eps" in text else "norm_eps"]),
        "rope.dimension_count": int(head_dim * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(rope.get("rope_theta", text.get("rope_theta", 10000.0))),
    }
    if rope.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    found |= delta.metadata(text)
    if "conv" in kinds:
        found["shortconv.l_cache"] = text["conv_L_cache"]
    if "mrope_section" in rope:
        found["rope.dimension_sections"] = [*rope["mrope_section"], 0, 0, 0, 0][:4]
    if taps := (config.get("vision_config") or {}).get("deepstack_visual_indexes"):
        found["n_deepstack_layers"] = len(taps)
    return {f"{architecture}.{key}": value for key, value in found.items()}


def _feed_forward(text: Mapping[str, Any]) -> int:
    """Width of the feed-forward layers; LFM2 may make it from the number in its configuration."""
    width = int(text["intermediate_size"])
    if not text.get("block_auto_adjust_ff_dim"):
        return width
    width = int(2 * width / 3)
    if (factor := text.get("block_ffn_dim_multiplier")) is None:
        return width
    multiple = int(text["block_multiple_of"])
    return -(-int(factor * width) // multiple) * multiple


def text_tensors(source: Any, architecture: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The decoder's weights under llama.cpp's names, float32.

    Args:
        source: The untouched model.
        architecture: llama.cpp's name.
    """
    import gguf

    inner = source.model
    decoder = getattr(inner, "language_model", None) or inner.text_model
    settings = source.config.text_config
    arch = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(arch, settings.num_hidden_layers)
    weights = {f"model.{name}": weight for name, weight in decoder.state_dict().items()}
    if source.lm_head.weight.data_ptr() != source.get_input_embeddings().weight.data_ptr():
        weights["lm_head.weight"] = source.lm_head.weight
    for own, weight in weights.items():
        values = weight.detach().float().numpy()
        name, values = delta.recast(own, values, settings) if architecture == "qwen35" else (own, values)
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise CheckpointError(
                f"llama.cpp's {architecture!r} has no place for {name}.", fix="Export to another target."
            )
        if values.ndim == 3:  # a kernel (D, 1, K) over each channel by itself
            values = values[:, 0]
        if architecture == "llama" and ".q_proj." in name:
            values = interleave(values, settings.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = interleave(values, settings.num_key_value_heads)
        yield theirs, values


def interleave(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key projection as llama.cpp's `llama` has them: rotary pairs side by side in each head.

    Args:
        rows: (heads * D_head, ...), the pairs half a head apart, as transformers has them.
        heads: Of queries, or of keys.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def vision_tensors(source: Any, plan: MmProj, prefixes: tuple[str, ...]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The vision encoder's weights under the plan's names, float32.

    Args:
        source: The untouched model.
        plan: Of its family.
        prefixes: Of the vision half's parameter names.

    Raises:
        CheckpointError: a weight has no place in the plan.
    """
    for name, weight in source.named_parameters():
        if not name.startswith(prefixes):
            continue
        values = weight.detach().float().numpy()
        for theirs, part in _placed(name, values, plan.tensors):
            if theirs in plan.flat_kernels:
                edge = plan.sizes["patch_size"]
                part = part.reshape(len(part), edge, edge, 3).transpose(0, 3, 1, 2)
            yield theirs, np.roll(part, -1, axis=-2) if theirs in plan.cls_last else part


def _placed(name: str, values: NDArray[np.float32], names: Names) -> Iterator[tuple[str, NDArray[np.float32]]]:
    stem, dot, tail = name.rpartition(".")
    if tail not in ("weight", "bias"):
        stem, dot, tail = name, "", ""
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", stem)
    theirs = names.get(stem)
    if theirs is None:
        theirs = names.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", stem, count=1))
    if theirs is None:
        raise CheckpointError(
            f"llama.cpp's clip has no place for {name}.",
            why="This vision encoder differs from the one its family has in llama.cpp.",
            fix="Export to another target.",
        )
    many = (theirs,) if isinstance(theirs, str) else theirs
    for one, part in zip(many, np.split(values, len(many)), strict=True):
        full = (one.replace("*", numbers[0]) if numbers else one) + dot + tail
        if part.ndim == 5:  # a kernel over two frames; a still image has the same one twice
            yield from ((full, part[:, :, 0]), (f"{full}.1", part[:, :, 1]))
        else:
            yield full, part.reshape(part.shape[-2:]) if part.ndim == 3 and part.shape[0] == 1 else part


def vision_metadata(plan: MmProj, params: Mapping[str, Any], width: int) -> dict[str, Any]:
    """What a mmproj says of itself under llama.cpp's keys.

    Args:
        plan: Of its family.
        params: Of its preprocessing.
        width: Of the decoder.
    """
    mean, std = from_unit(params)
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": plan.projector,
        "clip.vision.projection_dim": width,
        **{f"clip.vision.{key}": int(value) for key, value in plan.sizes.items()},
        "clip.vision.image_mean": mean,
        "clip.vision.image_std": std,
        **plan.metadata,
    }


def write_gguf(
    path: Path, architecture: str, metadata: Mapping[str, Any], tensors: Tensors, kind: str, card: Path, title: str
) -> None:
    """Write one file.

    Args:
        path: The file.
        architecture: `clip` for a mmproj.
        metadata: By full key; the file's own sizes and names are added.
        tensors: float32; matrices are stored as `kind`, vectors and what llama.cpp wants so stay float32.
        kind: F32, F16 or Q8_0.
        card: Folder whose README.md may name licence and base model.
        title: Name for people.

    Raises:
        OSError: the disk is full.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    about = gguf.Metadata.load(model_path=card, model_name=title)
    about.quantized_by = "edgekit"
    listed = list(tensors)
    count = sum(values.size for _, values in listed)
    about.size_label = gguf.size_label(count, 0, 0, 0)
    writer.add_type(gguf.GGUFType.MMPROJ if architecture == "clip" else gguf.GGUFType.MODEL)
    about.set_gguf_meta_model(writer)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(FILE_TYPES[kind])
    for key, value in metadata.items():
        _put(writer, key, value)
    for name, values in listed:
        _add(writer, name, np.ascontiguousarray(values), kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        if error.errno is None:  # NumPy's, when a file takes less than it is given
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        writer.close()


FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}


def _put(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add(writer: Any, name: str, values: NDArray[np.float32], kind: str) -> None:
    import gguf

    # llama.cpp adds these to activations, or takes them as kernels: they are not multiplied by its quantised types.
    plain = values.ndim == 1 or "position_embd" in name or "class_embd" in name
    kernel = values.ndim > 2
    if kind == "F32" or plain or (kernel and kind != "F16"):
        writer.add_tensor(name, values)
    elif kind == "F16" or values.shape[-1] % 32:
        writer.add_tensor(name, values.astype(np.float16))
    else:
        quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def model_title(source: Any) -> str:
    """A name for files, of letters, digits, dots and dashes: the checkpoint folder's, or the hub's."""
    path = Path(str(source.name_or_path))
    hub = next((part for part in path.parts if part.startswith("models--")), None)
    name = hub.rpartition("--")[2] if hub else path.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def read_types(path: Path) -> dict[str, int]:
    """How many tensors a file holds of each type, the most first."""
    import gguf

    found: dict[str, int] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        found[tensor.tensor_type.name] = found.get(tensor.tensor_type.name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def as_json(value: Any) -> Any:
    """A configuration with plain types only."""
    return json.loads(json.dumps(value, default=str))
