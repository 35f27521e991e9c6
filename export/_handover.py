"""The last step of an export: what an app needs is written, and the bundle is sealed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgekit import schema
from edgekit.bundle import entry_of, seal
from edgekit.files import tree_files, write_json
from edgekit.handover import PROMPT, VECTORS
from edgekit.handover.golden import read_golden, write_golden, write_vectors
from edgekit.handover.model import needed, write_model
from edgekit.handover.prompt import find_pieces
from edgekit.inputs.processor import Processor
from edgekit.manifest import FileEntry

Answers = Callable[[Path], dict[str, Any]]
"""From a sealed bundle's folder to `answers` of golden.json, as its own runtime gives them."""


def hand_over(
    folder: Path, own: Iterable[str], parity: Callable[[], dict[str, Any]], answers: Answers | None, **fields: Any
) -> None:
    """Write app/ and golden/, and seal the bundle.

    Args:
        folder: The bundle's, filled but for that.
        own: Files that the target wrote.
        parity: Measured on the sealed bundle, which is then sealed anew with what it gives.
        answers: Asked of the sealed bundle; none are written when None.
        fields: The rest of the manifest, as for `seal`.
    """
    processor = Processor.load(folder, prepared=True).as_exported(fields["preprocessing"])
    pieces = find_pieces(processor)
    write_json(folder / PROMPT, schema.to_json(pieces))
    write_golden(folder, processor, pieces)
    kinds = needed((name for name in own if (folder / name).is_file()), tree_files(folder), fields["text"].tokenizer)
    hashed: dict[str, FileEntry] = {}

    def sealed(measured: dict[str, Any] | None) -> None:
        hashed.update({name: entry_of(folder, name) for name in kinds if name not in hashed})
        write_model(folder, fields, kinds, hashed, processor.vocab_size)
        seal(folder, hashed, parity=measured, **fields)

    sealed(None)  # a runtime opens none but a whole bundle
    measured = parity()
    if answers is not None:
        found = answers(folder)
        write_vectors(folder, {**read_golden(folder), "answers": found})
        del hashed[VECTORS]
    sealed(measured)
