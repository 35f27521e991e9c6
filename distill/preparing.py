"""The train questions of a run: drawn, checked against the student and the objectives, and the same as they were."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import partial

import pyarrow.parquet as pq

from edgekit.distill.judges import check_sample
from edgekit.distill.pairing import probe_answers
from edgekit.distill.questions import write_questions
from edgekit.distill.teacher_stages import Checkpoint
from edgekit.errors import DataError
from edgekit.files import sha256_file
from edgekit.recipe.model import Recipe
from edgekit.workspace import Run


def write_train_questions(recipe: Recipe, run: Run, student: Checkpoint, labelled: str | None, *, drawn: bool) -> None:
    """Write what is missing of a run's questions, and make sure that they can be learnt from.

    Args:
        recipe: Says which.
        run: Keeps them, and a hash of them in its manifest.
        student: Must be able to say the reference answers.
        labelled: Name of an objective that learns from reference answers; None when there is none.
        drawn: Whether responses are drawn too, so that a question without an answer still teaches something.

    Raises:
        DataError: the questions are not what the run found before, or cannot be learnt from.
    """
    folder = run.questions
    was_there = {path.name for path in folder.glob("shard-*.parquet")}
    shard = recipe.masters.gen_data.shard_questions
    count = write_questions(recipe.data, folder, shard, recipe.trainer.seed, partial(check_sample, recipe))
    digest = hashlib.sha256()
    answers: set[str | None] = set()
    for path in sorted(folder.glob("shard-*.parquet")):
        digest.update(bytes.fromhex(sha256_file(path)))
        answers |= set(pq.read_table(path, columns=["answer"])["answer"].to_pylist())
    _check_labels(recipe.data.train, answers, labelled, drawn)
    if bad := probe_answers(student.processor, {answer for answer in answers if answer}, set()):
        raise DataError(
            f"The student's tokenizer cannot say {len(bad)} of the reference answers, the first: {bad[0]!r}.",
            why="A right response would be scored as wrong.",
            fix=f"See them:  edgekit data check {recipe.data.train}",
        )
    known = run.manifest().get("data", {}).get("train_sha256")
    if known not in (None, digest.hexdigest()) and was_there < {path.name for path in folder.glob("shard-*.parquet")}:
        raise DataError(
            f"{recipe.data.train} is not as the run {run.name!r} found it.",
            why="Some of its questions were lost and had to be drawn again; they are other ones now.",
            fix="Start a new run:  edgekit distill --fresh",
        )
    run.update(data={"train_questions": count, "train_sha256": digest.hexdigest()})


def _check_labels(train: str, answers: Collection[str | None], labelled: str | None, drawn: bool) -> None:
    """Objectives over reference answers need them: of every question where nothing else is learnt from."""
    stated = {answer for answer in answers if answer}
    if labelled and (not stated or (len(stated) < len(answers) and not drawn)):
        raise DataError(
            f"The objective {labelled!r} learns from reference answers, and train questions have none.",
            fix=f"See which:  edgekit data check {train}\n"
            f"Or learn from responses that are drawn:  --set objective_settings.{labelled}.over=drawn",
        )
