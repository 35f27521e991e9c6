"""The reference: the checkpoint in transformers, fed by the Hugging Face processor.

Nothing of edgekit's own preprocessing or split is used here, so that it can stand as an independent oracle.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.chat import Message
from edgekit.errors import CheckpointError
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
        from transformers import AutoProcessor
        from transformers.utils import logging

        from edgekit.checkpoint import load_model

        logging.set_verbosity_error()
        self.model: Any = load_model(folder)
        try:
            self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (ImportError, ValueError, OSError) as error:
            raise CheckpointError(
                f"transformers cannot load the processor in {folder}.", why=str(error)[:300]
            ) from error
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            ends = self.model.config.text_config.eos_token_id
        self.eos_token_ids = frozenset([ends] if isinstance(ends, int) else ends)
        self._mask: Any = None
        self.reset()

    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """By AutoProcessor."""
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        # The processor itself drops an image's place when given none, so the argument is left out then.
        given = {"images": images} if images else {}
        inputs = self.processor(text=[text], return_tensors="pt", add_special_tokens=False, **given)
        self._mask = inputs.get("pixel_attention_mask")
        pixels = inputs["pixel_values"][0].numpy() if images else None
        return Prepared(inputs["input_ids"].numpy(), pixels)

    def encode_image(self, prepared: Prepared) -> Any:
        """By the model's own get_image_features."""
        import torch

        with torch.no_grad():
            pixels = torch.from_numpy(prepared.pixels)[None]
            return self.model.get_image_features(pixels, self._mask, return_dict=True)

    def prefill(self, prepared: Prepared, features: Any) -> Logits:
        """By the whole model's forward."""
        given = {} if features is None else {"mm_encoder_outputs": {"image": features}}
        return self._forward(input_ids=self._tensor(prepared.ids), **given)

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
