"""The questions of a bench as one folder that another machine can read, whatever source they come from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edgekit.data import ImageRef, samples
from edgekit.files import storage_errors

FILE = "questions.jsonl"


def pack(spec: str, count: int | None, folder: Path) -> Path:
    """Write the first questions of a data spec and their images, byte by byte as they are stored.

    Args:
        spec: Data spec.
        count: So many; None for all.
        folder: Made here; gets FILE and images/, an image that several questions share once.

    Returns:
        FILE in the folder; it is a data spec itself, and its samples are equal to those of `spec` but for their
        locations.
    """
    with storage_errors(folder):
        (folder / "images").mkdir(parents=True)
        with (folder / FILE).open("w", encoding="utf-8") as stream:
            for sample in samples(spec, limit=count):
                row = {
                    "id": sample.id,
                    "messages": sample.messages,
                    "images": [_store(image, folder) for image in sample.images],
                    "answer": sample.answer,
                    "answers": list(sample.answers),
                    "dataset": sample.dataset,
                }
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder / FILE


def _store(image: ImageRef, folder: Path) -> str:
    data = image.path.read_bytes() if image.path is not None else image.data or b""
    name = f"images/{hashlib.sha256(data).hexdigest()[:32]}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
    return name
