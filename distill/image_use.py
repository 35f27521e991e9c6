"""Does the teacher see the image? Asked before any Gen-Data budget is spent.

A server that drops images, a wrong processor or a wrong chat template still gives fluent answers, and a whole run is
then distilled from a blind teacher. Here a few questions are asked again with images that are very different but of the
same size, so that the prompt stays the same token for token: something of the answer must move.
"""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgekit.console import note
from edgekit.data import ImageRef, Sample
from edgekit.distill.generators import Said, Writing
from edgekit.distill.questions import question, stored_questions
from edgekit.errors import EdgekitError

QUESTIONS = 8
CANDIDATES = 48
FLOOR_NATS = 1e-4
"""Smallest change of a log-probability that counts, above what the same question asked twice gives."""
SWITCH = "To go on without this check:  edgekit distill --set masters.gen_data.check_images=false"


@dataclass(frozen=True)
class Swap:
    """A question, and the same one with other images in the same places and sizes.

    Attributes:
        sample: As it is.
        others: With the image sets that differ most from its own.
    """

    sample: Sample
    others: tuple[Sample, ...]


@dataclass(frozen=True)
class ImageUse:
    """What the swaps moved.

    Attributes:
        asked: Questions.
        moved: How many of them got another answer or probability with another image.
        kind: "log-probabilities" or "answers": what could be compared.
        largest: Largest change of a log-probability, nats; None when only answers could be compared.
        noise: Largest change between two identical requests, nats.
    """

    asked: int
    moved: int
    kind: str
    largest: float | None
    noise: float


def check_image_use(generator: Writing, name: str, questions: Path) -> ImageUse | None:
    """Make sure that a teacher sees the images.

    Args:
        generator: Answers for it.
        name: Of the teacher, for messages.
        questions: Folder of question shards.

    Returns:
        What moved; None, with a note, when the questions have no two different images.

    Raises:
        EdgekitError: nothing moved.
    """
    swaps = make_swaps(questions)
    if not swaps:
        note(f"Not checked whether {name} sees the images: the questions do not hold two different ones.")
        return None
    image_use = measure_image_use(generator, swaps)
    if not image_use.moved:
        shown = ", ".join(repr(swap.sample.id) for swap in swaps)
        change = ""
        if image_use.largest is not None:
            change = f" The largest change of an answer's log-probability was {image_use.largest:.2g} nats; the same "
            change += f"question asked twice gave {image_use.noise:.2g}."
        raise EdgekitError(
            f"{name} does not see the images: with other images its {image_use.kind} stay the same.",
            why=f"Swapped were the images of {image_use.asked} questions ({shown}) for very different ones of the same "
            f"size, {sum(len(swap.others) for swap in swaps)} swaps in all; none of them moved anything.{change}",
            fix="Look at what carries the images to it: the server's multimodal settings, the processor files, the "
            f"chat template.\n{SWITCH}",
        )
    return image_use


def measure_image_use(generator: Writing, swaps: list[Swap]) -> ImageUse:
    """Ask each question twice as it is, and once with each of its other images."""
    asked = [generator.answers([swap.sample, swap.sample, *swap.others]) for swap in swaps]
    told = all(said.logp is not None for row in asked for said in row)
    noise = max((_change(row[0], row[1]) for row in asked), default=0.0) if told else 0.0
    largest = max(_change(row[0], other) for row in asked for other in row[2:]) if told else None
    moved = 0
    for first, again, *others in asked:
        # A question that gets two answers as it is proves nothing by a third.
        answered = first.text == again.text and any(other.text != first.text for other in others)
        shifted = told and max(_change(first, other) for other in others) > FLOOR_NATS + 4 * noise
        moved += answered or shifted
    return ImageUse(len(swaps), moved, "answers and log-probabilities" if told else "answers", largest, noise)


def _change(one: Said, other: Said) -> float:
    return abs((one.logp or 0.0) - (other.logp or 0.0))


# -------------------------------------------------------------------------------------------------------------- swaps


def make_swaps(questions: Path) -> list[Swap]:
    """A few questions, each with the two image sets of the others that differ most from its own."""
    chosen: list[Sample] = []
    images: dict[ImageRef, NDArray[np.float32]] = {}
    texts: set[str] = set()
    for sample in itertools.islice(stored_questions(questions), 2000):
        if not sample.images:
            continue
        for image in sample.images:
            if image not in images and len(images) < CANDIDATES:
                images[image] = _thumbnail(image)
        if len(chosen) < QUESTIONS and sample.text not in texts:
            texts.add(sample.text)
            chosen.append(sample)
        if len(chosen) == QUESTIONS and len(images) == CANDIDATES:
            break
    swaps = []
    for sample in chosen:
        ranked = [_most_different(image, images) for image in sample.images]
        count = min(2, *(len(others) for others in ranked))
        others = tuple(
            replace(sample, images=tuple(_fitted(ranked[k][n], image) for k, image in enumerate(sample.images)))
            for n in range(count)
        )
        if others:
            swaps.append(Swap(sample, others))
    return swaps


def _thumbnail(image: ImageRef) -> NDArray[np.float32]:
    return np.asarray(image.open().convert("RGB").resize((16, 16)), dtype=np.float32)


def _most_different(image: ImageRef, images: dict[ImageRef, NDArray[np.float32]]) -> list[ImageRef]:
    """The other images, the most different first; those of the same pixels are left out."""
    own = images.get(image)
    own = _thumbnail(image) if own is None else own
    distance = {other: float(np.abs(pixels - own).mean()) for other, pixels in images.items()}
    return sorted((other for other in distance if distance[other] > 0), key=lambda other: -distance[other])


def _fitted(other: ImageRef, image: ImageRef) -> ImageRef:
    """Another image in the size of one, so that both become the same number of image tokens."""
    buffer = io.BytesIO()
    other.open().convert("RGB").resize(image.open().size).save(buffer, "PNG")
    return ImageRef(data=buffer.getvalue())


# --------------------------------------------------------------------------------------------------------- cached ones


def check_stored_image_use(name: str, questions: Path, responses: Path, seed: int = 0) -> float | None:
    """Judge responses whose teacher is not at hand: do they differ between images under the same question text?

    Responses to one image must be more alike (Jaccard index of their token sets) than responses to different images
    under the same text, by a permutation test over 500 shuffles within each text.

    Args:
        name: Of the teacher, for messages.
        questions: Folder of question shards.
        responses: Folder of one pass's response shards.
        seed: Of the shuffles.

    Returns:
        p of the test; None, with a note, when too few questions share their text with another image.

    Raises:
        EdgekitError: the images make no difference (p above 0.01).
    """
    groups = _groups(questions, responses)
    if sum(len(group) for group in groups) < 20:
        note(
            f"Not checked whether {name} saw the images of the responses in {responses.name}/: fewer than 20 questions "
            "share their text with a question about another image."
        )
        return None
    rng = np.random.default_rng(seed)
    likeness = [_jaccard([ids for rows in group for ids in rows]) for group in groups]
    owners = [np.repeat(np.arange(len(group)), [len(rows) for rows in group]) for group in groups]
    found = _own_likeness(likeness, owners)
    shuffled = [_own_likeness(likeness, [rng.permutation(owner) for owner in owners]) for _ in range(500)]
    p = (1 + sum(value >= found - 1e-12 for value in shuffled)) / (1 + len(shuffled))
    if p > 0.01:
        raise EdgekitError(
            f"The responses of {name} in {responses} do not depend on the images.",
            why=f"Compared were {sum(len(group) for group in groups)} questions in {len(groups)} groups of the same "
            f"text about different images: responses to one image are as alike ({found:.3f}) as responses to "
            f"different ones ({float(np.mean(shuffled)):.3f}; p = {p:.2g}).",
            fix=f"Remove that folder to have them written again.\n{SWITCH}",
        )
    return p


def _groups(questions: Path, responses: Path, most: int = 200) -> list[list[list[frozenset[int]]]]:
    """Groups of questions with one text and different images; of each question the token sets of its responses."""
    by_text: dict[str, dict[tuple[ImageRef, ...], list[frozenset[int]]]] = {}
    for path in sorted(responses.glob("shard-*.parquet"))[:8]:
        if not (questions / path.name).exists():
            continue
        said: dict[str, list[frozenset[int]]] = {}
        table = pq.read_table(path, columns=["question_id", "token_ids"]).to_pylist()
        for row in table:
            said.setdefault(row["question_id"], []).append(frozenset(row["token_ids"]))
        for row in pq.read_table(questions / path.name).to_pylist():
            sample = question(row)
            if sample.images and len(said.get(sample.id, ())) >= 2:
                by_text.setdefault(json.dumps(sample.messages), {}).setdefault(sample.images, said[sample.id])
    return [list(images.values())[:8] for images in by_text.values() if len(images) >= 2][:most]


def _jaccard(sets: list[frozenset[int]]) -> NDArray[np.float64]:
    rows = [[len(a & b) / max(1, len(a | b)) for b in sets] for a in sets]
    return np.array(rows) - np.eye(len(sets))


def _own_likeness(likeness: list[NDArray[np.float64]], owners: list[NDArray[np.int64]]) -> float:
    """Mean likeness of two different responses to the same image."""
    total, count = 0.0, 0
    for matrix, owner in zip(likeness, owners, strict=True):
        same = owner[:, None] == owner[None]
        total += float(matrix[same].sum())
        count += int(same.sum()) - len(owner)
    return total / max(1, count)
