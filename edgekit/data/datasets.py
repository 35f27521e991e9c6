"""Anything the `datasets` library loads: `datasets:NAME_OR_FOLDER[:CONFIG]:SPLIT`, streamed, images left encoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.data import BadRow, Sample, Source, make_sample
from edgekit.data.forms import COLUMNS
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
    name, config, split = _parts(spec)
    stream = _encoded(_open(name, config, split))
    return _rows(stream, spec, split, Path(name) if Path(name).is_dir() else None)


def _parts(spec: str) -> tuple[str, str | None, str]:
    """Name, configuration and split; a folder's name may hold colons itself."""
    name, _, split = spec.removeprefix(PREFIX).rpartition(":")
    config: str | None = None
    if ":" in name and not Path(name).is_dir():
        name, _, config = name.rpartition(":")
    if not name or not split or config == "":
        raise DataError(f"{spec!r} is not datasets:NAME_OR_FOLDER:SPLIT or datasets:NAME_OR_FOLDER:CONFIG:SPLIT.")
    return name, config, split


def _rows(stream: Any, spec: str, split: str, base: Path | None) -> Iterator[Sample | BadRow]:
    source = iter(stream)
    for number in itertools.count(1):
        try:
            row = next(source)
        except StopIteration:
            return
        except Exception as error:  # builders raise their own kinds; whatever it is, nothing can be read after it
            yield BadRow(f"{spec} after row {number - 1}", f"cannot be read further: {_first_line(error)}")
            return
        yield make_sample(row, ident=f"{split}-{number}", location=f"{spec} row {number}", base=base)


def _open(name: str, config: str | None, split: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        if (Path(name) / "dataset_dict.json").exists() or (Path(name) / "state.json").exists():
            stored = datasets.load_from_disk(name)
            known = stored if isinstance(stored, datasets.DatasetDict) else {str(stored.split or split): stored}
            if split not in known:
                raise DataError(f"{name} has no split {split!r}.", fix=f"There are: {', '.join(known)}.")
            return known[split]
        return datasets.load_dataset(name, config, split=split, streaming=True)
    except DataError:
        raise
    except Exception as error:  # hub, file system and builder errors have no common base
        raise DataError(f"`datasets` cannot load {name!r}, split {split!r}.", why=_first_line(error)) from error


def _encoded(stream: Any) -> Any:
    """The columns edgekit reads, images as their bytes and path, wherever in a column they stand."""
    kept = [name for name in COLUMNS if name in (stream.features or {})]
    if kept:
        stream = stream.select_columns(kept)
    for column in kept:
        feature = stream.features[column]
        undecoded = _undecoded(feature)
        if undecoded != feature:
            stream = stream.cast_column(column, undecoded)
    return stream


def _undecoded(feature: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return type(feature)(_undecoded(feature.feature))
    if isinstance(feature, dict):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    return feature


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


SOURCE = Source(claims, rows)
