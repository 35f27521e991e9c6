"""The train questions of a run, chosen once and kept in Parquet shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edgekit.data import ImageRef, Sample, samples
from edgekit.distill.shards import shard_path, write_shard
from edgekit.errors import DataError
from edgekit.recipe.model import Data
from edgekit.seal import read_sealed_json, write_sealed_json

QUESTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.string()),
        ("answer", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("dataset", pa.string()),
        ("location", pa.string()),
        ("images", pa.list_(pa.struct([("path", pa.string()), ("bytes", pa.binary())]))),
    ]
)


def write_questions(
    data: Data, folder: Path, shard: int, seed: int, check: Callable[[Sample], object] = lambda _: None
) -> int:
    """Choose the train questions of a run and write them as shards; those that are there are left as they are.

    Args:
        data: Spec and limit; with a limit, a uniform draw in one pass over the stream, in the stream's order.
        folder: Where to.
        shard: Questions a file.
        seed: Of the draw.
        check: Called with each question that is drawn; may raise.

    Returns:
        How many questions.
    """
    index = folder / "index.json"
    if index.exists():
        known = read_sealed_json(index)
        if all(shard_path(folder, number).exists() for number in range(-(-known["questions"] // known["shard"]))):
            return int(known["questions"])
    chosen = None
    if data.train_limit is not None:
        total = sum(1 for _ in samples(data.train))
        rng = np.random.default_rng(seed)
        picked = rng.choice(total, min(data.train_limit, total), replace=False)
        chosen = np.zeros(total, dtype=bool)
        chosen[picked] = True
    rows: list[dict[str, Any]] = []
    count = 0

    def close_shard() -> None:
        if not (path := shard_path(folder, (count - 1) // shard)).exists():
            write_shard(path, rows, QUESTIONS)
        rows.clear()

    seen: set[int] = set()
    for number, sample in enumerate(samples(data.train)):
        if chosen is not None and not chosen[number]:
            continue
        if (key := hash(sample.id)) in seen:
            raise DataError(f"{sample.location}: the id {sample.id!r} stands there twice.", fix="Ids must be unique.")
        seen.add(key)
        check(sample)
        rows.append(question_row(sample))
        count += 1
        if len(rows) == shard:
            close_shard()
    if rows:
        close_shard()
    write_sealed_json(index, {"questions": count, "shard": shard})
    return count


def question_row(sample: Sample) -> dict[str, Any]:
    """The row of a sample."""
    images = [
        {"path": str(image.path.resolve()) if image.path else None, "bytes": image.data} for image in sample.images
    ]
    return {
        "id": sample.id,
        "messages": json.dumps(sample.messages),
        "answer": sample.answer,
        "answers": list(sample.answers),
        "dataset": sample.dataset,
        "location": sample.location,
        "images": images,
    }


def question(row: dict[str, Any]) -> Sample:
    """The sample of a question row."""
    images = tuple(
        ImageRef(path=Path(image["path"])) if image["path"] else ImageRef(data=image["bytes"])
        for image in row["images"]
    )
    messages = json.loads(row["messages"])
    answers = tuple(row.get("answers") or ())  # runs begun by edgekit 0.1.0 have neither this column nor the next
    return Sample(row["id"], images, messages, row["answer"], row["location"], answers, row.get("dataset"))


def stored_questions(folder: Path) -> Iterator[Sample]:
    """The questions of a run from its shards, streamed."""
    for path in sorted(folder.glob("shard-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
            yield from map(question, batch.to_pylist())
