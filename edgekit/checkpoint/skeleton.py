"""The model that a configuration describes, without a byte of weights, and how stored tensors fit into it.

It is built on torch's meta device, which gives every parameter its shape and none its memory. So a configuration that
contradicts itself or the weights is found before anything is loaded, or computed for hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint.configuration import CONFIG, GENERATION, read_config, refuse_fields
from edgekit.checkpoint.weights import Stored, stored_tensors
from edgekit.errors import CheckpointError
from edgekit.families import Family, family_of
from edgekit.system.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Placed:
    """A stored tensor with its place in the model.

    Attributes:
        stored: Where it lies.
        name: The model's name for it; that of no parameter where the model has no place for it.
        whole: Whether it is that parameter by itself, not one of several that are put together or taken apart.
    """

    stored: Stored
    name: str
    whole: bool


def skeleton(folder: Path) -> PreTrainedModel:
    """The model of a checkpoint with names and shapes.

    Raises:
        CheckpointError: the configuration contradicts itself, or transformers builds no model of it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    path = folder / CONFIG
    kind = read_config(folder)["model_type"]
    try:
        with quiet_transformers():
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            _check(path, config, family_of(str(kind)))
            with torch.device("meta"):
                model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
            if (path := folder / GENERATION).exists():
                GenerationConfig.from_pretrained(folder, local_files_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a configuration makes its classes raise: there is no end of types
        raise CheckpointError(
            f"{path} describes no {'model' if path.name == CONFIG else 'way to generate'}.",
            why=_reason(error),
            fix="Take this file from the model's original folder.",
        ) from error
    return model


def _reason(error: Exception) -> str:
    """What an error says, without the layout that some have."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if not isinstance(error, ValueError) else text[:300]


def _check(path: Path, config: Any, family: Family) -> None:
    """Fields that do not go together, by the filled-in configuration."""
    problems = [*_names(config), *_sizes(config)]
    if not problems and family.contradictions is not None:
        problems = [f"{field} {why}" for field, why in family.contradictions(config)]
    refuse_fields(path, problems)


def _names(config: Any) -> Iterator[str]:
    """Activations and kinds of rotary positions that transformers does not know."""
    from transformers.activations import ACT2FN

    for where, part in (("", config), ("text_config.", config.get_text_config()), ("vision_config.", _vision(config))):
        for name, value in vars(part).items():
            if name.endswith(("_act", "_activation")) and isinstance(value, str) and value not in ACT2FN:
                yield f"{where}{name} is {value!r}, an activation that transformers does not know"
        if where:
            yield from _rotary(f"{where}rope_parameters", getattr(part, "rope_parameters", None))


def _vision(config: Any) -> Any:
    return config.vision_config


def _rotary(where: str, given: Any) -> Iterator[str]:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    known = sorted({*ROPE_INIT_FUNCTIONS, "default", "axial", "mrope"})
    for name, value in (given or {}).items():
        if name in ("rope_type", "type"):
            if value not in known:
                yield f"{where}.{name} is {value!r}; transformers knows {', '.join(known)}"
        elif isinstance(value, dict):
            yield from _rotary(f"{where}.{name}", value)


def _sizes(config: Any) -> Iterator[str]:
    """Heads that do not share the width out, tokens that are not in the vocabulary."""
    text, vision = config.get_text_config(), _vision(config)
    heads, keys = text.num_attention_heads, getattr(text, "num_key_value_heads", None)
    width = getattr(text, "head_dim", None)
    if not width and text.hidden_size % heads:
        yield f"text_config.num_attention_heads is {heads}, which does not divide hidden_size {text.hidden_size}"
    elif (width := width or text.hidden_size // heads) % 2:
        yield f"text_config.head_dim is {width}; rotary positions need an even one"
    if keys and heads % keys:
        yield f"text_config.num_key_value_heads is {keys}, which does not divide num_attention_heads {heads}"
    name = "num_heads" if hasattr(vision, "num_heads") else "num_attention_heads"
    if vision.hidden_size % (heads := getattr(vision, name)):
        yield f"vision_config.{name} is {heads}, which does not divide hidden_size {vision.hidden_size}"
    vocab = text.vocab_size
    image = getattr(config, "image_token_id", None)
    if image is not None and image >= vocab:
        alias = "image_token_index" if "image_token_id" in type(config).attribute_map else "image_token_id"
        yield f"{alias} is {image}, outside of the vocabulary (text_config.vocab_size is {vocab})"
    pad = getattr(text, "pad_token_id", None)
    if isinstance(pad, int) and not -vocab <= pad < vocab:
        yield f"text_config.pad_token_id is {pad}, outside of the vocabulary (vocab_size is {vocab})"


def namer(model: PreTrainedModel) -> Callable[[str], tuple[str, bool]]:
    """How the model names a stored tensor, and whether that is a parameter by itself.

    The names may differ: transformers keeps the hub's old layouts readable by renaming at load and back at save, so
    its own rules are asked.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    rules = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    own = model.state_dict()
    prefix = getattr(model, "base_model_prefix", None)

    def name_of(key: str) -> tuple[str, bool]:
        name, converted = rename_source_key(key, renamings, converters, prefix, own)
        if name not in own and key in own:  # so does transformers: a rule too many
            name, converted = rename_source_key(key, [], [], prefix, own)
        return name, converted is None

    return name_of


def placed_tensors(model: PreTrainedModel, folder: Path) -> list[Placed]:
    """Every stored tensor of a folder with the model's name for it.

    Args:
        model: Loaded from the folder, or its skeleton.
        folder: Hugging Face folder.

    Raises:
        CheckpointError: as `stored_tensors`.
    """
    name_of = namer(model)
    return [Placed(stored, *name_of(stored.key)) for stored in stored_tensors(folder)]
