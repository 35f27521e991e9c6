"""ExecuTorch's own C++ MultimodalRunner, as an app on a phone uses it; edgekit's runtime has its own loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from edgekit.bundle import Bundle
from edgekit.errors import BundleError
from edgekit.families import FAMILIES
from edgekit.formats.executorch.delegates import backend_of, check_here
from edgekit.formats.executorch.program import load_custom_ops, registered
from edgekit.inputs.chat import Message
from edgekit.inputs.processor import Processor
from edgekit.runtimes.executorch import rehearse


def answer_by_runner(folder: Path, messages: list[Message], images: list[Image], max_new_tokens: int) -> str:
    """Answer one prompt by ExecuTorch's own C++ MultimodalRunner, as an app on a phone does; greedy.

    The runner is given token ids and images in turn, and encodes, embeds, decodes and detokenises by itself. It
    prints the answer to the process's stdout as well.

    Args:
        folder: A bundle of target executorch.
        messages: Ends with the user's turn.
        images: In the order of the image parts.
        max_new_tokens: At least 2.

    Returns:
        The text as the runner detokenises it, special tokens included where it prints them.

    Raises:
        BundleError: the family's positions or features have no place in the runner's interface, or the runner refuses.
    """
    bundle = Bundle.load(folder)
    manifest = bundle.manifest
    encoder, packs = manifest.components.get("vision_encoder"), FAMILIES.load(manifest.family).pack is not None
    more = len(manifest.components["text_decoder"].inputs) > 2
    if more or packs or encoder is None or len(encoder.inputs[0].shape) != 4:
        raise BundleError(
            f"ExecuTorch's C++ runner cannot run {folder}.",
            why="It passes a decoder embeddings and where they begin, an encoder images (3, H, W) of one size, and "
            f"its features on as they are; {manifest.family} needs more.",
            fix="Run it with edgekit:  edgekit run BUNDLE",
        )
    from executorch.extension.llm import runner

    check_here(backend_of(manifest.details), registered())
    rehearse(folder)
    load_custom_ops()  # an app links them beside the runner
    inputs = Processor.load(folder).encode(messages, images)
    pixels = None if inputs.pixels is None else inputs.pixels.values
    tokens = manifest.buckets[""].tokens
    parts = []
    for kind, value in in_turn(inputs.ids[0].tolist(), pixels, manifest.text.image_token_id, tokens):
        if kind == "tokens":
            parts.append(runner.make_token_input(value))
        else:
            parts.append(runner.make_image_input(torch.from_numpy(np.ascontiguousarray(value))))
    try:
        loaded = runner.MultimodalRunner(
            str(bundle.path(manifest.components["text_decoder"].file)), str(bundle.path(manifest.text.tokenizer))
        )
        config = runner.GenerationConfig(max_new_tokens=max_new_tokens, temperature=0.0, echo=False)
        said: list[str] = []
        loaded.generate(parts, config, said.append)
    except RuntimeError as error:
        raise BundleError(f"ExecuTorch's runner does not run {folder}.", why=str(error)[:500]) from error
    return "".join(said)


def in_turn(
    ids: list[int], pixels: NDArray[np.float32] | None, image_token_id: int, tokens: int
) -> Iterator[tuple[str, Any]]:
    """A prompt as ExecuTorch's runner takes it: ("tokens", [ids]) and ("image", tile (3, H, W)) in the prompt's order.

    Args:
        ids: Of the prompt, placeholders expanded.
        pixels: Tiles (M, 3, H, W); None without images.
        image_token_id: The placeholder.
        tokens: Placeholders of one tile.
    """
    run: list[int] = []
    place = tile = 0
    while place < len(ids):
        if ids[place] != image_token_id:
            run.append(ids[place])
            place += 1
            continue
        if run:
            yield "tokens", run
            run = []
        assert pixels is not None
        yield "image", pixels[tile]
        place, tile = place + tokens, tile + 1
    if run:
        yield "tokens", run
