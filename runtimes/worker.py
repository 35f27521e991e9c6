"""One runtime in a process of its own: `python -m edgekit.runtimes.worker JOB.json`.

It answers every question, then follows the reference's answers to compare distributions. Progress goes to stdout as
JSON lines; answers, timings and figures go to files, so that a crash loses only what came after it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.choice import Choice
from edgekit.data import Sample, samples
from edgekit.data.scoring import score_answer
from edgekit.errors import EdgekitError
from edgekit.files import write_json
from edgekit.machine import peak_memory_bytes
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.generate import answer, follow
from edgekit.runtimes.session import Session, verified_by
from edgekit.stats import finite_or_none, kl_divergence

ANSWERS, FIGURES, TRACE, ERROR = "answers.jsonl", "figures.json", "trace.npz", "error.txt"
PIXEL_SAMPLES = 8  # pictures whose preprocessing is compared: every tile of one, so a few tell enough


@dataclass(frozen=True)
class Job:
    """What a worker is asked.

    Attributes:
        runtime: Name in edgekit.runtimes.
        folder: Bundle or checkpoint.
        out: Folder for what it writes.
        data, limit, scoring: Questions and metric.
        threads: CPU threads.
        warmup: Questions answered before anything is timed.
        max_new_tokens: Longest answer.
        trace: So many first questions are followed token by token.
        reference: `out` of the reference's job; None when this is the reference.
    """

    runtime: str
    folder: str
    out: str
    data: str
    limit: int | None
    scoring: Choice
    threads: int
    warmup: int
    max_new_tokens: int
    trace: int
    reference: str | None = None


def main(path: Path) -> int:
    """Do the job of a file; an EdgekitError becomes error.txt and exit code 1."""
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    try:
        _work(job, Path(job.out))
    except EdgekitError as error:
        (Path(job.out) / ERROR).write_text(str(error), encoding="utf-8")
        return error.exit_code
    return 0


def _work(job: Job, out: Path) -> None:
    start = time.perf_counter()
    session = RUNTIMES.load(job.runtime).open_session(Path(job.folder), job.threads)
    load_ms = 1000 * (time.perf_counter() - start)
    total = sum(1 for _ in samples(job.data, limit=job.limit))
    for sample in itertools.islice(samples(job.data), job.warmup):
        _ask(session, sample, job.max_new_tokens)
    with (out / ANSWERS).open("w", encoding="utf-8") as stream:
        for number, sample in enumerate(samples(job.data, limit=job.limit), 1):
            said = _ask(session, sample, job.max_new_tokens)
            row = {
                "id": sample.id,
                "answer": said.text,
                "token_ids": said.token_ids,
                "score": score_answer(job.scoring, said.text, sample),
                **said.timings.as_dict(),
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            if number % 20 == 0 or number == total:
                sys.stdout.write(json.dumps({"done": number, "total": total}) + "\n")
                sys.stdout.flush()
    figures: dict[str, Any] = {
        "load_ms": load_ms,
        "peak_memory_bytes": peak_memory_bytes(),
        "verified_by": verified_by(session),
    }
    chosen = list(samples(job.data, limit=min(job.trace, total)))
    if job.reference is None:
        _write_trace(session, chosen, out, job.max_new_tokens)
    else:
        figures |= _compare(session, chosen, Path(job.reference))
    write_json(out / FIGURES, figures)
    session.close()


def _ask(session: Session, sample: Sample, max_new_tokens: int) -> Any:
    return answer(session, sample.messages, [image.open() for image in sample.images], max_new_tokens=max_new_tokens)


def _write_trace(session: Session, chosen: list[Sample], out: Path, max_new_tokens: int) -> None:
    arrays: dict[str, Any] = {}
    for number, sample in enumerate(chosen):
        images = [image.open() for image in sample.images]
        tokens = answer(session, sample.messages, images, max_new_tokens=max_new_tokens).token_ids
        arrays[f"tokens_{number}"] = np.array(tokens)
        arrays[f"logits_{number}"] = np.stack([*follow(session, sample.messages, images, tokens)])
        if number < PIXEL_SAMPLES:
            prepared = session.prepare(sample.messages, images)
            arrays[f"ids_{number}"] = prepared.ids
            if prepared.pixels is not None:
                arrays[f"pixels_{number}"] = prepared.pixels
    np.savez_compressed(out / TRACE, **arrays)


def _compare(session: Session, chosen: list[Sample], reference: Path) -> dict[str, Any]:
    """Next-token distributions, best tokens, prompt ids and pixels against the reference's trace."""
    kl: list[float] = []
    best: list[bool] = []
    worst: dict[str, float] = {"logits_max_abs": 0.0}
    same_ids = True
    with np.load(reference / TRACE, allow_pickle=False) as trace:
        for number, sample in enumerate(chosen):
            images = [image.open() for image in sample.images]
            wanted, tokens = trace[f"logits_{number}"], trace[f"tokens_{number}"].tolist()
            for ours, theirs in zip(follow(session, sample.messages, images, tokens), wanted, strict=True):
                kl.append(kl_divergence(theirs, ours))
                best.append(int(ours.argmax()) == int(theirs.argmax()))
                worst["logits_max_abs"] = max(worst["logits_max_abs"], float(np.abs(ours - theirs).max()))
            if f"ids_{number}" in trace:
                prepared = session.prepare(sample.messages, images)
                same_ids &= np.array_equal(prepared.ids, trace[f"ids_{number}"])
                if prepared.pixels is not None:
                    gap = _pixel_gap(prepared.pixels, trace[f"pixels_{number}"])
                    worst["pixel_max_abs"] = max(worst.get("pixel_max_abs", 0.0), gap)
    return {
        "mean_kl": float(np.mean(kl)),
        "top1_agreement": float(np.mean(best)),
        "prompt_ids_equal": same_ids,
        "traced": len(chosen),
        # Pictures of another shape, as of a bundle for chosen sizes, have no difference to state; the ids differ then.
        **{name: finite_or_none(value) for name, value in worst.items()},
    }


def _pixel_gap(ours: Any, theirs: Any) -> float:
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
