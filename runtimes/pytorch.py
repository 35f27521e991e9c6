"""The reference: the checkpoint in transformers, fed by the Hugging Face processor.

Nothing of edgekit's own preprocessing or split is used here, so that it can stand as an independent oracle. Without
torchvision the processors of SmolVLM, Qwen-VL and InternVL cannot be loaded, since their video half does not exist
then; their own classes are built here from the tokenizer, the pillow image processor and no video processor.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.chat import Message, read_chat_template
from edgekit.errors import CheckpointError
from edgekit.families import read_image_processor, read_optional_json
from edgekit.runtimes.session import Logits, Prepared

if TYPE_CHECKING:
    from PIL.Image import Image

TARGETS = ("checkpoint",)
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


class TorchSession:
    """A loaded checkpoint with a cache."""

    def __init__(self, folder: Path) -> None:
        from transformers.utils import logging

        from edgekit.checkpoint import load_model

        logging.set_verbosity_error()
        self.model: Any = load_model(folder)
        self.processor: Any = load_processor(folder)
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            ends = self.model.config.text_config.eos_token_id
        self.eos_token_ids = frozenset([ends] if isinstance(ends, int) else ends)
        self._pictures: dict[str, Any] = {}
        self.reset()

    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """By AutoProcessor."""
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        # The processor itself drops an image's place when given none, so the argument is left out then.
        given = {"images": images} if images else {}
        inputs = self.processor(text=[text], return_tensors="pt", add_special_tokens=False, **given)
        names = ("pixel_values", "pixel_attention_mask", "image_grid_thw")
        self._pictures = {name: inputs[name] for name in names if name in inputs}
        if not images:
            return Prepared(inputs["input_ids"].numpy(), None)
        pixels = inputs["pixel_values"]
        grids = [tuple(row.tolist()) for row in self._pictures.get("image_grid_thw", ())]
        # Idefics3 has an axis for the batch of prompts in front of the tiles.
        return Prepared(inputs["input_ids"].numpy(), (pixels[0] if pixels.ndim == 5 else pixels).numpy(), grids)

    def encode_image(self, prepared: Prepared) -> Any:
        """By the model's own get_image_features, of the pictures prepared last."""
        import torch

        with torch.no_grad():
            return self.model.get_image_features(**self._pictures, return_dict=True)

    def prefill(self, prepared: Prepared, features: Any) -> Logits:
        """By the whole model's forward."""
        ids = self._tensor(prepared.ids)
        if features is None:
            return self._forward(input_ids=ids)
        given = {"mm_encoder_outputs": {"image": features}}
        if "image_grid_thw" in self._pictures:  # M-RoPE positions come from the grid and from which tokens are images
            kinds = (ids == self.model.config.image_token_id).int()
            given |= {"image_grid_thw": self._pictures["image_grid_thw"], "mm_token_type_ids": kinds}
        return self._forward(input_ids=ids, **given)

    def decode_step(self, token: int) -> Logits:
        """One token with the cache."""
        return self._forward(input_ids=self._tensor(np.array([[token]])))

    def decode_text(self, ids: list[int]) -> str:
        """By the Hugging Face tokenizer."""
        text: str = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def reset(self) -> None:
        """Empty the cache."""
        self._cache: Any = None
        if hasattr(self.model.model, "rope_deltas"):
            # Qwen-VL keeps the shift of the last prompt's positions, and would shift a prompt without pictures by it.
            self.model.model.rope_deltas = None

    def close(self) -> None:
        """Drop the model."""
        self.model = self._cache = None

    def _tensor(self, ids: NDArray[np.int64]) -> Any:
        import torch

        return torch.from_numpy(ids)

    def _forward(self, **inputs: Any) -> Logits:
        import torch

        with torch.no_grad():
            out = self.model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        logits: Logits = out.logits[0, -1].float().numpy()
        return logits


def load_processor(folder: Path) -> Any:
    """The checkpoint's official processor; without its video half where torchvision is missing.

    Raises:
        CheckpointError: transformers cannot load it.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (ImportError, ValueError, OSError) as error:
        try:
            return _without_video(folder)
        except (ImportError, ValueError, OSError, AttributeError) as second:
            raise CheckpointError(
                f"transformers cannot load the processor in {folder}.", why=f"{str(error)[:300]}; {str(second)[:300]}"
            ) from second


def _without_video(folder: Path) -> Any:
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer

    given = read_optional_json(folder / "processor_config.json")
    settings = read_image_processor(folder)
    name = str(settings.get("processor_class") or given.get("processor_class"))
    # SmolVLM's wants num2words, for videos only; for pictures it is Idefics3's.
    kind: Any = getattr(transformers, "Idefics3Processor" if name == "SmolVLMProcessor" else name)

    class Pictures(kind):  # type: ignore[misc]
        """The official processor, which refuses to be built without a video processor."""

        def check_argument_for_proper_class(self, *_: Any) -> None:
            """Anything goes."""

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    parts = {"image_processor": images, "tokenizer": tokenizer, "chat_template": read_chat_template(folder)}
    if name != "SmolVLMProcessor":
        parts["video_processor"] = None
    known = inspect.signature(kind.__init__).parameters
    return Pictures(**parts, **{key: value for key, value in given.items() if key in known and key not in parts})
