"""Anything the `datasets` library loads: `datasets:NAME_OR_FOLDER[:CONFIG]:SPLIT`, streamed, images left encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.data import BadRow, Sample, make_sample
from edgekit.errors import DataError

PREFIX = "datasets:"


def claims(spec: str) -> bool:
    """Whether the spec starts with `datasets:`."""
    return spec.startswith(PREFIX)


def rows(spec: str) -> Iterator[Sample | BadRow]:
    """Samples in the order of the data set; ids are `SPLIT-ROW` unless the row has one.

    Raises:
        DataError: the library cannot load it; its own reason is given.
    """
    parts = spec.removeprefix(PREFIX).split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise DataError(f"{spec!r} is not datasets:NAME_OR_FOLDER:SPLIT or datasets:NAME_OR_FOLDER:CONFIG:SPLIT.")
    name, split = parts[0], parts[-1]
    stream = _open(name, parts[1] if len(parts) == 3 else None, split)
    return _rows(stream, spec, split, Path(name) if Path(name).is_dir() else None)


def _rows(stream: Any, spec: str, split: str, base: Path | None) -> Iterator[Sample | BadRow]:
    for number, row in enumerate(stream):
        yield make_sample(row, ident=f"{split}-{number}", location=f"{spec} row {number}", base=base)


def _open(name: str, config: str | None, split: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        if (Path(name) / "dataset_dict.json").exists() or (Path(name) / "state.json").exists():
            stored = datasets.load_from_disk(name)
            stream = stored[split] if isinstance(stored, datasets.DatasetDict) else stored
        else:
            stream = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:  # hub, file system and builder errors have no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"`datasets` cannot load {name!r}, split {split!r}.", why=reason) from error
    for column, feature in (stream.features or {}).items():
        encoded = datasets.Image(decode=False)
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(column, encoded)
        elif isinstance(feature, (datasets.List, datasets.Sequence)) and isinstance(feature.feature, datasets.Image):
            stream = stream.cast_column(column, datasets.List(encoded))
    return stream
