"""The process that Core AI's runtime lives in: `python -m edgekit.aimodel_host IN OUT`, two file descriptors.

A fault in that runtime ends its process without a Python error, so edgekit keeps it in one of its own and talks to it
by frames: four bytes of length, a JSON header, then the arrays' bytes. Requests, one answer each:

    load     name, path               compile an asset and load its function main -> inputs, outputs, states
    state    name, and one array      put a state's array under a name; it is this process's caller's, not the model's
    run      name, states, arrays     run a function, its states changed in place -> its outputs
    memory                            -> bytes, the high-water mark of this process
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from contextlib import AsyncExitStack
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.machine import peak_memory_bytes

Arrays = dict[str, NDArray[Any]]
LENGTH = struct.Struct("<I")


def pack(header: dict[str, Any], arrays: Arrays) -> bytes:
    """A frame.

    Args:
        header: JSON-able.
        arrays: By name, in any order; of any dtype NumPy has a name for.
    """
    listed = {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}
    head = json.dumps({**header, "arrays": listed}).encode()
    return b"".join(
        [LENGTH.pack(len(head)), head, *(np.ascontiguousarray(array).tobytes() for array in arrays.values())]
    )


def unpack(read: Any) -> tuple[dict[str, Any], Arrays]:
    """A frame's header and arrays.

    Args:
        read: count -> that many bytes.
    """
    (size,) = LENGTH.unpack(read(LENGTH.size))
    header = json.loads(read(size))
    arrays = {}
    for name, (dtype, shape) in header.pop("arrays").items():
        kind = np.dtype(dtype)
        data = read(kind.itemsize * int(np.prod(shape, dtype=np.int64)))
        arrays[name] = np.frombuffer(data, kind).reshape(shape).copy()
    return header, arrays


class Host:
    """Assets and states of this process."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._functions: dict[str, Any] = {}
        self._states: dict[str, Any] = {}

    async def answer(self, header: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
        """One request; what Core AI raises is left to the caller."""
        what = header["what"]
        if what == "memory":
            return {"bytes": peak_memory_bytes()}, {}
        if what == "load":
            return await self._load(header["name"], header["path"]), {}
        from coreai.runtime import NDArray as Tensor

        if what == "state":
            self._states[header["name"]] = Tensor(arrays["value"])
            return {}, {}
        states = {name: self._states[name] for name in header["states"]}
        inputs = {name: Tensor(array) for name, array in arrays.items()}
        found = await self._functions[header["name"]](inputs=inputs, state=states)
        return {}, {name: value.numpy() for name, value in found.items()}

    async def _load(self, name: str, path: str) -> dict[str, Any]:
        from coreai.authoring import AIModelAsset

        model = await self._stack.enter_async_context(AIModelAsset.load(path).executable())
        function = model.load_function("main")
        self._functions[name] = function
        described = function.desc
        return {
            "inputs": list(described.input_names),
            "outputs": list(described.output_names),
            "states": list(described.state_names),
        }


async def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answer requests until there are no more."""

    def read(count: int) -> bytes:
        data = incoming.read(count)
        if len(data) < count:
            raise EOFError
        return data

    async with AsyncExitStack() as stack:
        host = Host(stack)
        while True:
            try:
                header, arrays = unpack(read)
            except EOFError:
                return
            try:
                answer, out = await host.answer(header, arrays)
            except Exception as error:  # Core AI raises types of its own, without a common base
                answer, out = {"error": f"{type(error).__name__}: {error}"}, {}
            outgoing.write(pack(answer, out))
            outgoing.flush()


def main(incoming: int, outgoing: int) -> None:
    """Serve the two file descriptors."""
    with os.fdopen(incoming, "rb") as source, os.fdopen(outgoing, "wb") as sink:
        asyncio.run(serve(source, sink))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
