"""An image folder: metadata.jsonl with `file_name` as Hugging Face's imagefolder has it, or one sub-folder per answer.

Without metadata.jsonl the question is the text of question.txt in the folder, else "What is this?".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from edgekit.data import BadRow, Sample, Source, make_sample
from edgekit.data.jsonl import objects
from edgekit.errors import DataError

# All that look like images, also what the installed Pillow may not read: such a file is then reported, not passed by.
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".jp2", ".avif", ".heic", ".heif",
}  # fmt: skip
METADATA, QUESTION = "metadata.jsonl", "question.txt"
UNREAD_METADATA = ("metadata.csv", "metadata.parquet")
STOCK_QUESTION = "What is this?"


def claims(spec: str) -> bool:
    """Whether the spec is a folder with metadata, or with sub-folders of images; Parquet shards are another source."""
    path = Path(spec)
    if not path.is_dir():
        return False
    if any((path / name).exists() for name in (METADATA, *UNREAD_METADATA)):
        return True
    if any(path.glob("*.parquet")):
        return False
    return any((folder / METADATA).exists() or any(_images(folder)) for folder in _folders(path))


def rows(spec: str) -> Iterator[Sample | BadRow]:
    """Samples in the order of metadata.jsonl, or of the sub-folders' and files' names.

    Raises:
        DataError: the folder is laid out in a way that would be misread.
    """
    path = Path(spec)
    if (path / METADATA).exists():
        return _listed(path)
    _refuse_other_layouts(path)
    return _sorted_by_answer(path, _question(path))


def _refuse_other_layouts(path: Path) -> None:
    for name in UNREAD_METADATA:
        if (path / name).exists():
            raise DataError(
                f"{path / name} is not read.",
                why="Of an image folder only metadata.jsonl is.",
                fix=f"Let the datasets library read it:  datasets:{path}:train",
            )
    if splits := [folder for folder in _folders(path) if (folder / METADATA).exists()]:
        raise DataError(f"{path} holds several image folders.", fix=f"Name one:  {', '.join(map(str, splits))}")
    if listed := sorted(path.glob("*.jsonl")):
        raise DataError(f"{path} holds {listed[0].name} beside folders of images.", fix=f"Name it:  {listed[0]}")


def _question(path: Path) -> str:
    asked = path / QUESTION
    if not asked.exists():
        return STOCK_QUESTION
    try:
        text = asked.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {asked}.", why=str(error)) from error
    if not text:
        raise DataError(f"{asked} is empty.", fix=f"Write the question into it; without it: {STOCK_QUESTION!r}.")
    return text


def _listed(folder: Path) -> Iterator[Sample | BadRow]:
    path = folder / METADATA
    for number, row in objects(path):
        location = f"{path}:{number}"
        if isinstance(row, BadRow):
            yield row
        elif not isinstance(names := row.get("file_name") or row.get("file_names"), (str, list)):
            yield BadRow(location, "no 'file_name'")
        else:
            yield make_sample({**row, "images": names}, ident=f"line-{number}", location=location, base=folder)


def _sorted_by_answer(folder: Path, text: str) -> Iterator[Sample | BadRow]:
    for name in _images(folder):
        yield BadRow(str(folder / name), "an image in no answer's folder")
    for answer in _folders(folder):
        for inner in _folders(answer):
            yield BadRow(str(inner), "a folder inside an answer's folder is not read")
        for name in _images(answer):
            place = f"{answer.name}/{name}"
            row = {"question": text, "image": place, "answer": answer.name}
            yield make_sample(row, ident=place, location=str(folder / place), base=folder)


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _images(folder: Path) -> list[str]:
    """Names, the only thing of a folder that is held: sorted, so that runs see the same order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
    return sorted(name for name in names if PurePath(name).suffix.lower() in SUFFIXES)


SOURCE = Source(claims, rows)
