"""Weight files (`weight.bin`) of Core ML packages, memory-mapped.

Layout, as in coremltools' mlmodel/src/MILBlob/Blob/StorageFormat.hpp: a header of 64 bytes (count, version 2); each
value has 64 bytes of its own (sentinel, type, size, offset of its bytes, bits of padding) at the offset programs name.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import BundleError
from edgekit.files import inside
from edgekit.formats.coreml.mil.stored import Packed
from edgekit.formats.coreml.mil.values import DType, from_bytes

_HEADER = 64
_SENTINEL = 0xDEADBEEF
_ENTRY = struct.Struct("<IIQQQ")


class Weights:
    """The weight files of one package, opened on first use and never read as a whole."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the model file: what programs call @model_path."""
        self.folder = folder
        self._files: dict[str, Any] = {}

    def read(self, name: str, offset: int, dtype: DType, shape: tuple[int, ...]) -> Any:
        """One stored value, a tensor that shares the file's memory where its type allows (see `from_bytes`).

        Of types of less than a byte it is left as it lies there.

        Raises:
            BundleError: the file is missing or cut short, or has something else at that offset.
        """
        data = self._open(name)
        where = f"{name} at {offset}"
        if offset + _HEADER > len(data):
            raise BundleError(f"The weight file {where} is cut short.", fix="Copy or export the package again.")
        sentinel, kind, size, start, _ = _ENTRY.unpack(data[offset : offset + _ENTRY.size].tobytes())
        if sentinel != _SENTINEL or kind != dtype.blob:
            raise BundleError(f"The weight file {where} holds no {dtype.name}.", fix="Export the package again.")
        if min(shape, default=0) < 0 or start + size > len(data) or size < -(-math.prod(shape) * dtype.bits // 8):
            raise BundleError(
                f"The weight file {where} is cut short.",
                why=f"A {dtype.name} {list(shape)} starts at {start}; the file has {len(data)} bytes.",
                fix="Copy or export the package again.",
            )
        if dtype.bits < 8:
            return Packed(data[start : start + size], dtype, shape)
        return from_bytes(data[start : start + size], dtype, shape)

    def check(self, name: str, offset: int, size: int) -> None:
        """Look whether a stored value can be there, without reading it.

        Raises:
            BundleError: the file is missing or cut short.
        """
        if offset + _HEADER + size > len(self._open(name)):
            raise BundleError(
                f"The weight file {name} at {offset} is cut short.", fix="Copy or export the package again."
            )

    def _open(self, name: str) -> Any:
        if name not in self._files:
            path = inside(self.folder, name.removeprefix("@model_path/"))
            if not path.is_file():
                raise BundleError(f"The weight file {path} is missing.", fix="Copy or export the package again.")
            if path.stat().st_size < _HEADER:
                raise BundleError(f"The weight file {path} is cut short.", fix="Copy or export the package again.")
            # Copy on write, so that PyTorch may hold it; nothing here writes into it.
            self._files[name] = np.memmap(path, dtype=np.uint8, mode="c")
        return self._files[name]
