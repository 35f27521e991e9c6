"""app/model.json: all that an app must know of a bundle, and its files with addresses and hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekit.files import write_json
from edgekit.handover import FOLDER, FORMAT, GOLDEN, MODEL, PROMPT
from edgekit.manifest import FileEntry
from edgekit.schema import to_json

KEPT = (
    "name", "target", "family", "precision", "components", "buckets", "preprocessing", "text", "cache", "vocab_size",
    "position_axes", "deepstack", "generation", "details", "student_sha256",
)  # fmt: skip
"""Fields of the manifest, as they are there."""


def needed(own: Iterable[str], names: Iterable[str], tokenizer: str) -> dict[str, str]:
    """The files an app needs, and what for: model, text or golden.

    Args:
        own: The target's own files.
        names: All files of the bundle.
        tokenizer: The name of one.
    """
    kinds = dict.fromkeys(sorted(own), "model") | {tokenizer: "text", PROMPT: "text"}
    return kinds | {name: "golden" for name in sorted(names) if name.startswith(f"{GOLDEN}/")}


def write_model(
    folder: Path, fields: Mapping[str, Any], kinds: Mapping[str, str], entries: Mapping[str, FileEntry], tokens: int
) -> None:
    """Write app/model.json.

    Args:
        folder: The bundle's.
        fields: Of the manifest.
        kinds: From `needed`.
        entries: Of these files.
        tokens: How many the tokenizer has.
    """
    files = [
        {"path": name, "url": address(name), **to_json(entries[name]), "for": kind} for name, kind in kinds.items()
    ]
    value = {
        "format": FORMAT,
        **{key: to_json(fields[key]) for key in KEPT},
        "tokens": min(tokens, fields["vocab_size"]),
        "bytes": sum(entries[name].bytes for name, kind in kinds.items() if kind != "golden"),
        "files": files,
    }
    write_json(folder / MODEL, value)


def address(name: str) -> str:
    """A file of the bundle as seen from app/model.json."""
    from urllib.parse import quote

    inside = name.removeprefix(f"{FOLDER}/")
    return quote(inside if inside != name else f"../{name}")
