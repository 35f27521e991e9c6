"""Types and stored values of ML Programs as PyTorch tensors.

PyTorch has few operations on unsigned integers of 16 and 32 bits, so values of these types are held in int32 and
int64; values of less than a byte are held in a byte each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.errors import BundleError, EdgekitError


@dataclass(frozen=True)
class DType:
    """A type of ML Programs.

    Attributes:
        name: As `cast` spells it.
        torch: What holds its values here.
        stored: NumPy's type of the stored bytes; uint8 for types of less than a byte, which are packed.
        bits: Of one stored value.
        blob: Its number in weight files; 0 where they have none.
    """

    name: str
    torch: torch.dtype
    stored: np.dtype[Any]
    bits: int
    blob: int = 0

    @property
    def signed(self) -> bool:
        """Whether packed values have a sign."""
        return self.name.startswith("int")


def _dtype(name: str, held: torch.dtype, stored: str, bits: int, blob: int = 0) -> DType:
    return DType(name, held, np.dtype(stored), bits, blob)


# By the number in MIL.proto's DataType.
DTYPES: dict[int, DType] = {
    1: _dtype("bool", torch.bool, "?", 8),
    10: _dtype("fp16", torch.float16, "<f2", 16, 1),
    11: _dtype("fp32", torch.float32, "<f4", 32, 2),
    12: _dtype("fp64", torch.float64, "<f8", 64),
    21: _dtype("int8", torch.int8, "i1", 8, 4),
    22: _dtype("int16", torch.int16, "<i2", 16, 6),
    23: _dtype("int32", torch.int32, "<i4", 32, 14),
    24: _dtype("int64", torch.int64, "<i8", 64),
    25: _dtype("int4", torch.int8, "u1", 4, 8),
    31: _dtype("uint8", torch.uint8, "u1", 8, 3),
    32: _dtype("uint16", torch.int32, "<u2", 16, 7),
    33: _dtype("uint32", torch.int64, "<u4", 32, 15),
    35: _dtype("uint4", torch.uint8, "u1", 4, 11),
    36: _dtype("uint2", torch.uint8, "u1", 2, 10),
    37: _dtype("uint1", torch.uint8, "u1", 1, 9),
    38: _dtype("uint6", torch.uint8, "u1", 6, 13),
    39: _dtype("uint3", torch.uint8, "u1", 3, 12),
}
STRING = 2
_BY_NAME = {dtype.name: dtype for dtype in DTYPES.values()} | {"float16": DTYPES[10], "float32": DTYPES[11]}


def dtype_named(name: str) -> DType:
    """The type a program calls by a name.

    Raises:
        EdgekitError: no such type.
    """
    if name not in _BY_NAME:
        raise EdgekitError(f"Unknown type {name!r} in a program.", fix=f"Known: {', '.join(sorted(_BY_NAME))}.")
    return _BY_NAME[name]


def dtype_numbered(number: int) -> DType:
    """The type behind a number of MIL.proto.

    Raises:
        EdgekitError: no such type here.
    """
    if number not in DTYPES:
        raise EdgekitError(f"Type number {number} of a program is not supported.", fix="Add it to DTYPES in values.py.")
    return DTYPES[number]


def unpacked(packed: NDArray[np.uint8], bits: int, count: int, signed: bool = False) -> NDArray[Any]:
    """Values of less than a byte, first one in the lowest bits, going on in the next byte.

    Args:
        packed: Flat bytes.
        bits: 1, 2, 3, 4, 6 or 8.
        count: How many values; what is left over is padding.
        signed: Two's complement.

    Returns:
        uint8, or int8 if signed, (count,).
    """
    group = 8 // math.gcd(8, bits)  # values that fill whole bytes together
    width = group * bits // 8
    whole = np.zeros(-(-len(packed) // width) * width, dtype=np.uint8)
    whole[: len(packed)] = packed
    parts = whole.reshape(-1, width)
    out = np.empty((len(parts), group), dtype=np.uint8)
    for at in range(group):
        byte, shift = divmod(at * bits, 8)
        out[:, at] = parts[:, byte] >> shift
        if shift + bits > 8:
            out[:, at] |= parts[:, byte + 1] << (8 - shift)
    out &= (1 << bits) - 1
    flat = out.reshape(-1)[:count]
    if not signed:
        return flat
    sign = np.uint8(1 << (bits - 1))
    return ((flat ^ sign) - sign).view(np.int8)


def from_bytes(data: NDArray[np.uint8], dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """The tensor stored in bytes; it shares their memory where its type is held as stored.

    Raises:
        BundleError: too few bytes.
    """
    count = math.prod(shape)
    size = -(-count * dtype.bits // 8)
    if len(data) < size or min(shape, default=0) < 0:
        raise BundleError(f"A stored {dtype.name} {list(shape)} needs {size} bytes and has {len(data)}.")
    if dtype.bits < 8:
        return torch.from_numpy(unpacked(data[:size], dtype.bits, count, dtype.signed).reshape(shape))
    values = data[:size].view(dtype.stored)
    if dtype.stored.kind == "u" and dtype.bits > 8:
        values = values.astype(np.int32 if dtype.bits == 16 else np.int64)
    return torch.from_numpy(values.reshape(shape))


Blob = Callable[[str, int, DType, tuple[int, ...]], Any]
_FIELDS = ("floats", "ints", "bools", "longInts", "doubles")


def value_of(message: Any, blob: Blob) -> Any:
    """A `Value` of MIL.proto: a tensor, a string, or a list or dictionary of them.

    Args:
        message: The protobuf message.
        blob: Reads (file name, offset, type, shape) from a weight file.

    Raises:
        EdgekitError: a kind of value that is not known here.
    """
    kind = message.type.WhichOneof("type")
    if message.WhichOneof("value") == "blobFileValue":
        where, tensor = message.blobFileValue, message.type.tensorType
        return blob(where.fileName, where.offset, dtype_numbered(tensor.dataType), shape_of(tensor))
    immediate = message.immediateValue
    if kind == "tensorType":
        return _immediate(immediate.tensor, message.type.tensorType)
    if kind == "listType":
        return [value_of(part, blob) for part in immediate.list.values]
    if kind == "tupleType":
        return [value_of(part, blob) for part in immediate.tuple.values]
    if kind == "dictionaryType":
        return {value_of(part.key, blob): value_of(part.value, blob) for part in immediate.dictionary.values}
    raise EdgekitError(f"A value of kind {kind!r} in a program is not supported.")


def shape_of(tensor_type: Any) -> tuple[int, ...]:
    """Sizes of a `TensorType`; -1 where a size is not fixed."""
    return tuple(
        dimension.constant.size if dimension.WhichOneof("dimension") == "constant" else -1
        for dimension in tensor_type.dimensions
    )


def _immediate(stored: Any, tensor_type: Any) -> Any:
    """A value inside the program itself; strings stay Python's."""
    field, shape = stored.WhichOneof("value"), shape_of(tensor_type)
    if tensor_type.dataType == STRING:
        strings = list(stored.strings.values)
        return strings[0] if not shape else strings
    dtype = dtype_numbered(tensor_type.dataType)
    if field == "bytes":
        return from_bytes(np.frombuffer(bytearray(stored.bytes.values), dtype=np.uint8), dtype, shape)
    if field not in _FIELDS:
        raise EdgekitError(f"A stored value of kind {field!r} in a program is not supported.")
    values = list(getattr(stored, field).values)
    if len(values) != math.prod(shape):
        raise BundleError(f"A stored value of shape {list(shape)} has {len(values)} elements.")
    return torch.tensor(values, dtype=dtype.torch).reshape(shape)
