"""The weights of a model folder: which files transformers would load, and what stands in their headers.

One function decides which files count; hashes, masks, loading, inspection and copies all ask it, so that what is
hashed and masked is what answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.families import read_optional_json
from edgekit.files import tree_files

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
AGAIN = "Fetch the checkpoint again."
_OF_PROCESSES = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors$")


@dataclass(frozen=True)
class Stored:
    """A tensor as a file has it.

    Attributes:
        path: The file.
        key: Its name there.
        dtype: As safetensors names it, such as BF16.
        shape: Its own.
    """

    path: Path
    key: str
    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load from a folder, in its order.

    config.json's `transformers_weights` where it is set, else model.safetensors, else the files that
    model.safetensors.index.json names. Whatever else lies there (an older save, another variant, an adapter) is none
    of the model's.

    Raises:
        CheckpointError: there are none, one is missing or no file, or the index is no index.
    """
    named = read_optional_json(folder / "config.json").get("transformers_weights")
    if named is not None:
        where = f"{folder / 'config.json'}: transformers_weights"
        if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors.index.json")):
            raise CheckpointError(f"{where} is {named!r}, no safetensors file.", fix="Leave it out.")
        return _shards(folder, named) if named.endswith(".json") else [_file(folder, named, where)]
    if apart := [path.name for path in folder.glob("shard-*.safetensors") if _OF_PROCESSES.match(path.name)]:
        raise CheckpointError(
            f"{folder} holds the parts of a distributed save, such as {apart[0]}.",
            why="transformers would put them together from several processes.",
            fix="Load it once where it was trained, and write it with save_pretrained.",
        )
    if (folder / SINGLE).exists():
        return [_file(folder, SINGLE, str(folder))]
    if (folder / INDEX).exists():
        return _shards(folder, INDEX)
    raise _no_weights(folder)


def other_files(folder: Path) -> list[Path]:
    """Safetensors files beside the model's that transformers would not load, and others might."""
    return sorted({path for path in folder.glob("*.safetensors") if path.is_file()} - set(weight_files(folder)))


def _shards(folder: Path, index: str) -> list[Path]:
    """The files that an index names, sorted."""
    content = read_optional_json(_file(folder, index, str(folder)))
    where = f"{folder / index}: weight_map"
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(
            f"{where} does not say which file each tensor is in.",
            why=f"It should be an object of names, and is {_shown(places)}.",
            fix=AGAIN,
        )
    if not isinstance(content.get("metadata"), dict):
        raise CheckpointError(
            f"{folder / index}: metadata is missing.", why="transformers does not read an index without it.", fix=AGAIN
        )
    return [_file(folder, name, where) for name in sorted(set(places.values()))]


def _shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _file(folder: Path, name: str, where: str) -> Path:
    """A regular file inside the folder, by the name that `where` gives it; links to elsewhere are the hub's cache."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise CheckpointError(f"{where} names {name!r}, which lies outside of the folder.", fix="Do not use it.")
    path = folder / name
    if len(name) > 255 or not path.exists():
        raise CheckpointError(f"{folder} lacks {name}, which its index names.", fix=AGAIN)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise CheckpointError(f"{path} is no file but {kind}.", fix=AGAIN)
    return path


def _no_weights(folder: Path) -> CheckpointError:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return CheckpointError(
            f"{folder} holds no {SINGLE} and no {INDEX}.",
            why=f"It holds {', '.join(others[:4])}, which transformers does not load by itself.",
            fix=f"If one of them is the model, name it {SINGLE}; parts of one need their index.",
        )
    unsafe = [name for name in tree_files(folder) if name.endswith(UNSAFE)]
    return CheckpointError(
        f"{folder} holds no safetensors weights.",
        why=f"It holds {unsafe[0]}, a pickle; loading one can run any code." if unsafe else "",
        fix="Convert it once with save_pretrained(..., safe_serialization=True).",
    )


def stored_tensors(folder: Path) -> Iterator[Stored]:
    """Every tensor that transformers would read, by its file's header; no weights are read.

    Raises:
        CheckpointError: as `weight_files`, or a file is damaged or cut short.
    """
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        try:
            with safe_open(str(path), framework="np") as stored:
                for key in stored.keys():  # noqa: SIM118 - a file handle, not a dict
                    part = stored.get_slice(key)
                    yield Stored(path, key, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or cut short.", why=str(error), fix=AGAIN) from error


def check_weights(folder: Path) -> None:
    """Look at a folder's safetensors files without reading them whole.

    Raises:
        CheckpointError: as `stored_tensors`, or they hold no tensor.
    """
    if not list(stored_tensors(folder)):
        raise CheckpointError(f"The weights in {folder} hold no tensor.", fix=AGAIN)
