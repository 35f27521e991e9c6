"""One prompt to every runtime, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.checkpoint.generation import Mode
from edgekit.errors import EdgekitError
from edgekit.held import Held, stamp
from edgekit.runtimes import runtime_for
from edgekit.runtimes.crew import Member, WorkerError
from edgekit.runtimes.worker import Job
from edgekit.system.temporary import room
from edgekit.system.timeouts import Timeouts


def ask_all(
    models: Sequence[Path],
    prompt: str,
    images: Sequence[Path],
    *,
    max_new_tokens: int,
    threads: int,
    timeouts: Timeouts = Timeouts(),
    generation: Mode = "model",
) -> list[dict[str, Any]]:
    """Answers of bundles and checkpoints; greedy, after one answer that is not timed.

    Args:
        models: Folders; the first is what the others are compared with.
        prompt, images: The question.
        max_new_tokens: Longest answer.
        threads: CPU threads of each.
        timeouts: Of each, by phase.
        generation: Whether each follows its model's own generation settings.

    Returns:
        For each: name, runtime, load_ms, what `edgekit.api.run` gives, and `same`: whether its tokens are the first
        one's; or name, runtime and `problem`.
    """
    found: list[dict[str, Any]] = []
    asked = {
        "prompt": prompt,
        "images": [str(path.resolve()) for path in images],
        "max_new_tokens": max_new_tokens,
        "generation": generation,
    }
    with room("run") as place:
        for number, folder in enumerate(models):
            one = {"name": folder.name, "model": str(folder)}
            held = Held(folder, stamp(folder))
            try:
                one["runtime"] = runtime_for(folder)
                job = Job(
                    one["runtime"], str(folder.resolve()), threads, max_new_tokens=max_new_tokens, held=held.as_json(),
                    timeouts=vars(timeouts),
                )  # fmt: skip
                one |= _ask(job, place / str(number), asked)
            except EdgekitError as error:
                one = {"runtime": "unknown", **one, "problem": " ".join(str(error).split())}
            found.append(one)
    first = found[0].get("token_ids") if found else None
    return [one if "problem" in one else {**one, "same": one["token_ids"] == first} for one in found]


def _ask(job: Job, place: Path, asked: dict[str, Any]) -> dict[str, Any]:
    with Member(job, place) as member:
        try:
            loaded = member.call("load")
            member.call("answer", **asked)
            said: dict[str, Any] = member.call("answer", **asked)
        except WorkerError as error:
            return {"problem": str(error)}
    return {"load_ms": loaded["load_ms"], **said}
