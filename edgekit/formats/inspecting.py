"""What stands in a bundle or a checkpoint, counted."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import EdgekitError
from edgekit.formats import READERS, is_encoder
from edgekit.formats.counting import Inspection, copies_cache, files_of, heads_of, image_edges, prompt_tokens, summarise
from edgekit.handover.summary import summary


def inspect(folder: Path, *, tokens: int | None = None, verify: bool = True) -> Inspection:
    """Read a bundle or a checkpoint.

    Args:
        folder: Of either.
        tokens: In the cache when a token is decoded; those of one image and QUESTION_TOKENS by default.
        verify: Hash a bundle's files first.

    Raises:
        EdgekitError: neither, damaged, or what reads it is not installed.
    """
    if (folder / MANIFEST).exists():
        return inspect_bundle(Bundle.load(folder, verify=verify), tokens=tokens)
    if not (folder / "config.json").exists() and folder.is_dir() and not any(folder.glob("*.gguf")):
        raise EdgekitError(
            f"{folder} is neither a bundle nor a checkpoint.",
            why=f"It has no {MANIFEST}, which a bundle has, and no config.json, which a Hugging Face folder has.",
            fix="Name the folder that edgekit export wrote, or a model folder.",
        )
    from edgekit.formats.checkpoint import inspect as checkpoint

    return checkpoint.inspect(folder, tokens)


def inspect_bundle(bundle: Bundle, *, tokens: int | None = None) -> Inspection:
    """As `inspect`, of a bundle that is loaded."""
    manifest = bundle.manifest
    if manifest.target not in READERS.names():
        raise EdgekitError(
            f"{bundle.folder} is for the target {manifest.target!r}, which nothing here can look into.",
            fix=f"Known: {', '.join(READERS.names())}.",
        )
    bundle.check_parts()
    reader = READERS.load(manifest.target)
    parts = reader.read(bundle)
    files = {name for part in manifest.components.values() for name in files_of(manifest, part)}
    return summarise(
        parts,
        heads=heads_of(bundle),
        tokens=tokens or prompt_tokens(manifest),
        images={name: image_edges(part) for name, part in manifest.components.items() if is_encoder(name)},
        copied=copies_cache(manifest),
        component_bytes=sum(manifest.files[name].bytes for name in files),
        about={
            "name": manifest.name,
            "target": manifest.target,
            "precision": manifest.precision.common,
            "hash": bundle.hash,
            "size_bytes": bundle.size_bytes,
            "apart_means": reader.apart,
            "notes": (
                *reader.notes,
                *(reader.told(bundle) if reader.told else ()),
                *([bundle.unsealed] if bundle.unsealed else []),
            ),
            "apps": summary(bundle),
        },
    )
