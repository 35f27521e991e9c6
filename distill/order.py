"""The order in which training visits the questions: a seeded permutation, known before anything is generated.

So Gen-Data writes responses to just those questions that a mask stage will visit, and questions about one image can
be kept together, so that its encoding is shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray


@dataclass(frozen=True)
class Order:
    """Visit number -> row of a question; each pass over the questions is a new permutation.

    Attributes:
        questions: How many there are.
        seed: Of the permutations.
        images: (questions,) number of each question's set of images. Given, those that share their images come
            one after the other, in an order of their own; None shuffles question by question.
    """

    questions: int
    seed: int
    images: NDArray[np.int64] | None = None

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(questions,) rows in the order of one pass, from 0."""
        rng = np.random.default_rng((self.seed, number))
        drawn = rng.permutation(self.questions)
        if self.images is None:
            return drawn
        place = rng.permutation(int(self.images.max(initial=-1)) + 1)
        return drawn[np.argsort(place[self.images[drawn]], kind="stable")]

    def visits(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) rows of the visits from `start` on, before `stop`."""
        parts = [np.empty(0, dtype=np.int64)]
        for number in range(start // self.questions, -(-stop // self.questions)):
            first = number * self.questions
            parts.append(self.epoch(number)[max(start - first, 0) : stop - first])
        return np.concatenate(parts)


def image_numbers(questions: Path) -> NDArray[np.int64]:
    """A number for each question's set of images, the same where the images are; questions without any are alone.

    Args:
        questions: Folder of question shards.
    """
    seen: dict[Any, int] = {}
    numbers = [seen.setdefault(key, len(seen)) for key in _images(questions)]
    return np.array(numbers, dtype=np.int64)


def _images(questions: Path) -> Iterator[Any]:
    row = 0
    for path in sorted(questions.glob("shard-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=["images"]):
            for images in batch.column("images").to_pylist():
                # A hash stands for the bytes of an image, so that none of them stays in memory.
                yield tuple(one["path"] or hash(one["bytes"]) for one in images) or row
                row += 1
