"""ONNX Runtime on the CPU, fed by edgekit's own preprocessing; torch and transformers are never loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.chat import Message
from edgekit.errors import BundleError, MissingExtraError
from edgekit.families import Encoded, Grid, Pixels, by_bucket, gather, merge_images, spread_deepstack
from edgekit.processor import Processor
from edgekit.runtimes._onnx_cache import KeyValueCache
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
        self._cache = KeyValueCache(self._graphs["text_decoder"], manifest)
        self._manifest = manifest
        self._width = next(int(spec.shape[-1]) for spec in decoder.inputs if spec.name == "inputs_embeds")
        self._processor = Processor.load(bundle.folder).for_sizes(manifest.preprocessing.get("sizes"))
        self.eos_token_ids = frozenset(manifest.text.eos_token_ids)
        self.vocab_size = self._processor.vocab_size
        self.image_token_id = manifest.text.image_token_id
        self.reset()

    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """By edgekit's own processor."""
        inputs = self._processor.encode(messages, images)
        if inputs.pixels is None:
            return Prepared(inputs.ids, None, positions=inputs.positions)
        return Prepared(inputs.ids, inputs.pixels.values, inputs.pixels.grids, inputs.positions, inputs.pixels.parts)

    def encode_image(self, prepared: Prepared) -> Encoded:
        """Each picture by the graph of its bucket."""
        assert prepared.pixels is not None
        encoders = self._manifest.encoders()
        grids = {name: grid for name, (_, grid) in encoders.items()}
        parts = by_bucket(grids, Pixels(prepared.pixels, prepared.grids))
        pack = getattr(self._processor.family, "pack", None)
        own = None if pack is None else partial(pack, grids=prepared.grids, params=self._processor.params)
        return gather([self._encode(*encoders[name], values) for name, values in parts], own)

    def prefill(self, prepared: Prepared, features: Encoded | None) -> Logits:
        """All tokens at once, image embeddings merged in."""
        assert prepared.positions is not None
        embeds = self.embed(prepared.ids)
        if features is not None:
            embeds = merge_images(embeds, prepared.ids, features.embeds, self.image_token_id)
        return self.decode(embeds, prepared.positions, self._spread(prepared.ids, features))

    def decode_step(self, token: int) -> Logits:
        """One token with the cache."""
        ids = np.array([[token]], dtype=np.int64)
        shape = (1, 1) if self._manifest.position_axes == 1 else (self._manifest.position_axes, 1, 1)
        return self.decode(self.embed(ids), np.full(shape, self._position, dtype=np.int64), self._spread(ids, None))

    def decode_text(self, ids: list[int]) -> str:
        """By the bundle's tokenizer."""
        return self._processor.decode(ids, strip_end=False)

    def reset(self) -> None:
        """Empty the cache."""
        self._cache.clear()
        self._position = 0

    def rewind(self, length: int) -> int:
        """Cut the cache, unless there are states in it."""
        return self._cache.cut(length)

    def close(self) -> None:
        """Drop the graphs."""
        self._graphs = {}

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        embeds: NDArray[np.float32] = self._graphs["token_embedding"].run(None, {"input_ids": ids})[0]
        return embeds

    def decode(
        self, embeds: NDArray[np.float32], positions: NDArray[np.int64], deepstack: NDArray[np.float32] | None
    ) -> Logits:
        """As `session.Modules`."""
        self._position = int(positions.max()) + 1
        feeds: dict[str, NDArray[Any]] = {"inputs_embeds": embeds, "position_ids": positions}
        if deepstack is not None:
            feeds["deepstack_embeds"] = deepstack
        last: Logits = self._cache.run(feeds)[0, -1]
        return last

    def _encode(self, component: str, grid: Grid | None, values: NDArray[np.float32]) -> Any:
        given = values[None] if grid is None else values  # tiles stand in a batch of prompts, patches do not
        return self._graphs[component].run(None, {"pixel_values": given})

    def _spread(self, ids: NDArray[np.int64], features: Encoded | None) -> NDArray[np.float32] | None:
        if not (layers := self._manifest.deepstack):
            return None
        deepstack = None if features is None else features.deepstack
        return spread_deepstack(ids, deepstack, self.image_token_id, layers, self._width)
