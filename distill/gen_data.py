"""Gen-Data: the questions of a run and the responses to them, in Parquet shards (MASTERS Eq. 5).

Only what training will visit is answered. A shard is written aside and renamed, so it is whole or not there; a run that
was stopped goes on at the first shard that lacks something, and no response is ever written twice: what another run, or
a longer one, needs beyond a shard goes into a further part of it. Draws are seeded by the shard and the questions drawn
together, so it does not matter which of several processes writes them.
"""

from __future__ import annotations

import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from edgekit.console import progress
from edgekit.data import ImageRef, Sample, samples
from edgekit.distill import processes
from edgekit.distill.batch import embed, encode_prompts, project, response_hidden, token_logp
from edgekit.distill.generators import Generator
from edgekit.distill.judges import Judge
from edgekit.errors import DataError, EdgekitError
from edgekit.files import write_bytes
from edgekit.processor import Processor
from edgekit.recipe import Data, GenData
from edgekit.seal import BLANK, KEY, intact, read_sealed_json, sealed, write_sealed_json

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


# ---------------------------------------------------------------------------------------------------------- questions


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
        if all(_shard(folder, number).exists() for number in range(-(-known["questions"] // known["shard"]))):
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
        if not (path := _shard(folder, (count - 1) // shard)).exists():
            _write_shard(path, rows, QUESTIONS)
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


# ---------------------------------------------------------------------------------------------------------- responses


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
    generator: Generator
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


def own_shards(questions: Path) -> list[Path]:
    """Question shards that this process answers: every n-th of n processes, so none is answered twice."""
    return sorted(questions.glob("shard-*.parquet"))[processes.index() :: processes.count()]


def parts_of(folder: Path, shard: Path) -> list[Path]:
    """Files of a pass that answer questions of one question shard."""
    return sorted(folder.glob(f"{shard.stem}.parquet")) + sorted(folder.glob(f"{shard.stem}-part-*.parquet"))


def missing_rows(
    questions: Path, folder: Path, wanted: NDArray[np.int64], *, everywhere: bool = False
) -> dict[Path, list[int]]:
    """Question shard of this process -> places in it of the wanted questions that have no responses yet.

    Args:
        questions: Folder of question shards.
        folder: Folder of one pass's response shards.
        wanted: (n,) rows of questions, counted over all shards.
        everywhere: Look at the shards of all processes.
    """
    size = read_sealed_json(questions / "index.json")["shard"]
    todo: dict[Path, list[int]] = {}
    wanted = np.unique(wanted)
    for path in sorted(questions.glob("shard-*.parquet")) if everywhere else own_shards(questions):
        number = shard_number(path)
        first, after = np.searchsorted(wanted, [number * size, (number + 1) * size])
        places = (wanted[first:after] - number * size).tolist()
        if places and (parts := parts_of(folder, path)):
            answered = {name for part in parts for name in _ids(part, "question_id")}
            ids = _ids(path, "id")
            places = [place for place in places if ids[place] not in answered]
        if places:
            todo[path] = places
    return todo


def shard_number(path: Path) -> int:
    """Of a question shard."""
    return int(path.stem.partition("-")[2])


def _ids(path: Path, column: str) -> list[str]:
    names: list[str] = pq.read_table(path, columns=[column])[column].to_pylist()
    return names


def write_responses(
    writer: Writer,
    reference: Reference,
    judge: Judge,
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
            names = (_shard(folder, shard_number(path), part) for part in itertools.count())
            _write_shard(next(name for name in names if not name.exists()), rows, RESPONSES)
            done += len(places)
            bar.update(task, completed=done)


def _mute(writer: Writer, path: Path, count: int) -> EdgekitError:
    return EdgekitError(
        f"{writer.name} answers nothing: all {count} responses to {path.name}, at mask ratio {writer.mask_ratio:g}, "
        "are empty.",
        why="A student would learn to say nothing.",
        fix="Ask it yourself:  edgekit run TEACHER --image PICTURE --prompt QUESTION\n"
        "If it answers there, lower masters.mask.r_max (edgekit probe TEACHER shows how far it may go); if not, its "
        "chat template or its end token is wrong.",
    )


def _respond(
    writer: Writer, reference: Reference, judge: Judge, settings: GenData, path: Path, places: list[int], seed: int
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


def _shard(folder: Path, number: int, part: int = 0) -> Path:
    return folder / f"shard-{number:05d}{f'-part-{part}' if part else ''}.parquet"


def _write_shard(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        writer.add_key_value_metadata({KEY: BLANK})
    write_bytes(path, sealed(buffer.getvalue()))


def shard_fault(path: Path) -> str | None:
    """What is wrong with a shard; of one without a seal, whether it can be read at all."""
    data = path.read_bytes()
    if (whole := intact(data)) is None:
        try:
            pq.read_table(io.BytesIO(data))
            whole = True
        except (pa.ArrowException, OSError):
            whole = False
    return None if whole else "it is not what was written there" if data.strip(b"\0") else "it is empty"


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


def open_shards(folder: Path, cache: Path, schema: pa.Schema | None = None) -> Any:
    """All shards of a folder as one memory-mapped `datasets.Dataset`, in order.

    Args:
        folder: Where they lie.
        cache: Folder for what is mapped.
        schema: Columns to give, null where a shard has none; those of the shards when None.
    """
    from datasets import Dataset, Features, disable_progress_bars

    disable_progress_bars()
    files = [str(path) for path in sorted(folder.glob("shard-*.parquet"))]
    features = Features.from_arrow_schema(schema) if schema is not None else None
    return Dataset.from_parquet(files, features=features, cache_dir=str(cache))
