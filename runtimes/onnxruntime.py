"""ONNX Runtime on the CPU, fed by edgekit's own preprocessing; torch and transformers are never loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, MissingExtraError
from edgekit.families import Grid
from edgekit.families.decoding import Given
from edgekit.formats.declared import Declared, Tensor, check_tensors
from edgekit.runtimes import Runtime
from edgekit.runtimes._bundled import BundleSession, last_logits
from edgekit.runtimes._onnx_cache import KeyValueCache
from edgekit.runtimes.session import Logits

PACKAGES = ("onnxruntime",)


DTYPES = {f"tensor({theirs})": ours for theirs, ours in (("float", "float32"), ("double", "float64"))} | {
    f"tensor({name})": name for name in ("float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool")
}


@contextmanager
def running(component: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises into a BundleError: its exceptions come from C++ and have no common base.

    A graph that was loaded and is described rightly can still refuse: an id that its table does not have, a product
    whose sides do not fit.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime") and not isinstance(error, (RuntimeError, MemoryError)):
            raise
        raise BundleError(
            f"ONNX Runtime does not run the component {component!r}.",
            why=" ".join(str(error).split())[:500],
            fix="Copy or export the bundle again.",
        ) from error


def declared(graph: Any) -> Declared:
    """What a graph takes and gives, by its inference session."""

    def of(parts: Sequence[Any]) -> list[Tensor]:
        return [Tensor(one.name, DTYPES.get(one.type, one.type), one.shape) for one in parts]

    return Declared(of(graph.get_inputs()), of(graph.get_outputs()))


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


class OnnxSession(BundleSession):
    """Three graphs and a cache on NumPy arrays."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        import onnxruntime

        super().__init__(bundle)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._graphs = {
                name: onnxruntime.InferenceSession(bundle.path(part.file), options, providers=["CPUExecutionProvider"])
                for name, part in self.manifest.components.items()
            }
        except Exception as error:  # onnxruntime's exceptions come from C++ and have no common base
            raise BundleError(f"ONNX Runtime does not load {bundle.folder}.", why=str(error)[:500]) from error
        check_tensors(self.manifest.components, {name: declared(graph) for name, graph in self._graphs.items()})
        self._cache = KeyValueCache(self._graphs["text_decoder"], self.manifest)

    def encode_part(
        self, component: str, grid: Grid | None, values: NDArray[np.float32]
    ) -> list[list[NDArray[np.float32]]]:
        """By the bucket's graph; all tiles at once."""
        given = values[None] if grid is None else values  # tiles stand in a batch of prompts, patches do not
        with running(component):
            return [self._graphs[component].run(None, {"pixel_values": given})]

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""
        with running("token_embedding"):
            embeds: NDArray[np.float32] = self._graphs["token_embedding"].run(None, {"input_ids": ids})[0]
        return embeds

    def run_decoder(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """By the decoder's graph and the cache."""
        with running("text_decoder"):
            found = self._cache.run({"inputs_embeds": embeds, **given})
        return last_logits(found, self.manifest.vocab_size)

    def reset(self) -> None:
        """Empty the cache."""
        super().reset()
        self._cache.clear()

    def rewind(self, length: int) -> int:
        """Cut the cache, unless there are states in it."""
        return self._cache.cut(length)

    def close(self) -> None:
        """Drop the graphs."""
        self._graphs = {}


RUNTIME = Runtime(("onnx",), open_session, PACKAGES)
