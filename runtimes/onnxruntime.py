"""ONNX Runtime on the CPU, fed by edgekit's own preprocessing; torch and transformers are never loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.chat import Message
from edgekit.errors import BundleError, MissingExtraError
from edgekit.families import merge_images
from edgekit.processor import Processor
from edgekit.runtimes.session import Logits, Prepared

if TYPE_CHECKING:
    from PIL.Image import Image

TARGETS = ("onnx",)
PACKAGES = ("onnxruntime",)


def open_session(folder: Path, threads: int) -> OnnxSession:
    """Load a bundle of target onnx.

    Args:
        folder: The bundle; checked by `Bundle.load`.
        threads: Intra-op threads of each graph.
    Raises:
        MissingExtraError: onnxruntime is not installed.
        BundleError: not whole, or the runtime refuses a graph.
    """
    try:
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingExtraError("run an onnx bundle", "onnxruntime", "onnx") from error
    return OnnxSession(Bundle.load(folder), threads)


class OnnxSession:
    """Three graphs and a cache on NumPy arrays."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        manifest = bundle.manifest
        try:
            self._graphs = {
                name: onnxruntime.InferenceSession(bundle.path(part.file), options, providers=["CPUExecutionProvider"])
                for name, part in manifest.components.items()
            }
        except Exception as error:  # onnxruntime's exceptions come from C++ and have no common base
            raise BundleError(f"ONNX Runtime does not load {bundle.folder}.", why=str(error)[:500]) from error
        decoder = manifest.components["text_decoder"]
        self._past_names = [spec.name for spec in decoder.inputs if spec.name.startswith("past_key_values.")]
        self._empty = np.zeros((1, manifest.cache.kv_heads, 0, manifest.cache.head_dim), dtype=np.float32)
        self._image_token_id = manifest.text.image_token_id
        self._processor = Processor.load(bundle.folder)
        self.eos_token_ids = frozenset(manifest.text.eos_token_ids)
        self.reset()

    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """By edgekit's own processor."""
        inputs = self._processor.encode(messages, images)
        return Prepared(inputs.ids, None if inputs.pixels is None else inputs.pixels.values)

    def encode_image(self, pixels: NDArray[np.float32]) -> Any:
        """(M, 3, H, W) -> (M, N, D)."""
        return self._graphs["vision_encoder"].run(None, {"pixel_values": pixels[None]})[0]

    def prefill(self, ids: NDArray[np.int64], features: Any) -> Logits:
        """The whole prompt at once, image embeddings merged in."""
        embeds = self._embed(ids)
        if features is not None:
            embeds = merge_images(embeds, ids, features, self._image_token_id)
        return self._decode(embeds)

    def decode_step(self, token: int) -> Logits:
        """One token with the cache."""
        return self._decode(self._embed(np.array([[token]], dtype=np.int64)))

    def decode_text(self, ids: list[int]) -> str:
        """By the bundle's tokenizer."""
        return self._processor.decode(ids)

    def reset(self) -> None:
        """Empty the cache."""
        self._past = [self._empty] * len(self._past_names)
        self._length = 0

    def close(self) -> None:
        """Drop the graphs."""
        self._graphs = {}

    def _embed(self, ids: NDArray[np.int64]) -> Any:
        return self._graphs["token_embedding"].run(None, {"input_ids": ids})[0]

    def _decode(self, embeds: Any) -> Logits:
        start, self._length = self._length, self._length + embeds.shape[1]
        feeds = {
            "inputs_embeds": embeds,
            "attention_mask": np.ones((1, self._length), dtype=np.int64),
            "position_ids": np.arange(start, self._length, dtype=np.int64)[None],
            **dict(zip(self._past_names, self._past, strict=True)),
        }
        logits, *self._past = self._graphs["text_decoder"].run(None, feeds)
        last: Logits = logits[0, -1]
        return last
