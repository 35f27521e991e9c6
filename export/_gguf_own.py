"""What llama.cpp's own programs make of a prompt, beside what the student was trained on.

edgekit's runtime gives llama.cpp prepared tiles in the trained order; other programs leave words and images to
llama.cpp. Here both are told the same questions on images of odd shapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.demo.shapes import draw
from edgekit.families import Size
from edgekit.formats.gguf.library import MARKER
from edgekit.formats.gguf.process import LlamaModel
from edgekit.inputs.chat import question, render
from edgekit.inputs.images import as_rgb, denormalise
from edgekit.inputs.processor import Processor

SIZES: tuple[Size, ...] = ((64, 64), (96, 48), (48, 96), (640, 480), (113, 37), (37, 300), (700, 90), (333, 517))
PLAIN = ("What's in the image, 12 or 3?\n\nSay it.", "  two  spaces, ünïcode 東京 and 3.14\t'll", "a\n\n\nb")


def own_preprocessing(folder: Path, made: Mapping[str, Any], images: Sequence[Image.Image] = ()) -> dict[str, Any]:
    """Compare the two.

    Args:
        folder: The bundle's.
        made: Its details: files of both parts, and the placeholder.
        images: Images; drawn ones of SIZES by default.

    Returns:
        text_ids_equal: share of plain texts with the same ids; prompt_ids_equal: of prompts with an image; and a row
        for each image, see `_row`.
    """
    images = images or [draw(number)[0].resize(size) for number, size in enumerate(SIZES)]
    processor = Processor.load(folder, prepared=True)
    files = (folder / made["text"]["file"], folder / made["mmproj"]["file"])
    asked = [processor.prompt(question(text, 0), []) for text in PLAIN]
    trained = [processor.tokenizer.encode(text, add_special_tokens=False).ids for text in asked]
    model = LlamaModel(*files, threads=1, context=512, watch=True)
    try:
        same = [model.tokenize(text) == ids for text, ids in zip(asked, trained, strict=True)]
        rows = [_row(model, processor, image, folder, made["placeholder"]) for image in images]
    finally:
        model.close()
    return {
        "text_ids_equal": float(np.mean(same)),
        "prompt_ids_equal": float(np.mean([row["ids_equal"] for row in rows])),
        "pictures": rows,
    }


def _row(model: LlamaModel, processor: Processor, image: Image.Image, folder: Path, placeholder: str) -> dict[str, Any]:
    """One image, on both sides: the trained one first.

    Returns:
        size; ids_equal, of a prompt with it; image_tokens; parts: sizes, width x height, in their order; and the
        largest and the mean difference of a pixel, in 255ths: over `all` parts where their sizes are equal, else over
        the `last`, a view of the whole, if that is of the same size.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    messages = question("What is there?")
    inputs = processor.encode(messages, [image])
    assert inputs.pixels is not None
    ids = [-1 if one == config["image_token_id"] else one for one in inputs.ids[0].tolist()]
    text = render(processor.template, messages, processor.special).replace(placeholder, MARKER)
    plain = np.ascontiguousarray(np.asarray(as_rgb(image)))
    theirs, _, _ = model.own(text, [plain])
    trained = processor.family.images(inputs.pixels, processor.params)
    cut = [denormalise(part, processor.params) for part in model.pixels([plain])]
    row: dict[str, Any] = {
        "size": list(image.size),
        "ids_equal": theirs == ids,
        "image_tokens": [ids.count(-1), theirs.count(-1)],
        "parts": [_sizes(trained), _sizes(cut)],
    }
    compared = "all" if row["parts"][0] == row["parts"][1] else "last"
    if trained[-1].shape == cut[-1].shape:
        if compared == "last":
            trained, cut = trained[-1:], cut[-1:]
        gaps = [np.abs(a.astype(np.int16) - b.astype(np.int16)) for a, b in zip(trained, cut, strict=True)]
        row["compared"] = compared
        row["pixels_max"] = max(int(gap.max()) for gap in gaps)
        row["pixels_mean"] = float(np.concatenate([gap.ravel() for gap in gaps]).mean())
    return row


def _sizes(parts: Sequence[NDArray[np.uint8]]) -> list[str]:
    return [f"{part.shape[1]}x{part.shape[0]}" for part in parts]
