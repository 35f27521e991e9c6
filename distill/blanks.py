"""Samples with blank images: what a teacher says without looking, under the same prompt token for token."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import lru_cache

from PIL import Image

from edgekit.data import ImageRef, Sample

GREY = (127, 127, 127)


def blanked(sample: Sample) -> Sample:
    """The same question with each image replaced by a plain grey one of its size."""
    return replace(sample, images=tuple(_blank(image.open().size) for image in sample.images))


@lru_cache(maxsize=256)
def _blank(size: tuple[int, int]) -> ImageRef:
    buffer = io.BytesIO()
    Image.new("RGB", size, GREY).save(buffer, "PNG")
    return ImageRef(data=buffer.getvalue())
