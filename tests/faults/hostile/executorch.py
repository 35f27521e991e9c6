"""ExecuTorch programs that are damaged, and manifests that do not fit them."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator

from hostile.changes import Change, file

PROGRAM = "model.pte"
FAR = (1 << 64) - 1
SEEDS = 40
ROOT, EXTENDED = 0, 8
"""Where the flatbuffer's root offset is, and ExecuTorch's own header: "eh00", its length, size of the program, start of
the segments."""


def cases() -> Iterator[tuple[str, Change]]:
    """Name and change of each."""
    yield "program garbage", file(PROGRAM, b"\xff" * 5000)
    yield "program empty", file(PROGRAM, b"")
    yield "program zeros", file(PROGRAM, lambda data: b"\0" * len(data))
    yield "program of four bytes", file(PROGRAM, b"ET12")
    for size in (8, 16, 40, 64, 200, 5000):
        yield f"program cut at {size}", file(PROGRAM, lambda data, size=size: data[:size])
    for share in (0.1, 0.5, 0.9, 0.999):
        yield f"program cut at {share} of it", file(PROGRAM, lambda data, share=share: data[: int(share * len(data))])
    yield "program zeros at its end", file(PROGRAM, lambda data: data[:-1000] + b"\0" * 1000)
    yield "a program of another kind", file(PROGRAM, lambda data: data[:4] + b"XX12" + data[8:])
    for offset in (0, 1, 3, 1 << 16, 1 << 31, (1 << 32) - 4):
        yield f"a root at {offset}", file(PROGRAM, lambda data, at=offset: _at(data, ROOT, "<I", at))
    for size in (0, 1 << 20, 1 << 62, FAR):
        yield f"a program of {size} bytes", file(PROGRAM, lambda data, size=size: _at(data, EXTENDED + 8, "<Q", size))
        yield f"segments at {size}", file(PROGRAM, lambda data, size=size: _at(data, EXTENDED + 16, "<Q", size))
    for seed in range(SEEDS):
        yield f"program flipped {seed}", file(PROGRAM, lambda data, seed=seed: _flipped(data, seed))
        yield f"program of wild words {seed}", file(PROGRAM, lambda data, seed=seed: _wild(data, seed))
        yield f"delegates of wild words {seed}", file(PROGRAM, lambda data, seed=seed: _delegates(data, seed))


def _at(data: bytes, place: int, code: str, value: int) -> bytes:
    packed = struct.pack(code, value)
    return data[:place] + packed + data[place + len(packed) :]


def _structure(data: bytes) -> int:
    """Bytes of the flatbuffer, before the weights."""
    size: int = struct.unpack_from("<Q", data, EXTENDED + 8)[0]
    return min(size, len(data))


def _flipped(data: bytes, seed: int, count: int = 20) -> bytes:
    """Some bits of the flatbuffer turned over."""
    drawn, found = random.Random(seed), bytearray(data)
    for _ in range(count):
        found[drawn.randrange(32, _structure(data))] ^= 1 << drawn.randrange(8)
    return bytes(found)


def _wild(data: bytes, seed: int, count: int = 4) -> bytes:
    """Some words of it as large as can be, as offsets and lengths are words."""
    drawn, found = random.Random(seed), bytearray(data)
    for _ in range(count):
        place = drawn.randrange(32, _structure(data) - 4) // 4 * 4
        struct.pack_into("<I", found, place, drawn.choice((0, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFF0000, len(data))))
    return bytes(found)


def _delegates(data: bytes, seed: int) -> bytes:
    """As `_wild`, in the graphs that XNNPACK reads: their header says where each begins and how long it is."""
    drawn, found = random.Random(seed), bytearray(data)
    graphs = []
    for one in re.finditer(b"XH00", data):
        offset, size = struct.unpack_from("<II", data, one.start() + 6)
        graphs.append((one.start() - 4 + offset, size))
    for _ in range(3):
        start, size = drawn.choice(graphs)
        place = drawn.randrange(start, start + max(8, size)) // 4 * 4
        struct.pack_into("<I", found, place, drawn.choice((4, 1 << 20, 0x7FFFFFFF, 0xFFFF0000, 0xFFFFFFFF)))
    return bytes(found)
