"""The responses of one pass, found by question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from edgekit.errors import DataError


@dataclass(frozen=True)
class Answered:
    """The responses of one pass, found by question.

    Attributes:
        rows: Rows of `RESPONSES`, those of a question one after the other.
        count: Responses per question.
        place: (questions,) where a question's first one stands in `rows`; -1 where it has none.
        by_reference: pi_ref wrote them, so that its log-probabilities are the writer's.
    """

    rows: Any
    count: int
    place: NDArray[np.int64]
    by_reference: bool = False

    @classmethod
    def of(cls, rows: Any, count: int, questions: Any, *, by_reference: bool = False) -> Answered:
        """Find each question's responses.

        Args:
            rows: Rows of `RESPONSES`.
            count: Responses per question.
            questions: Rows of `QUESTIONS`.
            by_reference: See above.
        """
        starts = rows.select_columns(["question_id"]).with_format("arrow")[:]["question_id"].combine_chunks()[::count]
        wanted = questions.select_columns(["id"]).with_format("arrow")[:]["id"].combine_chunks()
        found = pc.index_in(wanted, value_set=starts)
        place = pc.fill_null(pc.multiply(found.cast(pa.int64()), count), -1).to_numpy()
        return cls(rows, count, place, by_reference)

    def to(self, row: int, name: str) -> list[dict[str, Any]]:
        """The responses to a question.

        Args:
            row: Of the question.
            name: Its id.

        Raises:
            DataError: they are missing, or another's.
        """
        place = int(self.place[row])
        found = self.rows[place : place + self.count] if place >= 0 else {"question_id": []}
        if found["question_id"] != [name] * self.count:
            raise DataError(
                f"The responses do not belong to the questions: {name!r} met {found['question_id'] or 'none'}.",
                fix="Remove the run's responses/ folder and run the command again.",
            )
        if self.by_reference:
            found = {**found, "writer_logp": found["ref_logp"]}
        return [{key: values[k] for key, values in found.items()} for k in range(self.count)]
