"""One prompt to every runtime, each in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.runtimes import runtime_for
from edgekit.runtimes.crew import Member, WorkerError
from edgekit.runtimes.worker import Job


def ask_all(
    models: Sequence[Path], prompt: str, images: Sequence[Path], *, max_new_tokens: int, threads: int
) -> list[dict[str, Any]]:
    """Answers of bundles and checkpoints; greedy, after one answer that is not timed.

    Args:
        models: Folders; the first is what the others are compared with.
        prompt, images: The question.
        max_new_tokens: Longest answer.
        threads: CPU threads of each.
    Returns:
        For each: name, runtime, load_ms, what `edgekit.api.run` gives, and `same`: whether its tokens are the first
        one's; or name, runtime and `problem`.
    """
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgekit-run-") as place:
        for number, folder in enumerate(models):
            one = {"name": folder.name, "model": str(folder)}
            try:
                one["runtime"] = runtime_for(folder)
                one |= _ask(folder, one["runtime"], Path(place) / str(number), prompt, images, max_new_tokens, threads)
            except EdgekitError as error:
                one = {"runtime": "unknown", **one, "problem": " ".join(str(error).split())}
            found.append(one)
    first = found[0].get("token_ids") if found else None
    return [one if "problem" in one else {**one, "same": one["token_ids"] == first} for one in found]


def _ask(
    folder: Path, runtime: str, place: Path, prompt: str, images: Sequence[Path], max_new_tokens: int, threads: int
) -> dict[str, Any]:
    asked = {"prompt": prompt, "images": [str(path.resolve()) for path in images], "max_new_tokens": max_new_tokens}
    with Member(Job(runtime, str(folder.resolve()), threads), place) as member:
        try:
            loaded = member.call("load")
            member.call("answer", **asked)
            said: dict[str, Any] = member.call("answer", **asked)
        except WorkerError as error:
            return {"problem": str(error)}
    return {"load_ms": loaded["load_ms"], **said}
