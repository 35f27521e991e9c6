"""An image folder: metadata.jsonl with `file_name` as Hugging Face's imagefolder has it, or one sub-folder per answer.

Without metadata.jsonl the question is the text of question.txt in the folder, else "What is this?".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgekit.data import BadRow, Sample, make_sample
from edgekit.data.jsonl import objects

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
METADATA, QUESTION = "metadata.jsonl", "question.txt"
STOCK_QUESTION = "What is this?"


def claims(spec: str) -> bool:
    """Whether the spec is a folder with metadata.jsonl, or with sub-folders of images."""
    path = Path(spec)
    if not path.is_dir():
        return False
    return (path / METADATA).exists() or any(_images(folder) for folder in _folders(path))


def rows(spec: str) -> Iterator[Sample | BadRow]:
    """Samples in the order of metadata.jsonl, or of the sub-folders' and files' names."""
    path = Path(spec)
    return _listed(path) if (path / METADATA).exists() else _sorted_by_answer(path)


def _listed(folder: Path) -> Iterator[Sample | BadRow]:
    path = folder / METADATA
    for number, row in objects(path):
        location = f"{path}:{number}"
        if isinstance(row, BadRow):
            yield row
        elif not isinstance(name := row.get("file_name"), str):
            yield BadRow(location, "no 'file_name'")
        else:
            yield make_sample({**row, "image": name}, ident=f"line-{number}", location=location, base=folder)


def _sorted_by_answer(folder: Path) -> Iterator[Sample | BadRow]:
    asked = folder / QUESTION
    text = asked.read_text(encoding="utf-8").strip() if asked.exists() else STOCK_QUESTION
    for answer in _folders(folder):
        for path in _images(answer):
            row = {"question": text, "image": str(path.relative_to(folder)), "answer": answer.name}
            yield make_sample(row, ident=path.relative_to(folder).as_posix(), location=str(path), base=folder)


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
