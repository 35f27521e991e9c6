"""edgekit's own prompts and pixels beside the official processor's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DataError
from edgekit.families.sizes import fit_image
from edgekit.inputs.chat import Message, question
from edgekit.inputs.official import ODD, official_inputs, plain_pixels
from edgekit.stats import finite_or_none, largest_gap

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgekit.inputs.processor import Processor


def odd_images() -> Iterator[Image]:
    """Noise in the modes and shapes of ODD, always the same."""
    from PIL import Image as pillow

    rng = np.random.default_rng(0)
    for mode, (width, height) in ODD:
        if mode == "I;16":
            yield pillow.fromarray(rng.integers(0, 1 << 16, (height, width), dtype=np.uint16))
        else:
            pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
            yield pillow.fromarray(pixels, "RGBA").convert(mode)


def compare_inputs(
    processor: Processor, official: Any, prompts: Iterable[tuple[list[Message], list[Image]]]
) -> dict[str, Any]:
    """edgekit's prompts and pixels beside the official processor's: given prompts, odd images, none and two.

    Args:
        processor: Of the checkpoint, for an export's image sizes.
        official: From `load_processor`, of the same folder.
        prompts: Messages and images.

    Returns:
        inputs: how many prompts, and odd_pictures: how many of them; prompt_ids_equal: share of prompts with the same
        ids, where a prompt that both refuse counts as equal; pixel_max_abs: largest difference of pixels, infinite for
        other shapes and where one side alone refuses, None where not finite; pixels_by: `edgekit` where transformers
        has no image processor to compare with.
    """
    odd = [(question("What is in the image?"), [image]) for image in odd_images()]
    two = [image for _, images in odd[4:6] for image in images]
    more = [*odd, (question("What is it?", 0), []), (question("What differs?", 2), two)]
    equal: list[bool] = []
    worst = 0.0
    for messages, images in (*prompts, *more):
        same, gap = _compare(processor, official, messages, images)
        equal.append(same)
        worst = max(worst, gap)
    own = getattr(getattr(official, "image_processor", None), "own_pixels", False)
    return {
        "inputs": len(equal),
        "odd_pictures": len(odd),
        "prompt_ids_equal": sum(equal) / len(equal),
        "pixel_max_abs": finite_or_none(worst),
        "pixels_by": "edgekit" if own else "transformers",
    }


def _compare(processor: Processor, official: Any, messages: list[Message], images: list[Image]) -> tuple[bool, float]:
    """Whether a prompt's ids are equal, and the largest difference of its pixels."""
    try:
        theirs = official_inputs(official, messages, [fit_image(image, processor.params) for image in images])
    except DataError:
        theirs = None
    try:
        ours = processor.encode(messages, images)
    except DataError:
        ours = None
    if theirs is None or ours is None:
        return (True, 0.0) if theirs is None and ours is None else (False, math.inf)
    same = np.array_equal(theirs["input_ids"].numpy(), ours.ids)
    pixels = plain_pixels(official, theirs)
    if pixels is None or ours.pixels is None:
        return same, 0.0 if pixels is None and ours.pixels is None else math.inf
    return same, largest_gap(pixels, ours.pixels.values)
