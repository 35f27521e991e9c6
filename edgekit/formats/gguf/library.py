"""A model held by llama.cpp's library, through llama-cpp-python's bindings, in the process that edgekit keeps it in."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.gguf.shared import Shared

Arrays = list[NDArray[Any]]
MARKER = "<__media__>"
KEPT: list[Any] = []  # ctypes callbacks live as long as they are referred to


class Refused(Exception):
    """llama.cpp said no, and the process lives on."""


class Model:
    """A text model, its context, and a mmproj where there is one."""

    def __init__(self, given: dict[str, Any]) -> None:
        from llama_cpp import llama_cpp, mtmd_cpp

        self.lib, self.mtmd = llama_cpp, mtmd_cpp
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = given["extra_bufts"]
        self.model = llama_cpp.llama_model_load_from_file(given["model"].encode(), params)
        if not self.model:
            raise Refused("llama.cpp does not load the text model")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.context = self._context(given)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.width = llama_cpp.llama_model_n_embd_inp(self.model)
        self.batch = given["batch"]
        self.shared = Shared(Path(given["shared"]), self.size, given["context"], make=True)
        self._logits: tuple[int, NDArray[np.float32]] = (0, np.empty(0, np.float32))
        self.single = _Single(llama_cpp)
        self.seen: Arrays = []
        self.cpu_s = 0.0  # processor time inside llama_decode
        self.vision = self._vision(given) if given["mmproj"] else None

    def _context(self, given: dict[str, Any]) -> Any:
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = given["context"], given["batch"], given["batch"]
        params.n_threads = params.n_threads_batch = given["threads"]
        params.no_perf = False
        if given["exact"]:  # llama.cpp's own choice is a cache of halves and its fused attention
            params.type_k = params.type_v = self.lib.GGML_TYPE_F32
            params.flash_attn_type = self.lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = self.lib.llama_init_from_model(self.model, params)
        if not context:
            raise Refused("llama.cpp does not make a context for the text model")
        return context

    def _vision(self, given: dict[str, Any]) -> Any:
        params = self.mtmd.mtmd_context_params_default()
        params.use_gpu, params.print_timings, params.warmup = False, False, False
        params.n_threads = given["threads"]
        params.media_marker = MARKER.encode()
        if given["exact"]:
            params.flash_attn_type = self.lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if given["image_tokens"]:
            params.image_min_tokens, params.image_max_tokens = given["image_tokens"]
        if given["watch"]:
            params.cb_eval = self._watch()
        vision = self.mtmd.mtmd_init_from_file(given["mmproj"].encode(), self.model, params)
        if not vision:
            raise Refused("llama.cpp does not load the mmproj")
        return vision

    def _watch(self) -> Any:
        """A callback that keeps what clip's first convolution reads, its prepared pixels, and stops it there."""
        base = _ggml_base()

        def look(tensor: int, ask: bool, _: Any) -> bool:
            if ask:
                return bool(base.ggml_op_desc(tensor) == b"IM2COL")
            # struct ggml_tensor: its type, a pointer, and ne, the sizes, the innermost first.
            kind = np.dtype(np.float32 if ctypes.c_int.from_address(tensor).value == 0 else np.float16)
            sizes = (ctypes.c_int64 * 4).from_address(tensor + 16)[::-1]
            raw = ctypes.string_at(base.ggml_get_data(tensor), kind.itemsize * int(np.prod(sizes)))
            self.seen.append(np.frombuffer(raw, kind).reshape(sizes).astype(np.float32))
            return False

        callback = self.lib.ggml_backend_sched_eval_callback(look)
        KEPT.append(callback)
        return callback

    def pixels(self, chunk: Any) -> Arrays:
        """(3, H, W) float32 of each image of an image chunk, as clip gives them to its network."""
        self.seen.clear()
        self.mtmd.mtmd_encode_chunk(self.vision, chunk)  # it is stopped on purpose
        return [_whole(one) for patches in self.seen for one in patches]

    def about(self) -> dict[str, Any]:
        """Sizes, as llama.cpp understood the files."""
        return {
            "vocab_size": self.size,
            "width": self.width,
            "hidden": self.lib.llama_model_n_embd(self.model),
            "context": self.lib.llama_n_ctx(self.context),
            "mrope": bool(self.vision) and bool(self.mtmd.mtmd_decode_use_mrope(self.vision)),
            "system": self.lib.llama_print_system_info().decode(errors="replace"),
        }

    @contextmanager
    def chunks(self, text: str, images: Arrays) -> Iterator[list[tuple[int, Any]]]:
        """(type, chunk) of a prompt as mtmd cuts it; the chunks live as long as the block."""
        mtmd = self.mtmd
        raw = text.encode()
        bitmaps = [
            mtmd.mtmd_bitmap_init(image.shape[1], image.shape[0], image.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
            for image in (np.ascontiguousarray(image) for image in images)
        ]
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            words = mtmd.mtmd_input_text(raw, len(raw), False, True)
            handles = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
            code = mtmd.mtmd_tokenize(self.vision, chunks, ctypes.byref(words), handles, len(bitmaps))
            if code:
                raise Refused(f"mtmd does not take the prompt: code {code}")
            every = [mtmd.mtmd_input_chunks_get(chunks, n) for n in range(mtmd.mtmd_input_chunks_size(chunks))]
            yield [(mtmd.mtmd_input_chunk_get_type(chunk), chunk) for chunk in every]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)

    def encode_chunk(self, chunk: Any) -> NDArray[np.float32]:
        """(N, width) of an image chunk."""
        if self.mtmd.mtmd_encode_chunk(self.vision, chunk):
            raise Refused("mtmd does not encode the image")
        tokens = self.mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        found = self.mtmd.mtmd_get_output_embd(self.vision)
        return np.ctypeslib.as_array(found, (tokens, self.width)).copy()

    def feed(self, ids: NDArray[np.int32] | None, embeds: NDArray[np.float32] | None, positions: Any) -> None:
        """Append tokens (T,) or embeddings (T, width) at positions (T,) or (4, T); logits are kept of the last."""
        lib = self.lib
        total = len(ids) if ids is not None else len(embeds)  # type: ignore[arg-type]
        for start in range(0, total, self.batch):
            part = slice(start, min(start + self.batch, total))
            count = part.stop - part.start
            place = np.ascontiguousarray(positions[..., part], dtype=np.int32)
            wanted = np.zeros(count, dtype=np.int8)
            wanted[-1] = part.stop == total
            batch = lib.llama_batch()
            batch.n_tokens = count
            own = np.ascontiguousarray(ids[part] if ids is not None else embeds[part])  # type: ignore[index]
            if ids is not None:
                batch.token = own.ctypes.data_as(ctypes.POINTER(lib.llama_token))
            else:
                batch.embd = own.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            batch.pos = place.ctypes.data_as(ctypes.POINTER(lib.llama_pos))
            batch.logits = wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
            self._decode(batch)

    def step(self, token: int, position: int) -> None:
        """Append one token; logits are kept of it."""
        self._decode(self.single.at(token, position))

    def _decode(self, batch: Any) -> None:
        started = time.process_time()
        code = self.lib.llama_decode(self.context, batch)
        self.lib.llama_synchronize(self.context)  # its counters end here, and not where the next batch begins
        self.cpu_s += time.process_time() - started
        if code:
            raise Refused(f"llama_decode gave code {code}" + (": the context is full" if code == 1 else ""))

    def logits(self) -> NDArray[np.float32]:
        """Those that follow what was fed last, (V,), in the library's own memory."""
        place = ctypes.addressof(self.lib.llama_get_logits_ith(self.context, -1).contents)
        if place != self._logits[0]:
            there = (ctypes.c_float * self.size).from_address(place)
            self._logits = place, np.frombuffer(there, np.float32)
        return self._logits[1]

    def show_logits(self) -> None:
        """Write them where the driver reads them."""
        self.shared.logits[:] = self.logits()

    def close(self) -> None:
        """Free what is held."""
        if self.vision:
            self.mtmd.mtmd_free(self.vision)
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)


class _Single:
    """A batch of one token, made once: making one costs a small model a percent of each token."""

    def __init__(self, lib: Any) -> None:
        self.token, self.position, self.wanted = lib.llama_token(), lib.llama_pos(), ctypes.c_int8(1)
        self.batch = lib.llama_batch()
        self.batch.n_tokens = 1
        self.batch.token, self.batch.pos = ctypes.pointer(self.token), ctypes.pointer(self.position)
        self.batch.logits = ctypes.pointer(self.wanted)

    def at(self, token: int, position: int) -> Any:
        """The batch with a token at a position."""
        self.token.value, self.position.value = token, position
        return self.batch


def _ggml_base() -> Any:
    """The library's lowest part, for tensors; llama-cpp-python itself does not show it."""
    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    name = next(
        (path for path in sorted(folder.glob("*ggml-base.*")) if path.suffix in (".so", ".dylib", ".dll")), None
    )
    if name is None:
        raise Refused("this llama-cpp-python has no ggml-base library")
    base = ctypes.CDLL(str(name))
    for verb, gives in (("ggml_op_desc", ctypes.c_char_p), ("ggml_get_data", ctypes.c_void_p)):
        getattr(base, verb).restype, getattr(base, verb).argtypes = gives, [ctypes.c_void_p]
    return base


def _whole(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Patches (rows, columns, 3 * edge * edge) -> the image (3, H, W) they were cut from."""
    rows, columns, size = patches.shape
    edge = math.isqrt(size // 3)
    parts = patches.reshape(rows, columns, 3, edge, edge).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(parts.reshape(3, rows * edge, columns * edge))
