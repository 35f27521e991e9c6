"""Hugging Face model folders: checked before use, hashed, loaded; safetensors only."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import CheckpointError
from edgekit.families import family_of, read_optional_json
from edgekit.files import sha256_tree, tree_files
from edgekit.seal import check_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What decides a model's answers; cards, READMEs and the like may change without making another model of it.
HASHED = (".safetensors", ".jinja", ".model", "config.json", "tokenizer.json", "generation_config.json")


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """Look at a model folder without loading its weights.

    Returns:
        Its config.json.
    Raises:
        CheckpointError: not there, of a family edgekit does not know, no safetensors, or files cut short.
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
    if not (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder} is not a model folder: it has no config.json.", fix="Give a Hugging Face checkpoint folder."
        )
    check_folder(folder)
    config = read_optional_json(folder / "config.json")
    family_of(str(config.get("model_type")))
    check_weights(folder)
    return config


def check_weights(folder: Path) -> None:
    """Look at a folder's safetensors files without reading them whole.

    Raises:
        CheckpointError: there are none, one is missing, or one is cut short.
    """
    from safetensors import SafetensorError, safe_open

    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        unsafe = [name for name in tree_files(folder) if name.endswith(UNSAFE)]
        raise CheckpointError(
            f"{folder} holds no safetensors weights.",
            why=f"It holds {unsafe[0]}, a pickle; loading one can run any code." if unsafe else "",
            fix="Convert it once with save_pretrained(..., safe_serialization=True).",
        )
    index = read_optional_json(folder / "model.safetensors.index.json")
    missing = sorted({str(name) for name in index.get("weight_map", {}).values()} - {path.name for path in weights})
    if missing:
        raise CheckpointError(f"{folder} lacks {missing[0]}, which its index names.", fix="Fetch the checkpoint again.")
    for path in weights:
        try:
            with safe_open(str(path), framework="np") as stored:
                stored.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is damaged or cut short.", why=str(error), fix="Fetch the checkpoint again."
            ) from error


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 over weights, configuration, tokenizer and template: what decides the answers."""
    return sha256_tree(folder, names=[path.name for path in folder.iterdir() if path.name.endswith(HASHED)])


def load_model(folder: Path, *, dtype: str = "float32", attn: str = "sdpa") -> PreTrainedModel:
    """A checked checkpoint as a transformers model, in eval mode, on the CPU.

    Args:
        folder: Hugging Face folder.
        dtype: Torch dtype name.
        attn: Attention implementation.
    Raises:
        CheckpointError: as `check_checkpoint`, or tensors missing or of other shapes than the configuration says.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    check_checkpoint(folder)
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=attn,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"Cannot load the model in {folder}.", why=reason) from error
    finally:
        logging.set_verbosity(before)
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} tensors, the first: {missing[0]}.",
            why="They would be left at random values.",
            fix="Fetch the checkpoint again.",
        )
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
    """The folder behind a checkpoint name.

    Args:
        name: Folder, `demo:teacher`, `demo:mid`, `demo:student`, or a hub name (`org/model`, fetched if it can be).
        base: Folder that relative names start from.
        weights: Fetch a hub model's weights too, not its configuration and tokenizer alone.
    Raises:
        CheckpointError: nothing there.
    """
    if name.startswith("demo:"):
        folder = Path(str(files("edgekit.demo") / "weights")) / name.removeprefix("demo:")
        if not folder.is_dir():
            raise CheckpointError(
                f"There is no demo model {name!r}.", fix="There are: demo:teacher, demo:mid, demo:student."
            )
        return folder
    for folder in (Path(name), *([base / name] if base else [])):
        if folder.is_dir():
            return folder.resolve()
        _refuse_gguf(folder)
    return _from_hub(name, weights)


def _from_hub(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = ["*.json", "*.jinja", "*.txt", "*.model", *(["*.safetensors"] if weights else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HFValidationError as error:
        raise CheckpointError(f"No model at {name!r}.", why="It is no folder and no hub name.") from error
    except Exception as error:  # offline, unknown and refused all come as different types from several layers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"No model at {name!r}.", why=f"It is no folder here, and the hub did not give it: {reason}"
        ) from error
