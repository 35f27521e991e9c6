"""What platforms share: their fixed sources, the bundle's files, and the folder that is written whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.apps import App, Piece, Platform
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, EdgekitError, StorageError, UnsupportedError
from edgekit.families import read_optional_json
from edgekit.files import inside, new_folder, sha256_file, tree_files
from edgekit.handover import MODEL, PROMPT
from edgekit.system.disk import room_for
from edgekit.visible import json_text

MARK = ".edgekit-app.json"
"""Names an app's files with their hashes, so that what a developer changed is never overwritten."""
MODEL_TYPES = ("BPE",)
NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "Sequence")
PRE_TOKENIZERS = ("ByteLevel", "Digits", "Split", "Sequence")
DECODERS = ("ByteLevel", "ByteFallback", "Fuse", "Replace", "Strip", "Sequence")


def sources(folder: Path, leave: tuple[str, ...] = (), tools: tuple[str, ...] = ()) -> dict[str, Piece]:
    """A platform's fixed files by name.

    Args:
        folder: Of the platform's sources.
        leave: Names that are generated instead, and folders (with a slash behind them) that this app does not need.
        tools: As the platform names them.
    """
    folders = tuple(name for name in leave if name.endswith("/"))
    return {
        name: Piece(folder / name)
        for name in _others(tree_files(folder), tools)
        if name not in leave and not name.startswith(folders)
    }


def _others(names: Iterable[str], tools: tuple[str, ...]) -> list[str]:
    """Names in which no tool's file or folder stands."""
    return [name for name in names if not set(name.split("/")) & set(tools)]


def about(app: App) -> dict[str, str]:
    """What any text of an app may say of it, by name."""
    manifest = app.bundle.manifest
    return {
        "NAME": app.name,
        "BUNDLE_ID": app.bundle_id,
        "BUNDLE": manifest.name,
        "HASH": app.bundle.hash,
        "SHORT": app.bundle.hash[:12],
        "FAMILY": manifest.family,
        "TARGET": manifest.target,
        "PRECISION": manifest.precision.common,
        "SIZE": f"{read_model(app.bundle)['bytes'] / 1e6:.1f} MB",
        "EDGEKIT": __version__,
    }


def filled(file: Path, names: Mapping[str, str]) -> Piece:
    """A text in which names between @ signs stand for something; what is put in is not read again."""
    return Piece(data=re.sub(r"@([A-Z_]+)@", lambda one: names[one[1]], file.read_text(encoding="utf-8")).encode())


def bundled(app: App) -> dict[str, Piece]:
    """app/model.json and the files that it lists, by their names in the bundle.

    With a model_url these are app/model.json alone, and the addresses in it are absolute.
    """
    model = read_model(app.bundle)
    if app.model_url:
        base = app.model_url.rstrip("/")
        files = [{**one, "url": f"{base}/{one['path']}"} for one in model["files"]]
        return {MODEL: Piece(data=(json_text({**model, "files": files}, indent=2) + "\n").encode())}
    return {name: Piece(app.bundle.path(name)) for name in (MODEL, *(one["path"] for one in model["files"]))}


def read_model(bundle: Bundle) -> dict[str, Any]:
    """app/model.json of a bundle.

    Raises:
        BundleError: it has none.
    """
    if MODEL not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.folder} has nothing for an app: no {MODEL}.",
            why=f"Its manifest is of schema {bundle.manifest.schema_version}; bundles have it from 4 on.",
            fix=f"Export it again:  edgekit export CHECKPOINT --target {bundle.manifest.target}",
        )
    return read_optional_json(bundle.path(MODEL))


def context_of(bundle: Bundle) -> int | None:
    """Tokens that prompt and answer may have together; None where config.json does not say."""
    config = read_optional_json(bundle.folder / "config.json")
    text = config.get("text_config", config)
    found = text.get("max_position_embeddings") if isinstance(text, dict) else None
    return found if isinstance(found, int) and found > 0 else None


def check(name: str, platform: Platform, app: App) -> None:
    """Look whether a platform can run a bundle.

    Args:
        name: Of the platform.
        platform, app: What is to be written.

    Raises:
        UnsupportedError: it cannot, by its target, family, chat template or tokenizer; each is named.
        EdgekitError: it is too large to be part of an app, or a setting of the app is none.
    """
    manifest = app.bundle.manifest
    if manifest.target not in platform.targets:
        raise UnsupportedError(
            f"A bundle of target {manifest.target!r} does not run on {name}.",
            why=f"{name} runs: {', '.join(platform.targets)}.",
            fix=f"Export one:  edgekit export CHECKPOINT --target {platform.targets[0]}",
        )
    model = read_model(app.bundle)
    if manifest.family not in platform.families:
        raise UnsupportedError(
            f"The app library for {name} does not speak for family {manifest.family!r}.",
            why=f"It speaks for {', '.join(platform.families)}.",
        )
    if manifest.view_tokens("vision_encoder") is not None:
        raise UnsupportedError(
            f"The app library for {name} cuts no tiles of family {manifest.family!r}.",
            why="This bundle's vision encoder takes views of any size, tiles of a large image among them; the library "
            "prepares images of chosen sizes, of one view each.",
            fix=f"Export it for some:  edgekit export CHECKPOINT --target {manifest.target} --image-size 512x512",
        )
    if why := read_optional_json(app.bundle.path(PROMPT)).get("unsupported"):
        raise UnsupportedError(
            f"The chat template of {app.bundle.folder.name} cannot be used in an app.",
            why=str(why),
            fix="Simplify chat_template.jinja in the checkpoint, and export it again.",
        )
    _check_tokenizer(read_optional_json(app.bundle.path(manifest.text.tokenizer)))
    if not app.model_url and model["bytes"] > platform.most_bytes:
        raise EdgekitError(
            f"A model of {model['bytes'] / 1e6:,.0f} MB is too large to be part of an app for {name}.",
            why=f"At most {platform.most_bytes / 1e6:,.0f} MB are.",
            fix=platform.larger,
        )
    _check_settings(app)
    if platform.encrypted and app.model_url.startswith("http://"):
        raise EdgekitError(
            f"An app for {name} loads nothing from {app.model_url}: it is not encrypted.",
            fix="Put the bundle on a server with https://, and name that with --model-url.",
        )


def _check_settings(app: App) -> None:
    if not app.name.strip() or not app.name.isprintable() or len(app.name) > 60:
        raise EdgekitError(f"{app.name!r} is no name for an app.", fix="Give one of 1 to 60 letters with --name.")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(\.[A-Za-z][A-Za-z0-9]*)+", app.bundle_id):
        raise EdgekitError(
            f"{app.bundle_id!r} is no bundle identifier.", fix="For example:  --bundle-id com.example.ask"
        )
    if app.model_url and not re.fullmatch(r"https?://[^\s\"'<>\\]+", app.model_url):
        raise EdgekitError(
            f"{app.model_url!r} is no address that a model can be downloaded from.",
            fix="For example:  --model-url https://example.com/models/student-int8",
        )


def _check_tokenizer(file: dict[str, Any]) -> None:
    """Raises an UnsupportedError for a tokenizer of another kind, by its name."""
    known = {
        "model": MODEL_TYPES, "normalizer": NORMALIZERS, "pre_tokenizer": PRE_TOKENIZERS, "decoder": DECODERS,
    }  # fmt: skip
    for part, kinds in known.items():
        for kind in _kinds(file.get(part)):
            if kind not in kinds:
                raise UnsupportedError(
                    f"The tokenizer of this bundle is not supported in an app: its {part} is {kind!r}.",
                    why=f"Those known are {', '.join(kinds)}: byte-level BPE, and BPE with byte fallback.",
                )


def _kinds(part: Any) -> list[str]:
    if not isinstance(part, dict):
        return []
    inner = [one for key in ("normalizers", "pretokenizers", "decoders") for one in part.get(key, [])]
    return [str(part.get("type")), *(kind for one in inner for kind in _kinds(one))]


def write(name: str, platform: Platform, pieces: Mapping[str, Piece], out: Path) -> None:
    """Write an app's folder, whole or not at all.

    Args:
        name: Of the platform.
        platform: It.
        pieces: The files.
        out: A new folder, or one that this wrote and nobody changed.

    Raises:
        StorageError: it is another's, or was changed.
        NoSpaceError: there is no room.
    """
    check_place(name, platform, out)
    size = sum(piece.bytes for piece in pieces.values())
    with room_for(out, size, 2 * size), new_folder(out, replace=out.exists()) as folder:
        hashes = {}
        for path, piece in sorted(pieces.items()):
            to = inside(folder, path)
            to.parent.mkdir(parents=True, exist_ok=True)
            if piece.source is None:
                to.write_bytes(piece.data)
            else:
                shutil.copyfile(piece.source, to)
            hashes[path] = sha256_file(to)
        mark = {"format": 1, "platform": name, "edgekit": __version__, "files": hashes}
        (folder / MARK).write_text(json.dumps(mark, indent=1) + "\n")


def check_place(name: str, platform: Platform, out: Path) -> None:
    """Look whether an app may be written there.

    Raises:
        StorageError: something is there that this did not write, or that was changed since.
    """
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MARK).is_file()):
        raise StorageError(
            f"{out} exists already, and `edgekit app` did not write it.", fix="Name another folder with --out."
        )
    if not any(out.iterdir()):
        return
    mark = read_optional_json(out / MARK)
    files = mark.get("files")
    if mark.get("platform") != name or not isinstance(files, dict):
        raise StorageError(f"{out} holds an app for {mark.get('platform')!r}.", fix="Name another folder with --out.")
    there = _others(tree_files(out), platform.tools)
    changed = [one for one in there if one != MARK and files.get(one) != sha256_file(out / one)]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise StorageError(
            f"{out} was changed since it was written: {changed[0]}{more}.",
            why="Writing it again would lose that.",
            fix="Name another folder with --out, or remove this one.",
        )
