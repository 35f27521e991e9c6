"""Hugging Face model folders: checked before use, hashed, loaded; safetensors only."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint.adapters import SETTINGS, base_of, is_adapter, merged
from edgekit.checkpoint.configuration import PARTS, end_token_ids, read_config
from edgekit.checkpoint.hub import from_hub
from edgekit.checkpoint.tensors import check_tensors
from edgekit.checkpoint.weights import check_weights, weight_files
from edgekit.console import note_once
from edgekit.errors import CheckpointError
from edgekit.files import sha256_tree
from edgekit.seal import check_folder
from edgekit.system.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What decides a model's answers; cards, READMEs and the like may change without making another model of it.
HASHED = (
    ".jinja", ".model", "config.json", "tokenizer.json", "generation_config.json", "chat_template.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """Look at a model folder without loading its weights.

    Returns:
        Its config.json.

    Raises:
        CheckpointError: not there, of a family edgekit does not know, quantised, an adapter, no safetensors, or files
            that are damaged, cut short or none.
        DamagedError: edgekit made and sealed it, and it is not as it was.
    """
    if not folder.is_dir():
        _refuse_gguf(folder)
        raise CheckpointError(f"No model folder at {folder}.", fix="Give a Hugging Face checkpoint folder.")
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} holds GGUF files, and no model.",
            why="They are a finished export; distillation and export start from the full-precision folder.",
            fix="Give the Hugging Face folder that they were made from.",
        )
    for path in sorted(folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError(
                f"{path} is no file but a pipe or a device.", why="Reading it could wait for ever.", fix="Remove it."
            )
    if is_adapter(folder):
        raise CheckpointError(
            f"{folder} holds an adapter ({SETTINGS}).",
            why="Alone, or not merged, it is no model; commands that take a checkpoint's name merge it by themselves.",
            fix="Merge it:  edgekit.checkpoint.folder.resolve_checkpoint(FOLDER) gives the merged folder.",
        )
    check_folder(folder)
    config = read_config(folder)
    check_weights(folder)
    return config


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 over weights, configuration, tokenizer and template: what decides the answers."""
    weights = [path.relative_to(folder).as_posix() for path in weight_files(folder)]
    others = [path.name for path in folder.iterdir() if path.name.endswith(HASHED) and path.is_file()]
    return sha256_tree(folder, names=[*weights, *others])


def load_model(folder: Path, *, dtype: str = "float32", attn: str = "sdpa") -> PreTrainedModel:
    """A checked checkpoint as a transformers model, in eval mode, on the CPU.

    Args:
        folder: Hugging Face folder.
        dtype: Torch dtype name.
        attn: Attention implementation.

    Raises:
        CheckpointError: as `check_checkpoint` and `check_tensors`, or transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    check_checkpoint(folder)
    check_tensors(folder)
    try:
        with quiet_transformers():
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                attn_implementation=attn,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a folder's files make transformers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"Cannot load the model in {folder}.", why=reason) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} tensors, the first: {missing[0]}.",
            why="They would be left at random values.",
            fix="Fetch the checkpoint again.",
        )
    if not end_token_ids(folder):
        note_once(f"{folder.name} has no end token (eos_token_id): answers go on to their longest length")
    for part in (model.config, *(getattr(model.config, name, None) for name in PARTS)):
        if part is not None:
            part.return_dict = True  # `generate` asks for it itself, whatever a folder says; a plain call does not
    loaded: PreTrainedModel = model.eval()
    return loaded


def _refuse_gguf(path: Path) -> None:
    if path.is_file() and path.suffix == ".gguf":
        raise CheckpointError(
            f"{path} is a GGUF file.",
            why="It is a finished export; distillation and export start from the full-precision folder.",
            fix="Give the Hugging Face folder that it was made from.",
        )


def resolve_checkpoint(name: str, base: Path | None = None, *, weights: bool = True) -> Path:
    """The folder behind a checkpoint name; of an adapter, where it lies merged into its base.

    Args:
        name: Folder, `demo:teacher` or another shipped model, or a hub name (`org/model`, fetched if it can be).
        base: Folder that relative names start from.
        weights: Fetch a hub model's weights too, not its configuration and tokenizer alone.

    Raises:
        CheckpointError: nothing there, or an adapter that cannot be merged.
    """
    if name.startswith("demo:"):
        folder = Path(str(files("edgekit.demo") / "weights")) / name.removeprefix("demo:")
        if not folder.is_dir():
            raise CheckpointError(f"There is no demo model {name!r}.", fix=f"There are: {', '.join(_shipped())}.")
        return folder
    if name.startswith("scenes:"):
        raise CheckpointError(
            f"{name!r} is what `edgekit demo train` makes, and no model.",
            fix=f"Make it and name its folder:  edgekit demo train {name}\n"
            f"  Shipped are:  {', '.join(one for one in _shipped() if 'scenes' in one)}",
        )
    for folder in (Path(name), *([base / name] if base else [])):
        if folder.is_dir():
            return _whole(folder.resolve(), weights)
        _refuse_gguf(folder)
    return _whole(from_hub(name, weights), weights)


def _shipped() -> list[str]:
    from edgekit.demo import roles

    return [f"demo:{role}" for role in roles()]


def _whole(folder: Path, weights: bool) -> Path:
    """The folder itself; of an adapter, the folder it is merged in, or its base where no weights are asked for."""
    if not is_adapter(folder):
        return folder
    return merged(folder) if weights else base_of(folder)
