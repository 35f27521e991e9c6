"""Gen-Data: the responses to the questions of a run, in Parquet shards (MASTERS Eq. 5).

Only what training will visit is answered. A run that was stopped goes on at the first shard that lacks something, and
no response is ever written twice. Draws are seeded by the shard and the questions drawn together, so it does not matter
which of several processes writes them.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from edgekit.console import progress
from edgekit.data import Sample
from edgekit.distill.batch import embed, encode_prompts, project, response_hidden, token_logp
from edgekit.distill.generators import Writing
from edgekit.distill.judges import Verdicts
from edgekit.distill.questions import question
from edgekit.distill.shards import missing_rows, shard_number, shard_path, write_shard
from edgekit.errors import EdgekitError
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData

RESPONSES = pa.schema(
    [
        ("question_id", pa.string()),
        ("source", pa.string()),
        ("teacher", pa.string()),
        ("mask_ratio", pa.float32()),
        ("number", pa.int32()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("r_acc", pa.float32()),
        ("ref_logp", pa.list_(pa.float32())),
        # Under the student that wrote it; null where that is pi_ref, of a teacher's, and in files of edgekit 0.1.0.
        ("writer_logp", pa.list_(pa.float32())),
        ("seed", pa.int64()),
    ]
)


def seed_of(*parts: object) -> int:
    """A seed from the place of a draw, the same in every run and process."""
    return zlib.crc32(json.dumps(parts).encode())


@dataclass(frozen=True)
class Writer:
    """Who writes the responses of one pass over the questions.

    Attributes:
        source: "teacher" or "student".
        name: Of the checkpoint.
        generator: Draws the responses.
        processor: Turns their tokens to text.
        count: Responses per question.
        mask_ratio: Of a teacher's stage; 0 for a student.
        key: Names the pass; seeds its draws.
        model: A student that is not pi_ref any more, so that its own log-probabilities are kept as well.
    """

    source: str
    name: str
    generator: Writing
    processor: Processor
    count: int
    mask_ratio: float
    key: str
    model: Any = None


@dataclass(frozen=True)
class Reference:
    """pi_ref: its log-probabilities of each response are taken once, here."""

    model: Any
    processor: Processor
    vocab: int


def write_responses(
    writer: Writer,
    reference: Reference,
    judge: Verdicts,
    settings: GenData,
    questions: Path,
    folder: Path,
    seed: int,
    wanted: NDArray[np.int64],
) -> None:
    """Write the missing responses of one pass that are this process's to write.

    Args:
        writer: Who writes.
        reference: Whose log-probabilities go beside each response.
        judge: Gives R_acc.
        settings: Sampling.
        questions: Folder of question shards.
        folder: Folder of this pass's shards.
        seed: Of the run.
        wanted: (n,) rows of the questions to answer, counted over all shards.

    Raises:
        EdgekitError: a teacher gave nothing but empty responses to a whole shard; that shard is not written.
    """
    todo = missing_rows(questions, folder, wanted)
    mask = f", mask {writer.mask_ratio:.2f}" if writer.source == "teacher" else ""
    with progress() as bar:
        task = bar.add_task(f"responses of the {writer.source}{mask}", total=sum(map(len, todo.values())))
        done = 0
        for path, places in todo.items():
            shard_seed = seed_of(seed, writer.key, path.name)
            rows = list(_respond(writer, reference, judge, settings, path, places, shard_seed))
            if writer.source == "teacher" and not any(row["text"].strip() for row in rows):
                raise _mute(writer, path, len(rows))
            names = (shard_path(folder, shard_number(path), part) for part in itertools.count())
            write_shard(next(name for name in names if not name.exists()), rows, RESPONSES)
            done += len(places)
            bar.update(task, completed=done)


def _mute(writer: Writer, path: Path, count: int) -> EdgekitError:
    return EdgekitError(
        f"{writer.name} answers nothing: all {count} responses to {path.name}, at mask ratio {writer.mask_ratio:g}, "
        "are empty.",
        why="A student would learn to say nothing.",
        fix="Ask it yourself:  edgekit run TEACHER --image IMAGE --prompt QUESTION\n"
        "If it answers there, lower masters.mask.r_max (edgekit probe TEACHER shows how far it may go); if not, its "
        "chat template or its end token is wrong.",
    )


def _respond(
    writer: Writer, reference: Reference, judge: Verdicts, settings: GenData, path: Path, places: list[int], seed: int
) -> Iterator[dict[str, Any]]:
    table = pq.read_table(path).take(places).to_pylist()
    for start in range(0, len(table), settings.batch_questions):
        group = [question(row) for row in table[start : start + settings.batch_questions]]
        draw_seed = seed_of(seed, [one.id for one in group])
        drawn = writer.generator.sample(group, writer.count, draw_seed)
        texts = [[writer.processor.decode(ids) for ids in responses] for responses in drawn]
        logps = reference_logps(reference, group, drawn)
        own: Iterable[Iterable[list[float] | None]] = itertools.repeat(itertools.repeat(None))
        if writer.model is not None:
            own = reference_logps(Reference(writer.model, writer.processor, reference.vocab), group, drawn)
        verdicts = iter(judge([(q, text) for q, row in zip(group, texts, strict=True) for text in row]))
        for q, responses, said, logp, mine in zip(group, drawn, texts, logps, own, strict=False):
            for number, (ids, text, values, kept) in enumerate(zip(responses, said, logp, mine, strict=False)):
                yield {
                    "question_id": q.id,
                    "source": writer.source,
                    "teacher": writer.name if writer.source == "teacher" else None,
                    "mask_ratio": writer.mask_ratio,
                    "number": number,
                    "text": text,
                    "token_ids": ids,
                    "r_acc": next(verdicts),
                    "ref_logp": values,
                    "writer_logp": kept,
                    "seed": draw_seed,
                }


@torch.no_grad()
def reference_logps(reference: Reference, group: list[Sample], drawn: list[list[list[int]]]) -> list[list[list[float]]]:
    """Log-probability of each token of each response under pi_ref, nats; identical responses are run once."""
    distinct = {(q, tuple(ids)): 0 for q, rows in enumerate(drawn) for ids in rows}
    owners, responses = zip(*distinct, strict=True)
    prompts = embed(reference.model, reference.processor, encode_prompts(reference.processor, group), 0)
    hidden = response_hidden(reference.model, prompts, owners, responses, 0)
    logp = token_logp(project(reference.model, hidden, reference.vocab), responses).tolist()
    values, at = {}, 0
    for key in distinct:
        values[key] = logp[at : at + len(key[1])]
        at += len(key[1])
    return [[values[q, tuple(ids)] for ids in rows] for q, rows in enumerate(drawn)]
