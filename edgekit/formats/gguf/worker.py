"""llama.cpp in a process of its own: `python -m edgekit.formats.gguf.worker IN OUT`, two file descriptors.

Messages are those of `edgekit.system.frames`, their arrays in order. What the library prints goes where the driver
keeps it: when the library ends the process, its last lines say why.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.formats.gguf.library import KEPT, MARKER, Arrays, Model, Refused
from edgekit.formats.gguf.shared import FAILED, NOT_FINITE
from edgekit.system.frames import filled_from, numbered, send, unpack
from edgekit.system.machine import peak_memory_bytes

Reply = tuple[dict[str, Any], Arrays]


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
    KEPT.append(callback)
    llama_cpp.llama_log_set(callback, None)
    mtmd_cpp.mtmd_log_set(callback, None)
    mtmd_cpp.mtmd_helper_log_set(callback, None)


def main(incoming: int, outgoing: int) -> None:
    """Answer on two file descriptors until the driver closes its end."""
    from llama_cpp import llama_cpp

    _quiet()
    llama_cpp.llama_backend_init()
    worker = Worker()
    with os.fdopen(incoming, "rb", buffering=1 << 20) as source, os.fdopen(outgoing, "wb", buffering=1 << 20) as sink:
        fill = filled_from(source)
        while True:
            try:
                head, arrays = unpack(fill)
            except EOFError:
                return
            verb: Callable[[dict[str, Any], Arrays], Reply] = getattr(worker, head.pop("verb"))
            try:
                reply, out = verb(head, list(arrays.values()))
            except Refused as error:
                reply, out = {"refused": str(error)}, []
            send(sink, reply, numbered(out))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
