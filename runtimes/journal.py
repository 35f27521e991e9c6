"""What a bench has measured so far, on the disk: one that was ended in whatever way goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.files import storage_errors, write_text

NAME = "unfinished.jsonl"


class Journal:
    """Answers as they come, one line for each turn of each subject; the first line says of what.

    Args:
        folder: Of the report.
        header: What the same bench has again: settings, subjects, machine.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self._path, self._header = folder / NAME, json.loads(json.dumps(header))
        self._lines = self._read()
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in [self._header, *self._lines]))

    def answers(self, subject: int) -> list[dict[str, Any]]:
        """What a subject answered before, in order."""
        return [row for line in self._lines if line["subject"] == subject for row in line.get("rows", ())]

    def problem(self, subject: int) -> str | None:
        """Why a subject was given up before, if it was."""
        return next((line["problem"] for line in self._lines if line["subject"] == subject and "problem" in line), None)

    def add(self, subject: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A turn's answers."""
        self._append({"subject": subject, "rows": list(rows)})

    def give_up(self, subject: int, problem: str) -> None:
        """A subject is not asked any more."""
        self._append({"subject": subject, "problem": problem})

    def close(self) -> None:
        """All is in the report now."""
        self._path.unlink(missing_ok=True)

    def _append(self, line: dict[str, Any]) -> None:
        with storage_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
            # Not fsynced: what a power cut takes of it is asked again, and a busy disk would hold the bench up.
            stream.write(json.dumps(line) + "\n")

    def _read(self) -> list[dict[str, Any]]:
        """Lines of an earlier one of the same header; what a kill cut off at the end is left out."""
        try:
            texts = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []
        found: list[Any] = []
        for text in texts:
            try:
                found.append(json.loads(text))
            except (ValueError, RecursionError):
                break
        if not found or found[0] != self._header:
            return []
        return [line for line in found[1:] if _is_line(line)]


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("subject"), int):
        return False
    rows = line.get("rows")
    if rows is None:
        return isinstance(line.get("problem"), str)
    return isinstance(rows, list) and all(isinstance(row, dict) and isinstance(row.get("turn"), int) for row in rows)
