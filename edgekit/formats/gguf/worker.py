"""llama.cpp in a process of its own: `python -m edgekit.formats.gguf.worker`, driven over its standard streams.

Messages are those of `edgekit.formats.gguf.wire`. What the library prints goes to standard error, which the
driver keeps: when the library ends the process, its last lines say why.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.gguf.wire import FAILED, NOT_FINITE, Arrays, Shared, receive, send
from edgekit.formats.gguf.wire import Message as Reply
from edgekit.system.machine import peak_memory_bytes

MARKER = "<__media__>"


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
        _KEPT.append(callback)
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


class Worker:
    """What the driver may ask; each method is one verb."""

    def __init__(self) -> None:
        self._model: Model | None = None

    @property
    def model(self) -> Model:
        """The loaded model."""
        if self._model is None:
            raise Refused("no model is loaded")
        return self._model

    def open(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Load files."""
        self._model = Model(head)
        return self._model.about(), []

    def encode(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Each uint8 image (H, W, 3) -> (N, width): the last image chunk, which is the whole image."""
        found = []
        for image in arrays:
            with self.model.chunks(MARKER, [image]) as chunks:
                images = [chunk for kind, chunk in chunks if kind == self.model.mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE]
                found.append(self.model.encode_chunk(images[-1]))
        return {}, found

    def pixels(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Images of any size as mtmd cuts, resizes and normalises them: (3, H, W) each, in its order."""
        found = []
        with self.model.chunks(MARKER * len(arrays), arrays) as chunks:
            for kind, chunk in chunks:
                if kind == self.model.mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                    found += self.model.pixels(chunk)
        return {}, found

    def own(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """A prompt as llama.cpp's own programs cut and see it: ids, the image's as -1; its logits if evaluated."""
        model, mtmd = self.model, self.model.mtmd
        ids: list[int] = []
        position = 0
        started = time.perf_counter()
        with model.chunks(head["text"], arrays) as chunks:
            for kind, chunk in chunks:
                if kind == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                    ids += [-1] * mtmd.mtmd_input_chunk_get_n_tokens(chunk)
                else:
                    size = ctypes.c_size_t()
                    ids += mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(size))[: size.value]
                if head["evaluate"]:
                    position = self._evaluate(chunk, position)
        if head["evaluate"]:
            model.show_logits()
        return {"ids": ids, "position": position, "ms": 1000 * (time.perf_counter() - started)}, []

    def _evaluate(self, chunk: Any, position: int) -> int:
        """Append a chunk to the cache; the position after it."""
        model, after = self.model, self.model.lib.llama_pos(position)  # it counts on from what is there
        code = model.mtmd.mtmd_helper_eval_chunk_single(
            model.vision, model.context, chunk, position, 0, model.batch, True, ctypes.byref(after)
        )
        if code:
            raise Refused(f"mtmd does not evaluate the prompt: code {code}")
        return int(after.value)

    def tokenize(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Ids of a text by llama.cpp's own tokenizer."""
        raw = head["text"].encode()
        room = len(raw) + 8
        out = (self.model.lib.llama_token * room)()
        count = self.model.lib.llama_tokenize(self.model.vocab, raw, len(raw), out, room, False, True)
        return {"ids": list(out[: max(count, 0)])}, []

    def tokens(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Append ids (T,) at positions (T,)."""
        ids, places = arrays
        if len(ids) == 1:
            self.model.step(int(ids[0]), int(places[0]))
        else:
            self.model.feed(ids, None, places)
        if head["logits"]:
            self.model.show_logits()
        return {}, []

    def each(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Append ids (T,) at positions (T,) one by one."""
        for token, place in zip(*(array.tolist() for array in arrays), strict=True):
            self.model.step(token, place)
        self.model.show_logits()
        return {}, []

    def greedy(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Append a token, then the best token after it, and so on; each best one is put where the driver looks.

        It ends behind an end token, at the limit, and where the driver has enough. The reply says how many were
        appended.
        """
        model, shared, ends = self.model, self.model.shared, frozenset(head["ends"])
        token, fed = int(head["token"]), 0
        try:
            while fed < head["limit"] and not shared.enough[0]:
                started = time.perf_counter()
                model.step(token, head["position"] + fed)
                logits = model.logits()
                token = int(logits.argmax())
                if not math.isfinite(logits[token]):
                    token = NOT_FINITE
                shared.put(fed, token, time.perf_counter() - started)
                fed += 1
                if token < 0 or token in ends:
                    break
        except Refused:
            shared.put(fed, FAILED, 0.0)
            raise
        return {"fed": fed}, []

    def embeds(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Append embeddings (T, width) at positions (T,), or (4, T) with M-RoPE."""
        self.model.feed(None, arrays[0], arrays[1])
        if head["logits"]:
            self.model.show_logits()
        return {}, []

    def cut(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Forget what stands at a position and behind it; 0 forgets all."""
        lib = self.model.lib
        if head["position"] == 0:
            lib.llama_memory_clear(self.model.memory, True)
            return {"done": True}, []
        return {"done": bool(lib.llama_memory_seq_rm(self.model.memory, 0, head["position"], -1))}, []

    def perf(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """llama.cpp's own counters since the last call, and the processor time of `llama_decode`."""
        found = self.model.lib.llama_perf_context(self.model.context)
        self.model.lib.llama_perf_context_reset(self.model.context)
        names = ("t_p_eval_ms", "t_eval_ms", "n_p_eval", "n_eval")
        cpu_ms, self.model.cpu_s = 1000 * self.model.cpu_s, 0.0
        return {**{name: getattr(found, name) for name in names}, "cpu_ms": cpu_ms}, []

    def memory(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """High-water mark of this process's resident memory."""
        return {"bytes": peak_memory_bytes()}, []

    def quantize(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """A GGUF in another type; arrays are importances of columns, by the names in `importance`."""
        from llama_cpp import llama_cpp

        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = head["ftype"], head["threads"]
        for field in ("token_embedding_type", "output_tensor_type"):
            if head[field] is not None:
                setattr(params, field, head[field])
        values = [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
        # The list ends with an entry without a name.
        matrix = (llama_cpp.llama_model_imatrix_data * (len(values) + 1))()
        for entry, name, value in zip(matrix, head["importance"], values, strict=False):
            entry.name, entry.size = name.encode(), value.size
            entry.data = value.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if values:
            params.imatrix = matrix
        code = llama_cpp.llama_model_quantize(head["source"].encode(), head["out"].encode(), ctypes.byref(params))
        if code:
            raise Refused(f"llama_model_quantize gave code {code}")
        return {}, []

    def close(self, head: dict[str, Any], arrays: Arrays) -> Reply:
        """Free the model."""
        if self._model is not None:
            self._model.close()
            self._model = None
        return {}, []


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


def _quiet() -> None:
    """Keep the library's warnings and errors, drop its chatter; the driver asks for all of it to read fallbacks."""
    from llama_cpp import llama_cpp, mtmd_cpp

    lowest = int(os.environ.get("EDGEKIT_LLAMA_LOG", "3"))
    level_now = [lowest]

    def show(level: int, text: bytes, _: Any) -> None:
        if level != 5:  # a line that goes on has the level of its start
            level_now[0] = level
        if level_now[0] >= lowest:
            os.write(2, text)

    callback = llama_cpp.llama_log_callback(show)
    _KEPT.append(callback)
    llama_cpp.llama_log_set(callback, None)
    mtmd_cpp.mtmd_log_set(callback, None)
    mtmd_cpp.mtmd_helper_log_set(callback, None)


_KEPT: list[Any] = []  # ctypes callbacks live as long as they are referred to


def main() -> int:
    """Answer until the driver closes the stream."""
    source = os.fdopen(os.dup(0), "rb", buffering=1 << 20)
    sink = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # whatever the library prints must not stand between messages
    from llama_cpp import llama_cpp

    _quiet()
    llama_cpp.llama_backend_init()
    worker = Worker()
    while (message := receive(source)) is not None:
        head, arrays = message
        verb: Callable[[dict[str, Any], Arrays], Reply] = getattr(worker, head.pop("verb"))
        try:
            reply, out = verb(head, arrays)
        except Refused as error:
            reply, out = {"refused": str(error)}, []
        send(sink, reply, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
