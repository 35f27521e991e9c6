"""Whether a teacher and a student can be compared token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.inputs.processor import Processor
from edgekit.seal import FOLDER_SEAL


def shared_vocabulary(teacher: Processor, student: Processor, teacher_size: int, student_size: int) -> int:
    """Size of the vocabulary prefix both output heads share.

    Models of one family pad their heads differently (151,936 against 151,643); the rows beyond the tokenizer's own
    entries mean nothing, so both are cut to the shorter head.

    Args:
        teacher, student: Their processors.
        teacher_size, student_size: Rows of the output heads.

    Raises:
        CheckpointError: the tokenizers differ, or a head is smaller than its tokenizer.
    """
    ours, theirs = (p.tokenizer.get_vocab(with_added_tokens=True) for p in (student, teacher))
    if ours != theirs:
        differing = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: (item[1], item[0]))
        shown = ", ".join(f"{token!r} ({number})" for token, number in differing[:4])
        raise CheckpointError(
            "Teacher and student have different tokenizers.",
            why=f"{len(differing)} entries differ, the first: {shown}. Their tokens cannot be aligned.",
            fix="Use a teacher and a student of the same family and tokenizer.",
        )
    size = min(teacher_size, student_size)
    if size <= max(ours.values()):
        raise CheckpointError(
            f"An output head has {size} rows but the tokenizer goes up to token {max(ours.values())}.",
            fix="The checkpoint is not whole; fetch it again.",
        )
    return size


def probe_answers(processor: Processor, answers: set[str], ends: set[int]) -> list[str]:
    """Reference answers the model cannot say: those that do not come back from its own tokenizer.

    Args:
        processor: Of the model.
        answers: Distinct reference answers.
        ends: End tokens; an answer that holds one would be cut short.
    """
    bad = []
    for answer in sorted(answers):
        ids: list[Any] = processor.tokenizer.encode(f" {answer}", add_special_tokens=False).ids
        if processor.decode(ids) != answer.strip() or ends & set(ids):
            bad.append(answer)
    return bad


def copy_processor(source: Path, target: Path) -> None:
    """Copy tokenizer, template and processor files of a checkpoint beside new weights."""
    import shutil

    for path in source.iterdir():
        wanted = path.suffix in {".json", ".jinja", ".txt", ".model"} and path.is_file()
        if wanted and path.name not in ("card.json", FOLDER_SEAL) and not path.name.endswith(".safetensors.index.json"):
            if (target / path.name).exists():
                continue  # save_pretrained has written its own
            shutil.copyfile(path, target / path.name)
