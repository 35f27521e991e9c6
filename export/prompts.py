"""Prompts for an export's parity run and its calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from edgekit.data import ImageRef, Sample
from edgekit.inputs.processor import Inputs, Processor
from edgekit.report.tolerances import MOST_PROMPTS

PARITY_PROMPTS = ("what is in the image?", "is there a circle?", "what color is the shape?", "describe the picture.")


class Prompts(Sequence[Inputs]):
    """Samples made ready for the model as they are asked for: the tiles of one image can take 50 MB."""

    def __init__(self, processor: Processor, samples: Sequence[Sample]) -> None:
        self._processor, self._samples = processor, samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Inputs: ...

    @overload
    def __getitem__(self, index: slice) -> Prompts: ...

    def __getitem__(self, index: int | slice) -> Inputs | Prompts:
        if isinstance(index, slice):
            return Prompts(self._processor, self._samples[index])
        sample = self._samples[index]
        return self._processor.encode(sample.messages, [image.open() for image in sample.images])


def parity_inputs(processor: Processor, samples: Sequence[Sample], stock: int = MOST_PROMPTS) -> Sequence[Inputs]:
    """Prompts for the parity run: the given questions, or stock questions on drawn images of several shapes."""
    return Prompts(processor, samples or drawn_samples(stock))


def drawn_samples(count: int) -> list[Sample]:
    """Stock questions on drawn images of several shapes."""
    from io import BytesIO

    from edgekit.demo.shapes import draw
    from edgekit.inputs.chat import question

    sizes, made = ((64, 64), (96, 48), (48, 96), (640, 480)), []
    for number in range(count):
        png = BytesIO()
        draw(number)[0].resize(sizes[number // 4 % 4]).save(png, "PNG")
        words = question(PARITY_PROMPTS[number % 4])
        made.append(Sample(str(number), (ImageRef(data=png.getvalue()),), words))
    return made
