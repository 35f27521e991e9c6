"""The files of a bench's page: the web app's own library, the bundles, and the questions with their images as pixels.

The library is that of `edgekit app --platform web`, so what a phone is measured with is what an app would use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.apps import App
from edgekit.apps._ort_web import ort_files
from edgekit.apps._sources import check, context_of, read_model
from edgekit.apps.web import PLATFORM, SOURCES
from edgekit.bundle import Bundle
from edgekit.data import samples
from edgekit.errors import DataError
from edgekit.files import inside, tree_files
from edgekit.handover import MODEL
from edgekit.inputs.images import as_rgb

PAGE = {"": "visit.html", **{name: name for name in ("visit.js", "device.js", "parts.js", "style.css", "icon.svg")}}
"""The page's own files beside the library, by the name that they are served under."""
TASK, OFFER = "task.json", "offer.json"


@dataclass(frozen=True)
class Offer:
    """A bundle that a page can run.

    Attributes:
        place: Among the errand's.
        name: Of the bundle.
        vocabulary: Tokens that it knows.
        entry: As the page's task has it.
        files: By the name that they are served under.
        bytes: To be downloaded.
    """

    place: int
    name: str
    vocabulary: int
    entry: Mapping[str, Any]
    files: Mapping[str, Path]
    bytes: int


def offer(folder: Path, place: int) -> Offer:
    """A bundle for the page.

    Raises:
        EdgekitError: it is none, a page cannot run it, or a file of it lies elsewhere.
    """
    bundle = Bundle.load(folder)
    check("web", PLATFORM, App(bundle, "bench", "com.example.bench"))
    model, at = read_model(bundle), f"models/{place}"
    names = [MODEL, *(one["path"] for one in model["files"])]
    files = {f"{at}/{name}": _own(bundle.folder, name) for name in names}
    data = files[f"{at}/{MODEL}"].read_bytes()
    entry = {
        "name": bundle.manifest.name, "precision": bundle.manifest.precision.common, "model": f"{at}/{MODEL}",
        "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "context": context_of(bundle),
        "size": model["bytes"],
    }  # fmt: skip
    return Offer(place, bundle.manifest.name, bundle.manifest.vocab_size, entry, files, int(model["bytes"]))


def _own(folder: Path, name: str) -> Path:
    """A file of a folder, no link out of it; the server follows none at its end any more."""
    return inside(folder, name).resolve()


def page_files(ort: Path | None) -> dict[str, Path | bytes]:
    """Page, library and onnxruntime-web.

    Raises:
        EdgekitError: onnxruntime-web is not there, and cannot be fetched.
    """
    files: dict[str, Path | bytes] = {name: SOURCES / source for name, source in PAGE.items()}
    files |= {f"edgekit/{name}": SOURCES / "edgekit" / name for name in tree_files(SOURCES / "edgekit")}
    files |= {f"ort/{name}": path.resolve() for name, path in ort_files(ort).items()}
    return files


def question_files(spec: str, count: int | None, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Questions as a page asks them, without their answers, and their images.

    Args:
        spec: Data spec.
        count: The first so many; None for all.
        folder: For the pixels of the images, one file for each image.

    Returns:
        For each question its messages, and url, width and height of its images; the images' files by their names.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked, files = [], {}
    for sample in samples(spec, limit=count):
        images = []
        for image in sample.images:
            rgb = as_rgb(image.open())
            data = rgb.tobytes()
            name = hashlib.sha256(f"{rgb.size}".encode() + data).hexdigest()[:32]
            if (key := f"pictures/{name}") not in files:
                (folder / name).write_bytes(data)
                files[key] = folder / name
            images.append({"url": key, "width": rgb.width, "height": rgb.height})
        asked.append({"messages": _in_parts(sample.messages), "pictures": images})
    if not asked:
        raise DataError(f"{spec} has no questions.")
    return asked, files


def _in_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose content is always a list of parts, each of a type and perhaps a text."""
    found = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kept = [{key: part[key] for key in ("type", "text") if key in part} for part in parts]
        found.append({"role": message["role"], "content": kept})
    return found


def as_json(value: Any) -> bytes:
    """For a file of the page."""
    return json.dumps(value, ensure_ascii=False).encode()
