"""Folders of an adapter (LoRA and alike): merged into their base once, and kept as a whole checkpoint.

What follows (hashes, masks, exports) then has one model with one set of weights. The layers that an adapter changes
are merged and kept in float32, so that nothing is rounded that was not; all others stay as the base has them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.checkpoint.configuration import CONFIG, refuse_quantised
from edgekit.checkpoint.hub import from_hub
from edgekit.checkpoint.weights import AGAIN, INDEX, SINGLE, check_weights, weight_files
from edgekit.errors import CheckpointError, EdgekitError
from edgekit.families import read_optional_json
from edgekit.files import new_folder, sha256_file, sha256_json
from edgekit.system.quiet import quiet_transformers

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model_name_or_path"
KINDS = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA")
"""Kinds that end in weights of the same shapes; prompts and prefixes do not."""
STARTS = ("gaussian", "orthogonal", "pissa", "olora", "eva")
"""Ways a LoRA began that can be gone through again from the base alone; others read files that the settings name."""
PROCESSOR = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
"""Files that a trainer saves beside an adapter, and that count before those of its base."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, beside its base or without it; a bundle does not, whatever lies in it."""
    return (folder / SETTINGS).exists() and not (folder / "manifest.json").exists()


def base_of(folder: Path) -> Path:
    """The folder with the weights that an adapter was trained on.

    Its own, where a whole model lies beside it; else `base_model_name_or_path`, as it is written or seen from the
    adapter's folder, a folder of that name beside or in it, or the hub's.

    Raises:
        CheckpointError: it is not at hand.
    """
    if (folder / CONFIG).exists() and any((folder / name).exists() for name in (SINGLE, INDEX)):
        return folder
    named = read_optional_json(folder / SETTINGS).get(BASE)
    if not isinstance(named, str) or not named or len(named) > 1000 or "\0" in named:
        raise CheckpointError(
            f"{folder / SETTINGS}: {BASE} is {named!r}.",
            why=f"{folder} holds an adapter, which is nothing without the model it was trained on.",
            fix="Write the base model's folder there.",
        )
    last = Path(named).name
    for place in (Path(named), folder / named, folder.parent / last, folder / last, folder / "base"):
        if place.is_dir() and (place / CONFIG).exists() and not is_adapter(place):
            return place.resolve()
    try:
        return from_hub(named, weights=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} holds an adapter, and its base {named!r} is not at hand.",
            why=error.why or error.what,
            fix=f"Put the base model's folder beside it as {folder.parent / last}, or write its path into "
            f"{SETTINGS} ({BASE}); or merge where both are: model.merge_and_unload().save_pretrained(FOLDER).",
        ) from error


def merged(folder: Path) -> Path:
    """A checkpoint folder of the adapter in `folder` merged into its base, made at the first call.

    It is kept in the user's cache folder; the name says of which files.

    Raises:
        CheckpointError: the base is not at hand, the two do not belong together, or the adapter is of another kind.
        EdgekitError: peft is not installed.
    """
    from edgekit.console import note

    settings = _settings(folder)
    base = base_of(folder)
    refuse_quantised(base / CONFIG, read_optional_json(base / CONFIG))
    check_weights(base)
    place = _cache() / _key(folder, base) / folder.name
    if not place.is_dir():
        note(f"Merging the adapter in {folder} into its base {base}: {place}")
        with new_folder(place, replace=True) as aside:
            _merge(folder, settings, base, aside)
    return place


def _settings(folder: Path) -> dict[str, Any]:
    """adapter_config.json, if it is of a kind that can be merged and runs nothing."""
    path = folder / SETTINGS
    settings = read_optional_json(path)
    if not (folder / WEIGHTS).is_file():
        others = [name for name in ("adapter_model.bin", "adapter_model.pt") if (folder / name).exists()]
        raise CheckpointError(
            f"{folder} holds an {SETTINGS} and no {WEIGHTS}.",
            why=f"It holds {others[0]}, a pickle; loading one can run any code." if others else "",
            fix="Save the adapter with save_pretrained(..., safe_serialization=True)."
            if others
            else f"Remove {SETTINGS} if the folder is a whole model; else fetch the adapter again.",
        )
    how = "Merge it where it was trained: model.merge_and_unload().save_pretrained(FOLDER)."
    if settings.get("peft_type") not in KINDS:
        raise CheckpointError(
            f"{path}: peft_type is {settings.get('peft_type')!r}, which is not merged here.",
            why=f"These are: {', '.join(KINDS)}.",
            fix=how,
        )
    start = settings.get("init_lora_weights", True)
    if not (start is None or isinstance(start, bool) or (isinstance(start, str) and start.startswith(STARTS))):
        raise CheckpointError(
            f"{path}: init_lora_weights is {start!r}; such an adapter began from a changed base.",
            why=f"From the base alone these can be merged: true, false, {', '.join(STARTS)}.",
            fix=how,
        )
    for name in ("megatron_config", "megatron_core"):  # peft imports the module that it names
        if settings.get(name) not in (None, "megatron.core"):
            raise CheckpointError(f"{path}: {name} is set, which is for Megatron only.", fix=how)
    return settings


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit" / "merged"


def _key(folder: Path, base: Path) -> str:
    """Says of which files a merged checkpoint is: by content, and by size and time where they are large."""
    small = [folder / name for name in (SETTINGS, WEIGHTS, *PROCESSOR)] + sorted(base.glob("*.json"))
    weights = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in weight_files(base)]
    return sha256_json([[sha256_file(path) for path in small if path.is_file()], weights])[:16]


def _merge(folder: Path, settings: dict[str, Any], base: Path, out: Path) -> None:
    """Write base and adapter as one checkpoint."""
    try:
        from peft import PeftModel  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise EdgekitError(
            f"{folder} holds an adapter; merging it needs peft, which is not installed.",
            fix="Install it:  pip install 'edgekit[lora]'",
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        model = _load(_without_adapter(base, Path(scratch)), base)
    try:
        whole = _apply(model, folder, settings)
    except EdgekitError:
        raise
    except Exception as error:  # peft says what does not fit in many types
        raise CheckpointError(
            f"The adapter in {folder} does not fit its base {base}.",
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            fix=f"Name the model it was trained on in {SETTINGS} ({BASE}).",
        ) from error
    whole.save_pretrained(out)
    for source in (folder, base):
        for path in _beside(source):
            if path.is_file() and not (out / path.name).exists():
                shutil.copyfile(path, out / path.name)


def _beside(source: Path) -> Iterator[Path]:
    for name in (*PROCESSOR, "generation_config.json"):
        yield source / name


def _without_adapter(base: Path, scratch: Path) -> Path:
    """The base's files under links: transformers would attach an adapter that lies beside them."""
    for path in [base / CONFIG, base / "generation_config.json", base / INDEX, *weight_files(base)]:
        if path.exists():
            link = scratch / path.relative_to(base)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return scratch


def _load(folder: Path, base: Path) -> Any:
    """The base in its own type; a vision-language model, or of text alone for a judge."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGED

    from edgekit.checkpoint.tensors import check_tensors

    imaged = read_optional_json(folder / CONFIG).get("model_type") in IMAGED
    if imaged:
        check_tensors(folder)
    auto = AutoModelForImageTextToText if imaged else AutoModelForCausalLM
    try:
        with quiet_transformers():
            return auto.from_pretrained(
                folder, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"Cannot load the base {base} of an adapter.", why=reason) from error


def _apply(model: Any, folder: Path, settings: dict[str, Any]) -> Any:
    """The model with the adapter added to its weights, by peft.

    Raises:
        CheckpointError: tensors of the adapter have no place in the model, or some that it needs are not there.
    """
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    wrapper = PeftModel(model, config)
    # As PeftModel.from_pretrained does it, which keeps to itself what did not fit.
    renamed = getattr(model, "_checkpoint_conversion_mapping", {})
    result = wrapper.load_adapter(str(folder), "default", torch_device="cpu", key_mapping=renamed)
    for what, names in (("has no place for", result.unexpected_keys), ("needs and does not find", result.missing_keys)):
        if names:
            raise CheckpointError(
                f"The model {what} {len(names)} tensors of the adapter in {folder}, the first: {min(names)}.",
                fix=f"Name the model it was trained on in {SETTINGS} ({BASE}), or fetch the adapter again: {AGAIN}",
            )
    for module in wrapper.modules():
        if isinstance(module, BaseTunerLayer):
            module.get_base_layer().float()
    whole = wrapper.merge_and_unload(safe_merge=True)
    if whole.get_output_embeddings().weight is not whole.get_input_embeddings().weight:
        whole.config.tie_word_embeddings = False  # one of them was trained by itself
    return whole
