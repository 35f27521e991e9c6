"""golden/: images, strings and conversations, and what this very bundle makes of them.

They are the test of every library that runs a bundle elsewhere, and the self-test of an app on its user's device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit import strict_json
from edgekit.data import ImageRef
from edgekit.errors import BundleError, DataError
from edgekit.files import inside, write_text
from edgekit.handover import FORMAT, GOLDEN, VECTORS
from edgekit.handover.drawn import drawn_images
from edgekit.handover.pieces import Pieces, Unsupported
from edgekit.handover.prompt import assistant, system_text, user
from edgekit.handover.strings import strings
from edgekit.inputs.chat import Message
from edgekit.inputs.images import as_rgb
from edgekit.visible import json_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgekit.inputs.processor import Processor

MOST_BYTES = 16 << 20
MOST_ENTRIES = 1024
MOST_RAW = 32 << 10
"""Bytes of an image that is also given as raw RGB."""
RUN = 4
"""So many times one token is written as a pair."""
SAMPLES = 8
MAX_NEW_TOKENS = 16
ANSWERED = (0, 1, 2, 4)
"""Conversations that are answered; the others would only cost time."""
CHAT: tuple[tuple[str, tuple[str, ...]], ...] = (("What is in the image?", ("square",)), ("Are you sure?", ()))
Entry = dict[str, Any]


def write_golden(folder: Path, processor: Processor, pieces: Pieces | Unsupported) -> None:
    """Put images and vectors into a bundle's folder; no answers, which take a runtime.

    Args:
        folder: Not sealed yet.
        processor: The bundle's own, as exported.
        pieces: Of its template.
    """
    (folder / GOLDEN).mkdir()
    for name, (suffix, data) in drawn_images().items():
        (folder / GOLDEN / f"{name}{suffix}").write_bytes(data)
    found = [image_entry(folder, name, f"{name}{suffix}", processor) for name, (suffix, _) in drawn_images().items()]
    for entry in found:
        if entry["raw"]:
            (folder / GOLDEN / entry["raw"]).write_bytes(raw(folder, entry["file"]).tobytes())
    files = {entry["name"]: entry["file"] for entry in found}
    special = [token.content for _, token in sorted(processor.tokenizer.get_added_tokens_decoder().items())]
    value = {
        "format": FORMAT,
        "pictures": found,
        "strings": [string(text, processor) for text in dict.fromkeys(strings(special))],
        "conversations": [conversation(folder, files, *talk, processor) for talk in _talks(pieces)],
        "answers": no_answers("none were asked for"),
    }
    write_vectors(folder, value)


def vectors(folder: Path, value: Entry, processor: Processor) -> Entry:
    """The vectors of a bundle made again from its own images, texts and messages.

    Args:
        folder: The bundle's.
        value: From `read_golden`.
        processor: The bundle's own, as exported.
    """
    found = [image_entry(folder, entry["name"], entry["file"], processor) for entry in value["pictures"]]
    files = {entry["name"]: entry["file"] for entry in value["pictures"]}
    return {
        "pictures": found,
        "strings": [string(entry["text"], processor) for entry in value["strings"]],
        "conversations": [
            conversation(folder, files, entry["messages"], entry["pictures"], processor)
            for entry in value["conversations"]
        ],
    }


def write_vectors(folder: Path, value: Entry) -> None:
    """Write golden/golden.json, each entry a line."""
    parts = []
    for key, item in value.items():
        lines = [json_text(one, separators=(",", ":")) for one in item] if isinstance(item, list) else []
        whole = "[\n" + ",\n".join(lines) + "\n]" if lines else json_text(item, separators=(",", ":"))
        parts.append(f"{json_text(key)}: {whole}")
    write_text(folder / VECTORS, "{\n" + ",\n".join(parts) + "\n}\n")


def read_golden(folder: Path) -> Entry:
    """golden/golden.json of a bundle.

    Raises:
        BundleError: not there, or of another format.
    """
    try:
        value = strict_json.read(folder / VECTORS, most_bytes=MOST_BYTES)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"Cannot read {folder / VECTORS}.", why=str(error), fix="Copy or export the bundle again."
        ) from error
    lists = ("pictures", "strings", "conversations")
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("answers"), dict):
        raise BundleError(f"{folder / VECTORS} is not of format {FORMAT}.", fix="Export the bundle again.")
    if not all(isinstance(value.get(key), list) and len(value[key]) <= MOST_ENTRIES for key in lists):
        raise BundleError(f"{folder / VECTORS} has no lists of {', '.join(lists)}.", fix="Export the bundle again.")
    return value


def no_answers(why: str) -> Entry:
    """`answers` of a bundle that none were asked of."""
    return {
        "runtime": None, "verified_by": None, "max_new_tokens": MAX_NEW_TOKENS, "threads": 1, "single": [], "chat": [],
        "why": why,
    }  # fmt: skip


def opened(folder: Path, file: str) -> Image:
    """A golden image, upright, as `edgekit run` opens a file."""
    return ImageRef(path=inside(folder, f"{GOLDEN}/{file}")).open()


def raw(folder: Path, file: str) -> NDArray[np.uint8]:
    """A golden image as RGB, uint8 (height, width, 3), what is transparent laid over white."""
    return np.asarray(as_rgb(opened(folder, file)))


def image_entry(folder: Path, name: str, file: str, processor: Processor) -> Entry:
    """An image, and the pixels that the encoder is given for it."""
    pixels = raw(folder, file)
    height, width = pixels.shape[:2]
    return {
        "name": name,
        "file": file,
        "width": width,
        "height": height,
        "rgb_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "raw": f"{name}.rgb" if pixels.nbytes <= MOST_RAW else None,
        "pixels": _pixels(opened(folder, file), processor),
    }


def _pixels(image: Image, processor: Processor) -> Entry:
    try:
        found = processor.preprocess([image])
    except DataError as error:
        return {"refused": error.what}
    flat = found.values.reshape(-1)
    places = sorted({int(place) for place in np.linspace(0, len(flat) - 1, SAMPLES)})
    return {
        "shape": list(found.values.shape),
        "grid": [int(size) for size in found.grids[0]],
        "sha256": _sha256(found.values, "<f4"),
        "samples": [[place, float(flat[place])] for place in places],
    }


def string(text: str, processor: Processor) -> Entry:
    """A text, its ids, and what they are as text where that is another."""
    ids = processor.tokenizer.encode(text, add_special_tokens=False).ids
    decoded = processor.tokenizer.decode(ids, skip_special_tokens=True)
    return {"text": text, "ids": ids} | ({} if decoded == text else {"decoded": decoded})


def conversation(
    folder: Path, files: dict[str, str], messages: list[Message], names: Sequence[str], processor: Processor
) -> Entry:
    """A conversation as prompt, expanded prompt, ids and positions."""
    given: Entry = {"messages": messages, "pictures": list(names)}
    images = [opened(folder, files[name]) for name in names]
    try:
        inputs = processor.encode(messages, images)
        expanded = processor.prompt(messages, [] if inputs.pixels is None else inputs.pixels.grids)
    except DataError as error:
        return {**given, "refused": error.what}
    image_token = processor.family.image_token
    return {
        **given,
        "prompt": processor.rendered(messages),
        "expanded": [expanded] if image_token is None else _folded_text(expanded, image_token),
        "ids": folded(inputs.ids[0].tolist()),
        "positions": {
            "shape": list(inputs.positions.shape),
            "sha256": _sha256(inputs.positions, "<i8"),
            "next": int(inputs.positions.max()) + 1,
        },
    }


def _talks(pieces: Pieces | Unsupported) -> list[tuple[list[Message], tuple[str, ...]]]:
    """Conversations that the pieces can write, with the names of their images."""
    if isinstance(pieces, Unsupported):
        return []
    found: list[tuple[list[Message], tuple[str, ...]]] = [
        ([user(None, "What is in the image?")], ("odd",)),
        ([user("What is it?")], ()),
        ([user(None, "Is there a circle?")], ("exif",)),
        ([user(None, "Describe the picture.")], ("tall",)),
        ([user("Look:", None, "What color is it?")], ("alpha",)),
        ([user(None, "what is there?")], ("large",)),
        ([user(None, None, "What differs?")], ("wide", "grey")),
        ([user(None)], ("tiny",)),
        ([user("  Grüße\n\n \U0001f469\u200d\U0001f4bb e\u0301 12,5 % \u00a0")], ()),
    ]
    if pieces.system is not None:
        told = system_text("Answer in one word.", as_parts=pieces.system.as_parts)
        found.append(([told, user(None, "what is it?")], ("noise",)))
    if pieces.assistant is not None:
        found += [
            ([user(None, "What is it?"), assistant("A circle."), user("Are you sure?")], ("square",)),
            ([user("Hi."), assistant(" Yes?\n"), user(None, "And this?"), assistant("Red"), user("Why?")], ("grey",)),
        ]
    return found


def folded(ids: Iterable[int]) -> list[int | list[int]]:
    """Ids with runs as pairs of id and count."""
    found: list[int | list[int]] = []
    for token, run in groupby(ids):
        count = len(list(run))
        found += [[token, count]] if count >= RUN else [token] * count
    return found


def _folded_text(text: str, piece: str) -> list[str | list[Any]]:
    """A text with runs of one piece as pairs of piece and count."""
    found: list[str | list[Any]] = []
    for place, part in enumerate(text.split(piece)):
        if place and found and isinstance(found[-1], list):
            found[-1][1] += 1
        elif place:
            found.append([piece, 1])
        if part:
            found.append(part)
    return found


def _sha256(values: NDArray[Any], kind: str) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype=kind).tobytes()).hexdigest()
