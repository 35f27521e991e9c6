"""Whether a checkpoint's tensors are those of the model its configuration describes, and if not, what they are.

transformers loads what fits, leaves the rest out, and fills what is missing with random numbers; it says so in a
table that nobody sees. Here every tensor has a place, is known to be of no use, or is named in an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint.configuration import CONFIG
from edgekit.checkpoint.skeleton import Placed, namer, placed_tensors, skeleton
from edgekit.checkpoint.weights import AGAIN
from edgekit.console import note_once
from edgekit.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOATS = ("F64", "F32", "F16", "BF16")
USELESS = {
    r"(^|\.)rotary(_pos)?_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$": "",
    r"(^|\.)position_ids$": "",
    r"(^|\.)vision_model\.head\.": "the pooling head of the vision tower, which no answer goes through",
    r"(^|\.)embeddings\.mask_token$": "a token that hides patches while a vision tower is trained",
    r"(^|\.)(mtp|mtp_\w+|nextn_\w+)\.": "heads that predict further tokens, for speculative decoding only",
}
"""Tensors without a place that change no answer, and what they are; buffers that are computed anew need no word."""
ADAPTERS = re.compile(
    r"(^|\.)(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|base_layer|modules_to_save|ia3_l|hada_\w+|lokr_\w+"
    r"|oft_\w+|vera_\w+)(\.|$)"
)
CODES = re.compile(
    r"[._](weight_scale(_inv|_2)?|(input|output|activation|k|v)_scale|(weight|input)_zero_point|weight_(packed|shape)"
    r"|qweight|qzeros|scales|g_idx|SCB|weight_format|weight\.(absmax|quant_map|nested_\w+|quant_state\.\w+)"
    r"|weight[_:](qdata|scale|q_data)|\w+_(blocks|scales))$"
)
WRAPPERS = {
    "module": "DistributedDataParallel, DataParallel or DeepSpeed",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
    "base_model.model": "peft",
}
"""Parts of names that training leaves behind, and whose they are."""
COPIES = re.compile(r"(^|\.)(lm_head|embed_tokens)\.weight$")
SHAPED = {
    r"\.(merger|deepstack_merger_list|connector|multi_modal_projector)\.": (
        "scale_factor", "spatial_merge_size", "downsample_factor", "downsample_ratio", "projector_hidden_size",
        "out_hidden_size",
    ),
    r"\.(patch_embed\w*|projection)\.": ("patch_size", "temporal_patch_size", "num_channels", "in_channels"),
    r"embed_tokens|lm_head": ("vocab_size",),
    r"\.linear_attn\.": (
        "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim",
        "linear_conv_kernel_dim",
    ),
    r"\.([qo]_proj|out_proj|qkv|proj|q_norm|q_layernorm)\.": ("num_attention_heads", "num_heads", "head_dim"),
    r"\.([kv]_proj|k_norm|k_layernorm)\.": ("num_key_value_heads", "head_dim"),
    r"\.(position_embedding\w*|pos_embed)": ("image_size", "patch_size", "num_patches", "num_position_embeddings"),
    r"\.conv\.": ("conv_L_cache",),
    r"\.(gate_proj|up_proj|down_proj|fc[12]|linear_fc[12]|w[123]|mlp)\.": ("intermediate_size",),
}  # fmt: skip
"""Fields that the shape of a parameter follows from, by its name; the connector's first, which has an mlp too."""
LAYER = re.compile(r"(.*?\.(?:layers|layer|blocks))\.(\d+)\.")


def check_tensors(folder: Path) -> PreTrainedModel:
    """Compare the stored tensors of a checkpoint with the model, by names, types and shapes; no weights are read.

    Returns:
        The model's skeleton.

    Raises:
        CheckpointError: as `skeleton` and `stored_tensors`; or tensors have no place, are missing, are codes of a
            quantised model, or have other shapes than the configuration says.
    """
    model = skeleton(folder)
    placed = placed_tensors(model, folder)
    own: dict[str, Any] = model.state_dict()
    missing, unexpected = _after_rules(model, set(own), {one.name for one in placed})
    strangers = [one for one in placed if one.name in unexpected and not _is_useless(folder, one.name)]
    strangers = [one for one in strangers if not _is_copy(model, one, placed)]
    for problem in (
        _unmerged(folder, strangers),
        _wrapped(folder, model, strangers),
        _quantised(folder, strangers, [one for one in placed if one.name in own]),
        _depth(folder, strangers, missing, own),
        _undeclared(folder, strangers, own),
        _others(folder, strangers, missing),
        _absent(folder, missing),
        _misshapen(folder, model, [one for one in placed if one.whole and one.name in own]),
    ):
        if problem is not None:
            raise problem
    return model


def _after_rules(model: PreTrainedModel, own: set[str], stored: set[str]) -> tuple[set[str], set[str]]:
    """Missing and unexpected names, less those that transformers ties or knows to be of no use."""
    from transformers.utils.loading_report import LoadStateDictInfo

    missing = own - stored
    for target, source in model.all_tied_weights_keys.items():  # either of two that are one will do
        if not {target, source} <= missing:
            missing -= {target, source}
    info = LoadStateDictInfo(missing, stored - own, set(), [], {}, set())
    model._adjust_missing_and_unexpected_keys(info)
    return info.missing_keys, info.unexpected_keys


def _is_useless(folder: Path, name: str) -> bool:
    what = next((what for pattern, what in USELESS.items() if re.search(pattern, name)), None)
    if what:
        note_once(f"{folder.name}: left out: {what}")
    return what is not None


def _is_copy(model: PreTrainedModel, one: Placed, placed: Sequence[Placed]) -> bool:
    """Whether it is another copy of the stored embedding or output head."""
    from safetensors import safe_open
    from torch import equal

    if not COPIES.search(one.stored.key):
        return False
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    same = [table.weight for table in tables if table is not None]
    names = {name for name, own in model.named_parameters(remove_duplicate=False) if any(own is it for it in same)}

    def read(it: Placed) -> Any:
        with safe_open(str(it.stored.path), framework="pt") as stored:
            return stored.get_tensor(it.stored.key)

    twins = [it for it in placed if it.name in names and it.stored.shape == one.stored.shape]
    return any(equal(read(one), read(it)) for it in twins)


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _keys(group: Sequence[Placed]) -> str:
    return _listed([one.stored.key for one in group])


def _unmerged(folder: Path, strangers: Sequence[Placed]) -> CheckpointError | None:
    group = [one for one in strangers if ADAPTERS.search(one.stored.key)]
    if not group:
        return None
    return CheckpointError(
        f"{folder} holds weights of an adapter (LoRA or alike) that were not merged: {len(group)} tensors.",
        why=f"{_keys(group)}. Without them the model answers as it did before it was tuned.",
        fix="Merge them where the model was tuned, model.merge_and_unload().save_pretrained(FOLDER); or give the "
        "adapter's own folder (adapter_config.json and adapter_model.safetensors), whose base lies beside it.",
    )


def _wrapped(folder: Path, model: PreTrainedModel, strangers: Sequence[Placed]) -> CheckpointError | None:
    name_of, own = namer(model), model.state_dict()
    for one in strangers:
        for part, whose in _prefixes(one.stored.key):
            bare = f".{one.stored.key}".replace(f".{part}.", ".").removeprefix(".")
            if bare != one.stored.key and name_of(bare)[0] in own:
                return CheckpointError(
                    f"The names in {one.stored.path} have {part + '.'!r} in them, such as {one.stored.key}.",
                    why=f"It is left behind by {whose}; the model itself calls this tensor {bare}.",
                    fix="Save the model inside: accelerator.unwrap_model(model).save_pretrained(FOLDER) does it for "
                    f"most trainers; or write the file again with {part + '.'!r} taken out of the names.",
                )
    return None


def _prefixes(key: str) -> Iterator[tuple[str, str]]:
    yield from WRAPPERS.items()
    first, dot, _ = key.partition(".")
    if dot:
        yield first, "whatever wrapped the model when it was saved"


def _quantised(folder: Path, strangers: Sequence[Placed], known: Sequence[Placed]) -> CheckpointError | None:
    scales = [one for one in strangers if CODES.search(one.stored.key)]
    codes = [one for one in known if one.stored.dtype not in FLOATS]
    if not scales and not codes:
        return None
    reasons = []
    if scales:
        reasons.append(f"It holds what codes are turned back into numbers with: {_keys(scales)}.")
    if codes:
        first = codes[0].stored
        reasons.append(f"{first.key} and {len(codes) - 1} more are of type {first.dtype}.")
    return CheckpointError(
        f"{folder} is quantised, though its {CONFIG} has no quantization_config.",
        why="\n".join([*reasons, "Read as they are, the codes would be taken for weights."]),
        fix="Give the full-precision folder it was made from (bf16, fp16 or fp32).",
    )


def _depth(folder: Path, strangers: Sequence[Placed], missing: set[str], own: dict[str, Any]) -> CheckpointError | None:
    """Another number of layers than the configuration says."""
    stacks = _stacks(own)
    for one in strangers:
        found = LAYER.match(one.name)
        if found and int(found[2]) >= stacks.get(found[1], 1 << 30):
            stored = 1 + max(int(it[2]) for s in strangers if (it := LAYER.match(s.name)) and it[1] == found[1])
            return _other_depth(folder, found[1], stored, stacks[found[1]])
    for stack, layers in stacks.items():
        empty = [n for n in range(layers) if {k for k in own if k.startswith(f"{stack}.{n}.")} <= missing]
        if empty and empty == list(range(empty[0], layers)) and empty[0]:
            return _other_depth(folder, stack, empty[0], layers)
    return None


def _stacks(names: dict[str, Any]) -> dict[str, int]:
    """Layers of each stack of them."""
    found: dict[str, int] = {}
    for name in names:
        if match := LAYER.match(name):
            found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
    return found


def _other_depth(folder: Path, stack: str, stored: int, said: int) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds {stored} layers of {stack}, and its {CONFIG} says {said}.",
        why="Layers left out would change every answer." if stored > said else "The others would be random.",
        fix=f"Take {CONFIG} and weights from the same model (num_hidden_layers, or depth, of this part).",
    )


def _undeclared(folder: Path, strangers: Sequence[Placed], own: dict[str, Any]) -> CheckpointError | None:
    group = [
        one for one in strangers if one.name.endswith(".bias") and f"{one.name.removesuffix('.bias')}.weight" in own
    ]
    if not group or len(group) < len(strangers):
        return None
    return CheckpointError(
        f"{folder} holds {len(group)} biases that its {CONFIG} does not declare.",
        why=f"{_keys(group)}. They would be left out.",
        fix="Declare them (attention_bias, mlp_bias, projector_bias or multimodal_projector_bias of the part they "
        "belong to), if the model's class knows them; else take the configuration of the model that was trained.",
    )


def _others(folder: Path, strangers: Sequence[Placed], missing: set[str]) -> CheckpointError | None:
    if not strangers:
        return None
    if missing:
        return CheckpointError(
            f"The weights in {folder} are not those of the model that its {CONFIG} describes.",
            why=f"{len(strangers)} tensors have no place in it: {_keys(strangers)}.\n"
            f"{len(missing)} that it needs are not there: {_listed(sorted(missing))}.",
            fix=f"Take {CONFIG} and weights from the same folder.",
        )
    return CheckpointError(
        f"{folder} holds {len(strangers)} tensors that the model of its {CONFIG} has no place for.",
        why=f"{_keys(strangers)}. They would be left out without a word, and the answers would be another model's.",
        fix=f"Take {CONFIG} and weights from the same folder; if these tensors are of no use, save the model without "
        "them: load it with transformers and save_pretrained.",
    )


def _absent(folder: Path, missing: set[str]) -> CheckpointError | None:
    if not missing:
        return None
    fix = AGAIN
    if all(name.endswith("lm_head.weight") for name in missing):
        fix = f"If the output head is the embedding, set tie_word_embeddings to true in {CONFIG}; else: {AGAIN.lower()}"
    elif all(name.endswith(".bias") for name in missing):
        fix = (
            f"If the model has no such biases, say so in {CONFIG} (attention_bias, mlp_bias, projector_bias or "
            f"multimodal_projector_bias of their part); else: {AGAIN.lower()}"
        )
    return CheckpointError(
        f"{folder} lacks {len(missing)} tensors, the first: {min(missing)}.",
        why="They would be left at random values.",
        fix=fix,
    )


def _misshapen(folder: Path, model: PreTrainedModel, known: Sequence[Placed]) -> CheckpointError | None:
    own: dict[str, Any] = model.state_dict()
    group = [one for one in known if one.stored.shape != tuple(own[one.name].shape)]
    if not group:
        return None
    first, said = group[0].stored, tuple(own[group[0].name].shape)
    fields = _fields(model.config, group[0].name)
    return CheckpointError(
        f"{folder}: {len(group)} tensors have other shapes than its {CONFIG} says, the first: {first.key} is "
        f"{_shape(first.shape)} in {first.path.name}, and would be {_shape(said)}.",
        why=(f"{CONFIG} says so in {', '.join(fields)}. " if fields else "")
        + "transformers would fill them with random values (ignore_mismatched_sizes).",
        fix=f"Take {CONFIG} and weights from the same model.",
    )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _fields(config: Any, name: str) -> list[str]:
    """The fields of a configuration that a parameter's shape follows from, with what they say."""
    names = next((names for pattern, names in SHAPED.items() if re.search(pattern, name)), ())
    vision = re.search(r"vision|visual", name)
    text = re.search(r"text_model|language_model|lm_head", name)
    parts = {"": config}
    parts |= {} if vision else {"text_config.": config.get_text_config()}
    parts |= {} if text else {"vision_config.": config.vision_config}
    return [
        f"{where}{field} ({vars(part)[field]})"
        for where, part in parts.items()
        for field in (*names, "hidden_size")
        if vars(part).get(field) is not None
    ]
