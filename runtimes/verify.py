"""`edgekit verify`: is this bundle whole, and does it answer as PyTorch does?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bars import ALWAYS, bars_of, judge
from edgekit.bundle import Bundle
from edgekit.chat import Message, question
from edgekit.checkpoint import check_checkpoint, checkpoint_hash
from edgekit.console import progress
from edgekit.data import samples
from edgekit.errors import BundleError, NotFiniteError
from edgekit.families import fit_image
from edgekit.files import write_json
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import answer, follow
from edgekit.runtimes.session import Session
from edgekit.stats import finite_or_none, kl_divergence, largest_gap

if TYPE_CHECKING:
    from PIL.Image import Image

Prompt = tuple[list[Message], "list[Image]"]
STOCK = ("What is in the image?", "Describe the picture.", "What color is it?", "Is there a circle?")


def verify_bundle(folder: Path, reference: Path | None, data: str | None, count: int) -> dict[str, Any]:
    """Verify a bundle and write parity.json into it.

    Args:
        folder: The bundle.
        reference: The checkpoint it was exported from; without it only its files are checked, and the result says so.
        data: Questions; stock questions on drawn pictures when None.
        count: How many.
    Returns:
        Figures (None where the bundle gave NaN or infinity, or pictures of another shape), the bars they are held to,
        and `passed`.
    Raises:
        BundleError: not whole, or made from another checkpoint.
        NotFiniteError: the checkpoint itself gives NaN or infinity.
    """
    bundle = Bundle.load(folder)
    result: dict[str, Any] = {
        "schema_version": 1,
        "bundle": bundle.hash,
        "target": bundle.manifest.target,
        "precision": bundle.manifest.precision.common,
        "files": {"count": len(bundle.manifest.files), "bytes": bundle.size_bytes, "whole": True},
    }
    if reference is None:
        result |= {
            "passed": True,
            "compared": False,
            "why": "no reference checkpoint was given: only the files were checked",
        }
    else:
        check_checkpoint(reference)
        if (found := checkpoint_hash(reference)) != bundle.manifest.student_sha256:
            raise BundleError(
                f"{folder} was exported from another checkpoint than {reference}.",
                why=f"Its manifest names {bundle.manifest.student_sha256[:12]}, this one is {found[:12]}.",
                fix="Name its own checkpoint with --reference.",
            )
        result |= {"runtime": runtime_for(folder), "compared": True, "questions": data or "stock"}
        result |= _compare(bundle, reference, _prompts(data, count))
    write_json(folder / "parity.json", result)
    return result


def _prompts(data: str | None, count: int) -> list[Prompt]:
    if data is not None:
        chosen = samples(data, limit=count, need_answer=False)
        return [(sample.messages, [image.open() for image in sample.images]) for sample in chosen]
    from edgekit.demo.shapes import draw

    sizes = ((64, 64), (96, 48), (48, 96), (640, 480))
    return [(question(STOCK[k % 4]), [draw(k)[0].resize(sizes[k // 4 % 4])]) for k in range(count)]


def _compare(bundle: Bundle, reference: Path, prompts: Sequence[Prompt]) -> dict[str, Any]:
    bars = {**ALWAYS, **bars_of(bundle.manifest.precision.common)}
    theirs: Session = RUNTIMES.load("pytorch").open_session(reference, 1)
    ours: Session = RUNTIMES.load(runtime_for(bundle.folder)).open_session(bundle.folder, 1)
    params = bundle.manifest.preprocessing
    rows = []
    with progress() as bar:
        task = bar.add_task(f"verifying {bundle.folder.name}", total=len(prompts))
        for number, (messages, images) in enumerate(prompts, 1):
            # An export for some picture sizes resizes to them first; the reference is shown what that gives.
            rows.append(_one(ours, theirs, messages, [fit_image(image, params) for image in images]))
            bar.update(task, completed=number)
    ours.close()
    theirs.close()
    tokens = sum(row["tokens"] for row in rows)
    figures = {
        "samples": len(rows),
        "tokens": tokens,
        "pixel_max_abs": finite_or_none(max(row["pixels"] for row in rows)),
        "prompt_ids_equal": float(np.mean([row["ids_equal"] for row in rows])),
        "greedy_identical": float(np.mean([row["identical"] for row in rows])),
        "top1_agreement": sum(row["best"] for row in rows) / tokens,
        "logits_max_abs": finite_or_none(max(row["logits"] for row in rows)),
        "mean_kl": finite_or_none(sum(row["kl"] for row in rows) / tokens),
    }
    checks = judge(figures, bars)
    return {**figures, "checks": checks, "passed": all(check["held"] for check in checks.values())}


def _one(ours: Session, theirs: Session, messages: list[Message], images: list[Image]) -> dict[str, Any]:
    wanted = answer(theirs, messages, images, max_new_tokens=16).token_ids
    try:
        said = answer(ours, messages, images, max_new_tokens=16).token_ids
    except NotFiniteError:
        said = []  # a bar missed, not an error of the check
    pairs = list(zip(follow(theirs, messages, images, wanted), follow(ours, messages, images, wanted), strict=True))
    a, b = theirs.prepare(messages, images), ours.prepare(messages, images)
    return {
        "tokens": len(wanted),
        "identical": wanted == said,
        "best": sum(np.isfinite(y).all() and int(x.argmax()) == int(y.argmax()) for x, y in pairs),
        "logits": max(largest_gap(x, y) for x, y in pairs),
        "kl": sum(kl_divergence(x, y) for x, y in pairs),
        "pixels": 0.0 if a.pixels is None or b.pixels is None else largest_gap(a.pixels, b.pixels),
        "ids_equal": np.array_equal(a.ids, b.ids),
    }
