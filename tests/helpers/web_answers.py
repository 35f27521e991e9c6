"""Questions and answers of a bundle, as the tests of the web library compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from web_library import image_of

from edgekit.data import Sample
from edgekit.inputs.images import as_rgb
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.generate import answer


def asked(questions: list[Sample]) -> list[dict[str, Any]]:
    """As answer.mjs and browser.mjs take them."""
    images = [[image_of(np.asarray(as_rgb(image.open()))) for image in one.images] for one in questions]
    return [{"text": one.text, "pictures": own} for one, own in zip(questions, images, strict=True)]


def wanted(bundle: Path, questions: list[Sample]) -> list[dict[str, Any]]:
    """What the bundle answers in Python, greedily and without settings of its own."""
    session = RUNTIMES.load("onnxruntime").open_session(bundle, 1)
    said = [answer(session, q.messages, [image.open() for image in q.images], max_new_tokens=8) for q in questions]
    session.close()
    return [{"ids": one.token_ids, "text": one.text, "finish": one.finish} for one in said]


def check(tested: dict[str, Any], *, answers: bool = True) -> None:
    """A self-test that passed, and tested something."""
    assert tested["passed"], [one for one in tested["checks"] if not one["passed"]]
    counts = {one["name"]: one["count"] for one in tested["checks"]}
    assert counts["strings"] > 100 and counts["pixels"] >= 8 and counts["prompts"] >= 8
    if answers:
        assert counts["answers"] >= 3 and counts["chat"] >= 1
