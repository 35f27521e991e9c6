"""llama.cpp behind a pipe: what the export's parity run, quantisation and the runtime share.

The library ends its process on what it does not expect (a missing vocabulary piece, a broken file, a fault in a
kernel), so it has one of its own here, and such an end becomes an error with its last lines.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Generator, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, MissingExtraError
from edgekit.files import write_json
from edgekit.formats.gguf.shared import FAILED, NOT_FINITE, Shared
from edgekit.system.frames import numbered, pack, unpack
from edgekit.system.pipes import Patience
from edgekit.system.process import Process, ending
from edgekit.system.temporary import room

PACKAGES = {"gguf": "gguf", "llama_cpp": "llama-cpp-python"}  # import name -> distribution
EXTRA = "gguf"
BATCH = 2048  # tokens a call of the library takes at most
CONTEXT = 8192  # tokens the cache holds, unless the model knows fewer positions
LAST_LINES = 6


def check_packages(action: str) -> None:
    """Whether the extra is installed.

    Raises:
        MissingExtraError: it is not.
    """
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            raise MissingExtraError(action, package, EXTRA)


class LlamaProcess:
    """One process of the library; usable until it is closed, or until the library ends it."""

    def __init__(self, *, log_level: int = 3) -> None:
        """Start it.

        Args:
            log_level: Least important lines of the library that are kept: 2 information, 3 warnings, 4 errors.
        """
        # Limits of time are those of the worker that has it: its phases are known there.
        self._process = Process("edgekit.formats.gguf.worker", env={"EDGEKIT_LLAMA_LOG": str(log_level)})
        self.pid = self._process.pid

    def ask(self, verb: str, *arrays: NDArray[Any], **head: Any) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """One question.

        Args:
            verb: Method of `edgekit.formats.gguf.worker.Worker`.
            arrays, head: What it takes.

        Returns:
            Its reply.

        Raises:
            BundleError: the library refuses, or its process ended; the library's last lines are in it.
        """
        self.tell(verb, list(arrays), **head)
        return self.hear(verb)

    def tell(self, verb: str, arrays: list[NDArray[Any]], **head: Any) -> None:
        """A question whose replies are read by `hear`."""
        # A process that has ended is found out where its reply is read.
        with contextlib.suppress(BrokenPipeError):
            for piece in pack({"verb": verb, **head}, numbered(arrays)):
                self._process.write(piece, Patience(math.inf))

    def hear(self, verb: str) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """The next reply; errors as of `ask`."""
        try:
            reply, arrays = unpack(lambda place: self._process.read_into(place, Patience(math.inf)))
        except EOFError as error:
            how = ending(self._process.wait_end())
            raise BundleError(
                f"llama.cpp's process {how} at {verb!r}.", why=self.last_lines() or "It said nothing."
            ) from error
        if "refused" in reply:
            raise BundleError(f"{reply['refused']}.", why=self.last_lines())
        return reply, list(arrays.values())

    def ended(self) -> bool:
        """Whether it has."""
        return self._process.ended()

    def log(self) -> str:
        """All that the library printed."""
        return self._process.all_printed()

    def last_lines(self) -> str:
        """The end of what the library printed."""
        return "\n".join([line.strip() for line in self._process.printed() if line.strip()][-LAST_LINES:])

    def close(self) -> None:
        """End the process."""
        self._process.end()

    def __enter__(self) -> LlamaProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class LlamaModel:
    """A loaded text model and its mmproj."""

    def __init__(
        self,
        model: Path,
        mmproj: Path | None,
        *,
        threads: int,
        context: int = CONTEXT,
        exact: bool = False,
        image_tokens: tuple[int, int] | None = None,
        extra_bufts: bool = False,
        watch: bool = False,
    ) -> None:
        """Load files.

        Args:
            model, mmproj: GGUF files.
            threads: For prompts, single tokens and images.
            context: Tokens the cache holds.
            exact: A cache in float32 and plain attention, where llama.cpp would take float16 and its fused one.
            image_tokens: Least and most tokens of an image, where mtmd is not to go by its own.
            extra_bufts: Let llama.cpp repack weights for this processor.
            watch: For `pixels` only; images are not encoded then.

        Raises:
            BundleError: llama.cpp does not load them.
        """
        self.process, self._pause_s = LlamaProcess(), 5e-4
        try:
            with room("llama", _memory()) as shared:
                logits = shared / "logits"
                self.about, _ = self.process.ask(
                    "open", model=str(model), mmproj=None if mmproj is None else str(mmproj), threads=threads,
                    context=context, batch=min(BATCH, context), exact=exact, image_tokens=image_tokens,
                    extra_bufts=extra_bufts, watch=watch, shared=str(logits),
                )  # fmt: skip
                self._shared = Shared(logits, self.about["vocab_size"], context, make=False)
            # The file is gone, and both have it mapped.
        except BaseException:
            self.process.close()
            raise

    def encode(self, images: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Each image (H, W, 3), of a size that mtmd leaves as it is, -> (N, width)."""
        return self.process.ask("encode", *images)[1]

    def feed_tokens(
        self, ids: NDArray[Any], positions: NDArray[Any], logits: bool = True
    ) -> NDArray[np.float32] | None:
        """Append ids (T,) at positions (T,); the logits (V,) that follow, if they are wanted."""
        self.process.ask("tokens", ids.astype(np.int32), positions.astype(np.int32), logits=logits)
        return np.array(self._shared.logits) if logits else None

    def feed_each(self, ids: NDArray[Any], positions: NDArray[Any]) -> NDArray[np.float32]:
        """Append ids (T,) at positions (T,) one by one; the logits (V,) that follow the last."""
        self.process.ask("each", ids.astype(np.int32), positions.astype(np.int32))
        return np.array(self._shared.logits)

    def greedy(
        self, token: int, position: int, limit: int, ends: Iterable[int]
    ) -> Generator[tuple[int, float], None, None]:
        """Append a token at a position, then the best token after it behind it, and so on, in llama.cpp's process.

        Args:
            token, position: The first, and where it stands.
            limit: How many to append at most.
            ends: Tokens that end it when they come.

        Yields:
            Each best token, not appended yet, and the milliseconds of its step; NOT_FINITE for logits that are not.
            When the iterator is closed, what was appended behind the last token that was taken is forgotten.
        """
        self._shared.clear()
        self.process.tell("greedy", [], token=token, position=position, limit=limit, ends=sorted(ends))
        taken = 0
        try:
            while taken < limit:
                best, milliseconds = self._wait(taken)
                if best == FAILED:
                    break
                taken += 1
                yield best, milliseconds
                if best == NOT_FINITE or best in ends:
                    break
        finally:
            self._shared.enough[0] = 1
            fed = self.process.hear("greedy")[0]["fed"]
            if fed > taken:
                self.cut(position + taken)

    def _wait(self, number: int) -> tuple[int, float]:
        """A greedy answer's token, or FAILED where none comes; looked for four times in the time of the last one."""
        while (found := self._shared.take(number)) is None:
            if self.process.ended():
                return FAILED, 0.0
            time.sleep(self._pause_s)
        self._pause_s = min(max(found[1] / 4000, 2e-4), 5e-3)
        return found

    def feed_embeds(
        self, embeds: NDArray[np.float32], positions: NDArray[Any], logits: bool = True
    ) -> NDArray[np.float32] | None:
        """Append embeddings (T, width) at positions (T,), or (3, T) with M-RoPE; the logits (V,) that follow."""
        if positions.ndim == 2:  # llama.cpp's fourth axis is for others
            positions = np.concatenate([positions, np.zeros_like(positions[:1])])
        self.process.ask("embeds", embeds.astype(np.float32, copy=False), positions.astype(np.int32), logits=logits)
        return np.array(self._shared.logits) if logits else None

    def cut(self, position: int) -> bool:
        """Forget what stands at a position and behind it; whether that could be done."""
        return bool(self.process.ask("cut", position=position)[0]["done"])

    def tokenize(self, text: str) -> list[int]:
        """Ids by llama.cpp's own tokenizer, special tokens recognised."""
        ids: list[int] = self.process.ask("tokenize", text=text)[0]["ids"]
        return ids

    def own(
        self, text: str, images: list[NDArray[np.uint8]], *, evaluate: bool = False
    ) -> tuple[list[int], int, NDArray[np.float32] | None]:
        """A prompt as llama.cpp's own programs see it.

        Args:
            text: With `<__media__>` where an image stands.
            images: (H, W, 3) each, of any size.
            evaluate: Append it to the cache.

        Returns:
            Ids, -1 for an image's; the position after them and the logits (V,) that follow, if evaluated.
        """
        reply, _ = self.process.ask("own", *images, text=text, evaluate=evaluate)
        return reply["ids"], reply["position"], np.array(self._shared.logits) if evaluate else None

    def pixels(self, images: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Images (H, W, 3) of any size as mtmd cuts, resizes and normalises them: (3, H, W) each, in its order.

        A float16 convolution has rounded them. The model must have been opened with `watch`.
        """
        return self.process.ask("pixels", *images)[1]

    def perf(self) -> dict[str, float]:
        """llama.cpp's own counters since the last call: t_p_eval_ms, t_eval_ms, n_p_eval, n_eval; and cpu_ms, the
        processor time of its decoding.
        """
        return self.process.ask("perf")[0]

    def peak_memory_bytes(self) -> int:
        """High-water mark of the process's resident memory."""
        return int(self.process.ask("memory")[0]["bytes"])

    def close(self) -> None:
        """End the process."""
        self.process.close()


def _memory() -> Path | None:
    """Where files are kept in memory; None for the usual place of temporary files."""
    place = Path("/dev/shm")
    return place if os.access(place, os.W_OK) else None


def repacking_works(model: Path, kind: str, cache: Path | None = None) -> bool:
    """Whether llama.cpp runs a file with weights repacked for this processor; it crashes on some.

    Tried once for each version of the library, processor and type of file, in a process of its own, and remembered.

    Args:
        model: A text model.
        kind: Its type, such as Q4_0.
        cache: Where the answer is kept; the user's cache folder by default.
    """
    cache = cache or _cache_file()
    key = f"{version('llama-cpp-python')} {_processor()} {kind}"
    known = _known(cache)
    if key in known:
        return known[key]
    works = _try_repacked(model)
    if not works and not _try_repacked(model, extra_bufts=False):
        return False  # the file is at fault, and says nothing of others; loading it will say what is wrong
    known[key] = works
    try:
        write_json(cache, known)
    except (OSError, BundleError):
        return works  # a cache that cannot be written is tried again next time
    return works


def _try_repacked(model: Path, *, extra_bufts: bool = True) -> bool:
    try:
        loaded = LlamaModel(model, None, threads=1, context=256, extra_bufts=extra_bufts)
        try:
            # A prompt and a token take different kernels.
            prompt = loaded.feed_tokens(np.ones(40, np.int32), np.arange(40))
            token = loaded.feed_tokens(np.ones(1, np.int32), np.array([40]))
        finally:
            loaded.close()
    except BundleError:
        return False
    return all(logits is not None and bool(np.isfinite(logits).all()) for logits in (prompt, token))


def _known(cache: Path) -> dict[str, bool]:
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, bool)} if isinstance(found, dict) else {}


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgekit" / "llamacpp.json"


def _processor() -> str:
    """Names what decides which kernels llama.cpp takes."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = {"model name", "flags", "Features"}
    found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    from edgekit.files import sha256_json

    return f"{platform.machine()} {sha256_json({name: found[name] for name in sorted(wanted & set(found))})[:12]}"
