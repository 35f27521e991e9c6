"""Results measured elsewhere, one file per format, holding a `RESULT_FORMAT`.

Rows that were read from a file carry `origin` and `verified_by: imported`; they are held to no gate and take no part in
any comparison with PyTorch, for nobody here saw them being measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import strict_json
from edgekit.errors import DataError
from edgekit.registry import Registry
from edgekit.report.model import Row


@dataclass(frozen=True)
class ResultFormat:
    """Files of results.

    Attributes:
        what: The format in a few words, for messages.
        claims: Whether a file's text is of this format.
        rows: (text, source) -> its rows; a `DataError` lists what is wrong with it.
    """

    what: str
    claims: Callable[[str], bool]
    rows: Callable[[str, str], list[Row]]


RESULT_FORMATS: Registry[ResultFormat] = Registry(
    "edgekit.external_results", "result format", "ResultFormat", "RESULT_FORMAT"
)
LARGEST = 64 << 20
"""Bytes of a file that is read at all."""


def read_results(path: Path) -> list[Row]:
    """Rows of a file of any known format.

    Raises:
        DataError: not there, of no known format, or not valid.
    """
    try:
        text = strict_json.read_bytes(path, LARGEST).decode("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}.", why=str(error)) from error
    for _, known in RESULT_FORMATS.working():
        if known.claims(text):
            if not (found := known.rows(text, path.name)):
                raise DataError(f"{path} holds no results.", why=f"It reads as {known.what}.")
            return found
    every = "; ".join(known.what for _, known in RESULT_FORMATS.working())
    raise DataError(f"{path} is of no known format.", why=_fault(text), fix=f"edgekit reads: {every}.")


def parse(text: str, source: str) -> Any:
    """The JSON value of a file or of a line.

    Raises:
        DataError: none, nested too deep, with NaN or an infinity, or with a key twice.
    """
    try:
        return strict_json.loads(text.encode("utf-8"), exact=True)
    except ValueError as error:
        raise DataError(f"{source} cannot be read as JSON.", why=str(error)) from error


def _fault(text: str) -> str:
    """What is wrong with what looks like JSON, and else nothing."""
    if not text.lstrip().startswith(("{", "[")):
        return ""
    try:
        strict_json.loads(text.encode("utf-8"))
    except ValueError as error:
        return f"It looks like JSON, and cannot be read: {error}."
    return ""


def number(value: object, what: str, source: str, *, low: float = 0.0, high: float = 1e15) -> float:
    """A finite number within bounds.

    Raises:
        DataError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise DataError(f"{source}: {what} is {value!r}, not a number from {low:g} to {high:g}.")
    return float(value)
