"""The reference: the checkpoint in transformers, fed by the Hugging Face processor.

Nothing of edgekit's own preprocessing, prompts or split is used here, so that it can stand as an independent oracle;
how the processor is loaded, with torchvision and without, is in `edgekit.inputs.official`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoint.generation import FILE, Generation, read_generation
from edgekit.families import Grid, read_optional_json
from edgekit.inputs.chat import Message
from edgekit.inputs.official import TEXT_INPUTS, load_processor, official_inputs, plain_pixels
from edgekit.runtimes import Runtime
from edgekit.runtimes.session import Logits, Prepared, Session

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGES = ("torch", "transformers")


def open_session(folder: Path, threads: int) -> TorchSession:
    """Load a checkpoint.

    Args:
        folder: Hugging Face folder.
        threads: CPU threads.
    """
    import torch

    torch.set_num_threads(threads)
    return TorchSession(folder)


@dataclass(frozen=True)
class Official(Prepared):
    """A prompt as the Hugging Face processor prepares it.

    Attributes:
        vision: What the processor gives for `get_image_features`, as tensors.
        kinds: mm_token_type_ids (1, T), where the processor gives them.
        images: The images.
        again: Makes `vision` of fewer images.
    """

    vision: dict[str, Any] = field(default_factory=dict)
    kinds: Any = None
    images: tuple[Image, ...] = ()
    again: Callable[[tuple[Image, ...]], dict[str, Any]] | None = None

    def head(self, length: int) -> Official:
        """As `Prepared.head`."""
        base = super().head(length)
        assert isinstance(base, Official)
        return replace(base, kinds=None if self.kinds is None else self.kinds[:, :length])

    def tail(self, start: int, image: int) -> Official:
        """As `Prepared.tail`; the later images go through the processor on their own."""
        base = super().tail(start, image)
        later = self.images[image:]
        assert isinstance(base, Official) and self.again is not None
        kinds = None if self.kinds is None else self.kinds[:, start:]
        return replace(base, kinds=kinds, images=later, vision=self.again(later) if later else {})


class TorchSession(Session):
    """A loaded checkpoint with a cache."""

    def __init__(self, folder: Path) -> None:
        from edgekit.checkpoint.configuration import end_list
        from edgekit.checkpoint.folder import load_model
        from edgekit.inputs.processor import check_image_token

        self._folder = folder
        self.model: Any = load_model(folder)
        self.processor: Any = load_processor(folder)
        tokens = self.processor.tokenizer.convert_tokens_to_ids
        check_image_token(folder, read_optional_json(folder / "config.json"), tokens)
        self.eos_token_ids = frozenset(end_list(self.model.generation_config.eos_token_id))
        rows: int = self.model.get_output_embeddings().weight.shape[0]
        self.vocab_size = min(len(self.processor.tokenizer), rows)  # entries without a row are never an answer
        self.image_token_id = int(self.model.config.image_token_id)
        self._mrope = hasattr(self.model.model, "get_rope_index")
        self.reset()

    @cached_property
    def generation(self) -> Generation:
        """The model's own settings, as transformers loaded them."""
        return read_generation(self.model.generation_config.to_dict(), str(self._folder / FILE))

    def prepare(self, messages: list[Message], images: list[Image]) -> Official:
        """By the processor.

        Raises:
            DataError: it refuses these messages or images.
        """
        inputs = official_inputs(self.processor, messages, images)
        vision = {name: value for name, value in inputs.items() if name not in TEXT_INPUTS}
        ids, kinds = inputs["input_ids"], inputs.get("mm_token_type_ids", inputs.get("token_type_ids"))
        pixels = plain_pixels(self.processor, inputs)
        grid = vision.get("image_grid_thw")
        return Official(
            ids.numpy(),
            pixels,
            self._grids(vision),
            self._positions(ids, kinds, grid),
            [1] * len(images),  # `tail` does not cut pixels by them
            vision,
            kinds,
            tuple(images),
            self._vision_of,
        )

    def encode_image(self, prepared: Prepared) -> Any:
        """By the model's own get_image_features."""
        import torch

        assert isinstance(prepared, Official)
        takes = inspect.signature(self.model.get_image_features).parameters
        with torch.no_grad():
            given = {name: value for name, value in prepared.vision.items() if name in takes}
            return self.model.get_image_features(**given, return_dict=True)

    def prefill(self, prepared: Prepared, features: Any) -> Logits:
        """By the whole model's forward."""
        assert isinstance(prepared, Official)
        given: dict[str, Any] = {} if features is None else {"mm_encoder_outputs": {"image": features}}
        if self._mrope:
            given["position_ids"] = self._tensor(prepared.positions)
            self._next = int(given["position_ids"].max()) + 1
        elif prepared.kinds is not None:
            names = ("mm_token_type_ids", "token_type_ids")
            given |= {name: prepared.kinds for name in names if name in self._takes}
        return self._forward(input_ids=self._tensor(prepared.ids), **given)

    def decode_step(self, token: int) -> Logits:
        """One token with the cache."""
        given = {}
        if self._mrope:
            given["position_ids"] = self._tensor(np.full((3, 1, 1), self._next))
            self._next += 1
        return self._forward(input_ids=self._tensor(np.array([[token]])), **given)

    def decode_text(self, ids: list[int]) -> str:
        """By the Hugging Face tokenizer."""
        text: str = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text.lstrip()

    def reset(self) -> None:
        """Empty the cache."""
        self._cache: Any = None
        self._next = 0
        self._takes = inspect.signature(self.model.forward).parameters

    def rewind(self, length: int) -> int:
        """Crop the cache, where it is of the keys and values of all tokens only."""
        if self._cache is None or not all(hasattr(layer, "keys") for layer in self._cache.layers):
            return 0
        if any(self._cache.is_sliding):
            return 0
        if excess := self._cache.get_seq_length() - length:
            self._cache.crop(-excess)
        return length

    def close(self) -> None:
        """Drop the model."""
        self.model = self._cache = None

    def _vision_of(self, images: tuple[Image, ...]) -> dict[str, Any]:
        settings = dict(getattr(self.processor, "images_kwargs", None) or {})  # the processor's own for its image half
        given = self.processor.image_processor(list(images), return_tensors="pt", **settings)
        return dict(given)

    def _positions(self, ids: Any, kinds: Any, grid: Any) -> NDArray[np.int64]:
        """(1, T), or (3, 1, T) by the model's own rule."""
        if not self._mrope:
            plain: NDArray[np.int64] = np.arange(ids.shape[1], dtype=np.int64)[None]
            # Token types beyond mm_token_type_ids are asked for where an image's tokens see each other.
            return self._blocks(plain, kinds) if "token_type_ids" in self._takes and kinds is not None else plain
        positions, _ = self.model.model.get_rope_index(
            ids, mm_token_type_ids=(ids == self.image_token_id).int() if kinds is None else kinds, image_grid_thw=grid
        )
        found: NDArray[np.int64] = positions.numpy()
        return found

    @staticmethod
    def _blocks(plain: NDArray[np.int64], kinds: Any) -> NDArray[np.int64]:
        """(2, 1, T): positions, and for each token that of the first of its block, as `Split.position_axes` says."""
        from transformers.models.gemma3.modeling_gemma3 import get_block_sequence_ids_for_mask

        numbers = get_block_sequence_ids_for_mask(kinds)[0].tolist()
        starts = [place if number < 0 else numbers.index(number) for place, number in enumerate(numbers)]
        return np.stack([plain, np.array([starts], dtype=np.int64)])

    @staticmethod
    def _grids(vision: dict[str, Any]) -> list[Grid]:
        """Of each image, as its family counts it, where an export's encoder must know them."""
        if "spatial_shapes" in vision:  # an export's images are one view each
            return [(1, 1, *row) for row in vision["spatial_shapes"].tolist()]
        grid = vision.get("image_grid_thw", vision.get("image_sizes"))
        return [] if grid is None else [tuple(row) for row in grid.tolist()]

    def _tensor(self, array: Any) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array))

    def _forward(self, **inputs: Any) -> Logits:
        import torch

        with torch.no_grad():
            out = self.model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        logits: Logits = out.logits[0, -1].float().numpy()
        return logits


RUNTIME = Runtime(("checkpoint",), open_session, PACKAGES)
