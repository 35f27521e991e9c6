"""The header of a GGUF file, read within its bounds: counts, lengths, types and places are looked at before they are
followed. llama.cpp and its Python reader believe what stands there.

Layout, of github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgekit.bundle_checks import MOST_SIZE
from edgekit.errors import BundleError

MAGIC, VERSIONS = b"GGUF", (2, 3)
MOST_FIELDS = MOST_TENSORS = 1 << 16
MOST_KEY, MOST_NAME, MOST_AXES = 1 << 12, 64, 4  # GGML_MAX_NAME, GGML_MAX_DIMS; a key has 65,535 bytes by the standard
MOST_KEPT = 4096
"""Entries of a list that are kept; of a longer one, and of texts, the count alone."""
MOST_TEXTS = 1 << 22
"""Of one list: vocabularies and their merges have some 500,000."""
SCALARS = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
TEXT, LIST = 8, 9
WORD, COUNT = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class Listed:
    """A list of a header: how many entries, and those that were kept."""

    count: int
    kept: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Stored:
    """A tensor as a header describes it.

    Attributes:
        shape: The outermost axis first, as NumPy has it.
        kind: Number of its type in ggml.
    """

    shape: tuple[int, ...]
    kind: int


@dataclass(frozen=True)
class Header:
    """What stands before a file's tensors."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Stored]

    def number(self, key: str) -> int | None:
        """A whole number; None where there is none of that name."""
        found = self.fields.get(key)
        return found if isinstance(found, int) and not isinstance(found, bool) else None


def read_header(path: Path) -> Header:
    """Read a file's header, and look whether each tensor lies in the file.

    Raises:
        MissingExtraError: gguf is not installed.
        BundleError: it is no GGUF file, or says what cannot be.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header()
    except ValueError as error:  # an empty file cannot be mapped
        raise BundleError(f"{path} is no GGUF file.", why=str(error), fix="Copy or export the bundle again.") from error


class _Reader:
    """A place in a file that moves on, and never past its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._size, self._at = path, data, len(data), 0

    def header(self) -> Header:
        if self._data[:4] != MAGIC:
            self._refuse(f"it begins with {self._data[:4]!r}")
        self._at = 4
        version = self._number(WORD)
        if version not in VERSIONS:
            self._refuse(f"its version is {version}, and known are {', '.join(map(str, VERSIONS))}")
        tensors, fields = self._number(COUNT), self._number(COUNT)
        self._within("n_tensors", tensors, MOST_TENSORS)
        self._within("n_kv", fields, MOST_FIELDS)
        values = self._fields(fields)
        listed = self._tensors(tensors)
        self._check_places(values.get("general.alignment", 32), listed)
        return Header(self._path, values, {name: stored for name, (stored, _) in listed.items()})

    def _fields(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self._text("a key", MOST_KEY)
            if key in found:
                self._refuse(f"the key {key[:80]!r} stands twice")
            found[key] = self._value(key, self._number(WORD))
        return found

    def _value(self, key: str, kind: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == TEXT:
            return self._text(key, self._size)
        if kind != LIST:
            self._refuse(f"{key[:80]}: {kind} is no type of values")
        inner, count = self._number(WORD), self._number(COUNT)
        if inner == TEXT:
            self._within(f"{key[:80]}: entries", count, min(MOST_TEXTS, (self._size - self._at) // COUNT.size))
            for _ in range(count):
                self._skip(key, self._number(COUNT))
            return Listed(count)
        if inner not in SCALARS:
            self._refuse(f"{key[:80]}: {inner} is no type of entries")
        packed = SCALARS[inner]
        start = self._at
        self._skip(key, count * packed.size)
        kept = self._data[start : start + packed.size * min(count, MOST_KEPT)]
        return Listed(count, tuple(one for (one,) in packed.iter_unpack(kept)))

    def _tensors(self, count: int) -> dict[str, tuple[Stored, int]]:
        found: dict[str, tuple[Stored, int]] = {}
        for _ in range(count):
            name = self._text("the name of a tensor", MOST_NAME)
            if name in found:
                self._refuse(f"the tensor {name!r} stands twice")
            axes = self._number(WORD)
            self._within(f"{name}: axes", axes, MOST_AXES)
            sizes = [self._number(COUNT) for _ in range(axes)]
            for size in sizes:
                self._within(f"{name}: size", size, MOST_SIZE)
            kind = self._number(WORD)
            found[name] = Stored(tuple(reversed(sizes)), kind), self._number(COUNT)
        return found

    def _check_places(self, alignment: Any, listed: dict[str, tuple[Stored, int]]) -> None:
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            self._refuse(f"general.alignment: {alignment!r:.40} is no power of two")
        start = -(-self._at // alignment) * alignment
        sizes = _sizes()
        for name, (stored, offset) in listed.items():
            if stored.kind not in sizes:
                self._refuse(f"{name}: {stored.kind} is no type of tensors")
            block, size = sizes[stored.kind]
            if stored.shape and stored.shape[-1] % block:
                self._refuse(f"{name}: rows of {stored.shape[-1]:,} numbers are no blocks of {block}")
            taken = math.prod(stored.shape) // block * size
            if offset % alignment or start + offset + taken > self._size:
                self._refuse(f"{name}: {taken:,} bytes at {offset:,} do not lie in the file of {self._size:,}")

    def _number(self, packed: struct.Struct) -> Any:
        at = self._at
        self._skip("a number", packed.size)
        return packed.unpack_from(self._data, at)[0]

    def _text(self, what: str, most: int) -> str:
        size = self._number(COUNT)
        self._within(f"{what[:80]}: bytes", size, most)
        at = self._at
        self._skip(what, size)
        return self._data[at : at + size].decode(errors="replace")

    def _skip(self, what: str, size: int) -> None:
        if size > self._size - self._at:
            self._refuse(f"{what[:80]}: {size:,} bytes at {self._at:,} go past its end at {self._size:,}")
        self._at += size

    def _within(self, what: str, value: int, most: int) -> None:
        if value > most:
            self._refuse(f"{what}: {value:,} is more than {most:,}")

    def _refuse(self, why: str) -> NoReturn:
        raise BundleError(f"{self._path} is no GGUF file, or damaged.", why=why, fix="Copy or export the bundle again.")


def _sizes() -> dict[int, tuple[int, int]]:
    """Numbers and bytes of a block of each type."""
    from edgekit.formats.gguf.process import check_packages

    check_packages("read a GGUF file")
    import gguf

    return {int(kind): (int(block), int(size)) for kind, (block, size) in gguf.GGML_QUANT_SIZES.items()}
