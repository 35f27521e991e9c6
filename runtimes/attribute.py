"""Where a bundle's loss comes from: one part at a time is taken from the bundle, the others from PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.console import progress
from edgekit.errors import EdgekitError
from edgekit.inputs.chat import Message
from edgekit.report.parity import PARTS, Attribution, Loss, PartLoss
from edgekit.report.tally import Tally
from edgekit.runtimes.modules import Mix, Reference
from edgekit.runtimes.session import Logits

if TYPE_CHECKING:
    from PIL.Image import Image

ROUNDING_NATS = 1e-9
"""Mean KL below which a part counts as equal: float32 against float32 gave up to 1e-12 on the families' tiny models."""


@dataclass(frozen=True)
class Followed:
    """A question, the reference's answer to it, and the reference's logits before each of its tokens.

    Attributes:
        messages, images: The question.
        tokens: The answer.
        logits: (V,) each.
    """

    messages: list[Message]
    images: list[Image]
    tokens: list[int]
    logits: list[Logits]


def attribute(reference: Reference, bundle: Any, plain: Any, questions: Sequence[Followed], note: str) -> Attribution:
    """Swap each part in turn.

    Args:
        reference: PyTorch's modules.
        bundle: A session that has `Modules` and prepares prompts.
        plain: The same of the fp32 export; None where there is none.
        questions: Followed by the reference.
        note: Why plain is None.
    """
    base = Mix(reference, reference, reference, reference, reference.image_token_id, reference.extra_inputs)
    whole = replace(base, preprocessing=bundle, vision=bundle, embedding=bundle, decoder=bundle)
    parts: dict[str, PartLoss] = {}
    with progress() as bar:
        task = bar.add_task("swapping parts", total=len(PARTS) + 1)
        total = _loss(whole, questions)
        bar.update(task, completed=1)
        for number, part in enumerate(PARTS, 2):
            loss = _loss(_swap(base, part, bundle), questions)
            # Preprocessing is code and parameters: nothing of it is quantised.
            if plain is None or part == "preprocessing":
                parts[part] = PartLoss(loss)
            else:
                export = _loss(_swap(base, part, plain), questions)
                parts[part] = PartLoss(loss, export, _minus(loss, export))
            bar.update(task, completed=number)
    return Attribution(total, parts, _largest(parts), note)


def _swap(base: Mix, part: str, other: Any) -> Mix:
    return replace(base, **{part: other})


def _loss(mix: Mix, questions: Sequence[Followed]) -> Loss:
    tally = Tally()
    for item in questions:
        try:
            got = mix.follow(item.messages, item.images, item.tokens)
        except EdgekitError:  # a prompt and images that do not fit
            tally.add_refused(len(item.tokens))
            continue
        tally.add(item.logits, got)
    return Loss(tally.mean_kl, tally.top1_disagreement)


def _minus(loss: Loss, export: Loss) -> Loss:
    kl = None if loss.mean_kl is None or export.mean_kl is None else loss.mean_kl - export.mean_kl
    return Loss(kl, loss.top1_disagreement - export.top1_disagreement)


def _largest(parts: dict[str, PartLoss]) -> str | None:
    def cost(part: str) -> tuple[float, float]:
        loss = parts[part].loss
        return math.inf if loss.mean_kl is None else loss.mean_kl, loss.top1_disagreement

    worst = max(parts, key=cost)
    return worst if cost(worst)[0] > ROUNDING_NATS else None
