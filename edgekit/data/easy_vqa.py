"""easy-VQA: images of one shape, 13 answers, with a train and a test split of its own.

Source: the package `easy-vqa` (MIT licence); 4,000 + 1,000 images of 64 px, 38,575 + 9,673 questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edgekit.data import BadRow, ImageRef, Sample, Source
from edgekit.errors import DataError, MissingExtraError
from edgekit.inputs.chat import question

SPLITS = ("train", "test")


def claims(spec: str) -> bool:
    """Whether the spec is `easy-vqa` or `easy-vqa:SPLIT`."""
    return spec.partition(":")[0] == "easy-vqa"


def folder() -> Path:
    """Where the package keeps its data.

    Raises:
        MissingExtraError: the package is not installed.
    """
    found = find_spec("easy_vqa")
    if found is None or found.origin is None:
        raise MissingExtraError("use the demo data set easy-VQA", "easy-vqa", "demo")
    return Path(found.origin).parent / "data"


def rows(spec: str) -> Iterator[Sample | BadRow]:
    """Questions of one split in the order of the file; those of one image stand together."""
    split = spec.partition(":")[2] or "train"
    if split not in SPLITS:
        raise DataError(f"easy-vqa has no split {split!r}.", fix=f"There are: {', '.join(SPLITS)}.")
    base = folder() / split
    path = base / "questions.json"
    questions = json.loads(path.read_text(encoding="utf-8"))
    return (
        Sample(
            id=f"{split}-{number:05d}",
            images=(ImageRef(path=base / "images" / f"{image}.png"),),
            messages=question(text),
            answer=answer,
            location=f"easy-vqa:{split} question {number}",
            form="easy-VQA",
        )
        for number, (text, answer, image) in enumerate(questions)
    )


SOURCE = Source(claims, rows)
