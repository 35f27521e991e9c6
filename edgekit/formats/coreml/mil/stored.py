"""Weights that stay as the file has them, and are made a few rows at a time wherever they are used.

The values are those of the `constexpr_*` operations of ops/constants.py, bit by bit; only when they are made differs.
A weight that no class here fits is made whole by its operation.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.formats.coreml.mil.values import DType, unpacked

TILE = 1 << 17  # numbers made at a time: with the float32 copy beside them 1 MiB, which stays in the cache
# The bits of a number, and of two as one, to be looked up together.
_PAIRS = {torch.float16: (torch.int16, torch.int32), torch.float32: (torch.int32, torch.int64)}
_SCRATCH = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory for a moment: what the last call of this name and type on this thread gave is written over.

    Memory that is asked for anew comes page by page from the kernel, which takes longer than filling it.
    """
    held, count, key = _SCRATCH.__dict__, math.prod(shape), f"{name} {dtype}"
    if key not in held or held[key].numel() < count:
        held[key] = torch.empty(count, dtype=dtype)
    found: Tensor = held[key][:count]
    return found.view(shape)


class Stored(ABC):
    """A value that is not made yet.

    Attributes:
        shape: Once it is made.
        dtype: Likewise.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def dense(self) -> Tensor:
        """The whole value, in memory of its own."""


class Packed(Stored):
    """Whole numbers of less than a byte, as they lie in the file.

    Attributes:
        data: uint8, flat.
        kind: Their type.
    """

    def __init__(self, data: NDArray[np.uint8], kind: DType, shape: tuple[int, ...]) -> None:
        self.data, self.kind, self.shape, self.dtype = data, kind, shape, kind.torch

    def dense(self) -> Tensor:
        """One byte for each number."""
        flat = unpacked(self.data, self.kind.bits, math.prod(self.shape), self.kind.signed)
        return torch.from_numpy(flat.reshape(self.shape))

    def by_rows(self) -> Tensor | None:
        """The bytes of each row (O, I bits / 8) of a matrix; None where rows do not begin with a byte."""
        return _by_rows(self.data, self.shape, self.kind.bits)


def _by_rows(data: NDArray[np.uint8], shape: tuple[int, ...], bits: int) -> Tensor | None:
    whole = {4: 2, 6: 4, 8: 1}.get(bits)  # numbers that fill whole bytes together, of the sizes that tables serve
    if len(shape) != 2 or whole is None or shape[1] % whole or not math.prod(shape):
        return None
    return torch.from_numpy(data[: math.prod(shape) * bits // 8].reshape(shape[0], -1))


class Rows(Stored):
    """A matrix (O, I) whose rows are made when they are used."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Rows (stop - start, I), in scratch memory that the next rows of any weight are written into."""

    def step(self) -> int:
        """Rows to make at a time."""
        return max(1, TILE // self.shape[1])

    def take(self, places: Tensor) -> Tensor:
        """The rows at places (N,), none of them negative: (N, I) in memory of their own."""
        out = torch.empty(len(places), self.shape[1], dtype=self.dtype)
        for at, place in enumerate(places.tolist()):
            out[at] = self.rows(place, place + 1)[0]
        return out

    def dense(self) -> Tensor:
        """All rows."""
        out = torch.empty(self.shape, dtype=self.dtype)
        for start in range(0, self.shape[0], self.step()):
            stop = min(self.shape[0], start + self.step())
            out[start:stop] = self.rows(start, stop)
        return out


class Scaled(Rows):
    """scale * (data - offset), rounded to the type of scale.

    Args:
        data: Bytes of each row, one number in each, or two.
        halves: Two: the 16 values that half a byte stands for; else None.
        scale: (O, G), one for I / G numbers beside each other.
        offset: Likewise, or None.
    """

    def __init__(self, data: Tensor, halves: Tensor | None, scale: Tensor, offset: Tensor | None) -> None:
        self._data, self._scale, self._offset = data, scale, offset
        self.shape, self.dtype = (data.shape[0], data.shape[1] * (1 if halves is None else 2)), scale.dtype
        self._table = None
        if halves is not None:
            self._table = _pairs(halves.to(scale.dtype).view(1, 16)).clone()

    def rows(self, start: int, stop: int) -> Tensor:
        """A product of float16 numbers in PyTorch is the float32 product rounded, and small whole numbers are exact."""
        data = self._data[start:stop]
        if self._table is None:
            made = scratch("whole", tuple(data.shape), torch.float32).copy_(data)
        else:
            made = _looked_up(scratch("places", tuple(data.shape), torch.int32).copy_(data), self._table, self.dtype)
        blocks = made.view(stop - start, self._scale.shape[1], -1)
        if self._offset is not None:
            blocks -= self._offset[start:stop, :, None].to(made.dtype)
        blocks *= self._scale[start:stop, :, None].to(made.dtype)
        if made.dtype is self.dtype:
            return made
        return scratch("made", tuple(made.shape), self.dtype).copy_(made)


class Palettes(Rows):
    """Numbers looked up in a palette that O / G outputs share.

    Args:
        data: Bytes of each row.
        bits: Of an index: 4, 6 or 8.
        tables: (G, 2^bits) values.
    """

    def __init__(self, data: Tensor, bits: int, tables: Tensor) -> None:
        self._data, self._bits, self._tables = data, bits, tables
        self.shape, self.dtype = (data.shape[0], data.shape[1] * 8 // bits), tables.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        """Two numbers at a time, from a table of all pairs, but for 8 bits."""
        size = self.shape[0] // len(self._tables)
        first, last = start // size, (stop - 1) // size + 1
        tables = self._tables[first:last]
        data = self._data[start:stop]
        # Where the table of each row begins.
        begin = (torch.arange(start, stop) // size - first) * tables.shape[1] ** (1 if self._bits == 8 else 2)
        if self._bits == 6:
            places = _twelve(data, begin)
        else:
            places = scratch("places", tuple(data.shape), torch.int32).copy_(data)
            if last - first > 1:
                places += begin.to(torch.int32)[:, None]
        if self._bits == 8:
            made = scratch("made", tuple(places.shape), self.dtype)
            torch.index_select(tables.reshape(-1), 0, places.view(-1), out=made.view(-1))
            return made
        return _looked_up(places, _pairs(tables), self.dtype)


def _pairs(tables: Tensor) -> Tensor:
    """All pairs of the values of tables (G, P), the first one in the lower digit; each pair one whole number.

    Returns:
        (G P P,), in scratch memory.
    """
    half, whole = _PAIRS[tables.dtype]
    numbers = tables.contiguous().view(half).to(whole)
    bits = torch.iinfo(half).bits
    out = scratch("pairs", (*tables.shape, tables.shape[1]), whole)
    torch.bitwise_or((numbers << bits)[:, :, None], (numbers & ((1 << bits) - 1))[:, None, :], out=out)
    return out.view(-1)


def _looked_up(places: Tensor, pairs: Tensor, dtype: torch.dtype) -> Tensor:
    """Places (R, I / 2) in a table of pairs to numbers (R, I)."""
    made = scratch("made", (places.shape[0], 2 * places.shape[1]), dtype)
    torch.index_select(pairs, 0, places.view(-1), out=made.view(pairs.dtype).view(-1))
    return made


def _twelve(data: Tensor, begin: Tensor) -> Tensor:
    """Each three bytes of a row as two numbers of 12 bits, plus what its row begins with: (R, 3 N) to (R, 2 N)."""
    rows, width = data.shape[0], data.shape[1] // 3
    held = scratch("twelve", (rows, width), torch.int64)  # two numbers of 32 bits in one
    flat, numbers = data.view(-1).numpy(), held.view(-1).numpy()
    # Four bytes from every third on; the last three have no fourth behind them.
    numbers[:-1] = np.ndarray(len(numbers) - 1, "<u4", flat, 0, 3)
    numbers[-1] = int.from_bytes(flat[-3:].tobytes(), "little")
    second = scratch("second", (rows, width), torch.int64)
    torch.bitwise_and(held, 0xFFF000, out=second)
    held.bitwise_and_(0xFFF).bitwise_or_(second.bitwise_left_shift_(20)).add_((begin * (1 + (1 << 32)))[:, None])
    return held.view(torch.int32).view(rows, 2 * width)


def stored(kind: str, given: Mapping[str, Any]) -> Rows | None:
    """The weight of a `constexpr_*` operation without making it; None where no class here fits.

    Args:
        kind: The operation.
        given: Its inputs by name, all of them known.
    """
    if kind == "constexpr_blockwise_shift_scale":
        return _scaled(given["data"], given["scale"], given.get("offset"))
    if kind == "constexpr_affine_dequantize":
        data, rank = given["quantized_data"], given["quantized_data"].dim()
        if rank != 2 or int(given["axis"]) % 2:
            return None
        scale, zero = (given[name].reshape(-1, 1).expand(data.shape[0], 1) for name in ("scale", "zero_point"))
        return _scaled(data, scale, zero)
    if kind == "constexpr_lut_to_dense":
        if "shape" in given:
            shape, table = tuple(int(size) for size in given["shape"]), given["lut"].reshape(1, -1)
            bits = int(math.log2(table.shape[1]))
            return _palettes(_by_rows(given["indices"].numpy(), shape, bits), bits, table)
        return _grouped(given["indices"], given["lut"])
    return None


def _scaled(data: Any, scale: Tensor, offset: Any) -> Rows | None:
    offset = offset.dense() if isinstance(offset, Stored) else offset
    if len(data.shape) != 2 or scale.dtype not in _PAIRS or 0 in data.shape:
        return None
    if scale.shape[0] not in (1, data.shape[0]) or data.shape[1] % scale.shape[1]:
        return None  # blocks of several outputs
    scale = scale.expand(data.shape[0], scale.shape[1])
    offset = None if offset is None else offset.expand(data.shape[0], offset.shape[1])
    if isinstance(data, Tensor):
        return Scaled(data, None, scale, offset) if data.dtype in (torch.int8, torch.uint8) else None
    rows = data.by_rows()
    if rows is None or data.kind.bits != 4:
        return None
    halves = torch.arange(16)
    return Scaled(rows, torch.where(halves > 7, halves - 16, halves) if data.kind.signed else halves, scale, offset)


def _grouped(indices: Any, lut: Tensor) -> Rows | None:
    """iOS 18's palettes: (G, 1, P, 1) for (O, I)."""
    if len(indices.shape) != 2 or lut.shape[1] != 1 or lut.shape[3] != 1 or indices.shape[0] % lut.shape[0]:
        return None
    tables = lut.reshape(lut.shape[0], -1)
    if isinstance(indices, Tensor):
        return _palettes(indices if indices.dtype is torch.uint8 else None, 8, tables)
    return _palettes(indices.by_rows(), indices.kind.bits, tables)


def _palettes(data: Tensor | None, bits: int, tables: Tensor) -> Rows | None:
    fits = data is not None and tables.dtype in _PAIRS and tables.shape[1] == 1 << bits
    return Palettes(data, bits, tables) if fits and data is not None else None
