"""GGUF files whose headers lie, and manifests that do not fit them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from hostile.changes import Change, both, field, file

TEXT, VISION = "text_decoder", "vision_encoder"
HUGE, FAR = 1 << 60, (1 << 64) - 1
N_TENSORS, N_FIELDS, FIRST_KEY = 8, 16, 24
TABLE = b"token_embd.weight"


def cases() -> Iterator[tuple[str, Change]]:
    """Name and change of each."""
    yield from _files()
    yield from _headers()
    yield from _tensors()
    yield from _models()
    yield from _images()
    yield from _manifests()


def _files() -> Iterator[tuple[str, Change]]:
    for name in (TEXT, VISION):
        yield f"{name} garbage", file(name, b"\xff" * 5000)
        yield f"{name} empty", file(name, b"")
        yield f"{name} the magic word alone", file(name, b"GGUF")
        for size in (12, 20, 30, 200, 3000):
            yield f"{name} cut at {size}", file(name, lambda data, size=size: data[:size])
        yield f"{name} cut in half", file(name, lambda data: data[: len(data) // 2])
        yield f"{name} cut a little", file(name, lambda data: data[:-64])
        yield f"{name} zeros at its end", file(name, lambda data: data[:-1000] + b"\0" * 1000)
        yield f"{name} zeros from its header on", file(name, lambda data: data[:24] + b"\0" * 100_000)
        yield f"{name} a GGUF of nothing", file(name, lambda data: b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + b"\0" * 64)
    yield "counts of more than there is", file(TEXT, b"GGUF" + struct.pack("<IQQ", 3, HUGE, HUGE))
    yield "a big-endian file", file(TEXT, lambda data: data[:4] + data[4:8][::-1] + data[8:])


def _headers() -> Iterator[tuple[str, Change]]:
    for size in (0, 1, 1000, 65_536, HUGE, FAR):
        yield f"n_kv {size}", _put(N_FIELDS, "<Q", size)
        yield f"n_tensors {size}", _put(N_TENSORS, "<Q", size)
    for size in (0, 4096, 1 << 31, HUGE, FAR):
        yield f"a key of {size} bytes", _put(FIRST_KEY, "<Q", size)
        yield f"a text of {size} bytes", _value(b"general.architecture", "<Q", size)
        yield f"{size} tokens", _value(b"tokenizer.ggml.tokens", "<Q", size, 4)
        yield f"{size} kinds of tokens", _value(b"tokenizer.ggml.token_type", "<Q", size, 4)
        yield f"{size} merges", _value(b"tokenizer.ggml.merges", "<Q", size, 4)
        yield f"a token of {size} bytes", _value(b"tokenizer.ggml.tokens", "<Q", size, 12)
    for kind in (9, 13, 99, FAR >> 32):
        yield f"entries of type {kind}", _value(b"tokenizer.ggml.tokens", "<I", kind)
        yield f"a value of type {kind}", _value(b"general.architecture", "<I", kind, -4)
    yield "a key twice", file(TEXT, lambda data: data.replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.tokens", 1))
    yield "another version", _put(4, "<I", 99)


def _tensors() -> Iterator[tuple[str, Change]]:
    """The entry of the embedding table: name, axes, two sizes, type, offset."""
    yield "a tensor's name of many bytes", _value(TABLE, "<Q", HUGE, -len(TABLE) - 8)
    yield "a tensor of no name", _value(TABLE, "<Q", 0, -len(TABLE) - 8)
    for axes in (0, 1, 3, 5, 1 << 31):
        yield f"a tensor of {axes} axes", _value(TABLE, "<I", axes)
    for size in (0, 1, 33, 1 << 31, 1 << 62, FAR):
        yield f"a tensor {size} wide", _value(TABLE, "<Q", size, 4)
        yield f"a tensor of {size} rows", _value(TABLE, "<Q", size, 12)
    yield "a tensor of a size that turns over", both(_value(TABLE, "<Q", 1 << 31, 4), _value(TABLE, "<Q", 1 << 31, 12))
    for kind in (2, 8, 4, 31, 99, FAR >> 32):
        yield f"a tensor of type {kind}", _value(TABLE, "<I", kind, 20)
    for offset in (1, 32, 1 << 30, 1 << 62, FAR, FAR - 31):
        yield f"a tensor at {offset}", _value(TABLE, "<Q", offset, 24)


def _models() -> Iterator[tuple[str, Change]]:
    """Sizes that the model's tensors do not have."""
    keys = (
        "block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
        "attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size",
    )  # fmt: skip
    for key in keys:
        for size in (0, 1, 7, 1 << 20, (1 << 32) - 1):
            yield f"{key} {size}", _value(f"llama.{key}".encode(), "<I", size)
    yield "context_length 0", _value(b"llama.context_length", "<I", 0)
    for size in (1 << 20, (1 << 32) - 1):
        yield (
            f"a context of {size} on both sides",
            both(_value(b"llama.context_length", "<I", size), field("details.text.context", size)),
        )
    yield "an unknown architecture", file(TEXT, lambda data: data.replace(b"llama", b"xlama"))
    yield "an unknown tokenizer", file(TEXT, lambda data: data.replace(b"gpt2", b"xpt2"))
    yield "an end token far out", _value(b"tokenizer.ggml.eos_token_id", "<I", (1 << 32) - 1)
    yield "norms that are not finite", _value(b"llama.attention.layer_norm_rms_epsilon", "<f", float("nan"))
    yield "a tensor of another name", file(TEXT, lambda data: data.replace(b"blk.1.attn_k.", b"blk.1.attn_x."))
    yield "no table", file(TEXT, lambda data: data.replace(TABLE, TABLE[::-1]))


def _images() -> Iterator[tuple[str, Change]]:
    keys = (
        "image_size", "patch_size", "embedding_length", "feed_forward_length", "block_count", "attention.head_count",
        "projection_dim",
    )  # fmt: skip
    for key in keys:
        for size in (0, 1, 7, 1 << 20, (1 << 32) - 1):
            yield f"clip {key} {size}", _value(f"clip.vision.{key}".encode(), "<I", size, name=VISION)
    yield "an unknown projector", file(VISION, lambda data: data.replace(b"idefics3", b"xdefics3"))
    yield "no vision encoder", _value(b"clip.has_vision_encoder", "<B", 0, name=VISION)
    yield "a vision tensor of another name", file(VISION, lambda data: data.replace(b"v.blk.0.ln1", b"v.blk.0.lnx"))
    yield "the scale of pixels a list of another length", _value(b"clip.vision.image_std", "<Q", 1, 4, name=VISION)


def _manifests() -> Iterator[tuple[str, Change]]:
    for value in (0, -1, 1 << 31, 1 << 40, "x", None, 1.5, True, [1]):
        yield f"details context {value}", field("details.text.context", value)
    for value in ([1], [0, 1], [2, 1], [1, 1 << 40], "x", [1, "x"], {"a": 1}, [None, 1]):
        yield f"details image_tokens {value}", field("details.mmproj.image_tokens", value)
    yield "no details", field("details", {})
    yield "details text a list", field("details.text", [1])
    yield "a type of a million characters", field("details.text.type", "x" * 1_000_000)


def _put(at: int, code: str, value: float, name: str = TEXT) -> Change:
    """Other bytes at a place."""
    packed = struct.pack(code, value)
    return file(name, lambda data: data[:at] + packed + data[at + len(packed) :])


def _value(key: bytes, code: str, value: float, at: int = 0, name: str = TEXT) -> Change:
    """Another value of a key; its place is behind the key and, where `at` is 0 or more, behind the value's type.

    A tensor's entry has no type behind its name: there, places count from the name's end.
    """
    packed = struct.pack(code, value)
    skipped = 0 if key == TABLE or at < 0 else 4

    def change(data: bytes) -> bytes:
        (found,) = (one.end() for one in re.finditer(re.escape(struct.pack("<Q", len(key)) + key), data))
        place = found + skipped + (0 if at == -4 else at)
        return data[:place] + packed + data[place + len(packed) :]

    return file(name, change)
