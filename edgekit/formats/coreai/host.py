"""The process that Core AI's runtime lives in: `python -m edgekit.formats.coreai.host IN OUT`, two file descriptors.

A fault in that runtime ends its process without a Python error, so edgekit keeps it in one of its own and talks to it
by frames (`edgekit.system.frames`). Requests, one answer each:

    declare  path                     -> inputs and outputs of a program's function main, without compiling it
    load     name, path               compile an asset and load its function main
    state    name, and one array      put a state's array under a name; it is this process's caller's, not the model's
    run      name, states, arrays     run a function, its states changed in place -> its outputs
    memory                            -> bytes, the high-water mark of this process
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.system.frames import Arrays, filled_from, send, unpack
from edgekit.system.machine import peak_memory_bytes

TOKEN = "!coreai.token"  # what a function gives for a state that it changes


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
        if what == "declare":
            return signature(Path(header["path"])), {}
        if what == "load":
            await self._load(header["name"], header["path"])
            return {}, {}
        from coreai.runtime import NDArray as Tensor

        if what == "state":
            self._states[header["name"]] = Tensor(arrays["value"])
            return {}, {}
        states = {name: self._states[name] for name in header["states"]}
        inputs = {name: Tensor(array) for name, array in arrays.items()}
        found = await self._functions[header["name"]](inputs=inputs, state=states)
        return {}, {name: value.numpy() for name, value in found.items()}

    async def _load(self, name: str, path: str) -> None:
        from coreai.authoring import AIModelAsset

        model = await self._stack.enter_async_context(AIModelAsset.load(path).executable())
        self._functions[name] = model.load_function("main")


def signature(path: Path) -> dict[str, list[list[str]]]:
    """Name and type of what a program's function main takes, states included, and gives; nothing is compiled.

    Args:
        path: Its `main.mlirb`.

    Returns:
        inputs and outputs: [name, type as the program has it, such as `tensor<1x?x96xf16>`] each.

    Raises:
        ValueError: there is no such function.
    """
    from coreai._compiler._mlir_libs._coreaiIR._bindings.compiler import load_module_from_bytecode
    from coreai.authoring.context import Context

    module = load_module_from_bytecode(context=Context()._mlir_context, path=path)
    for graph in (op.operation for region in module.operation.regions for block in region.blocks for op in block):
        if str(graph.attributes["sym_name"]).strip('"') == "main":
            kinds = graph.attributes["function_type"].value
            given = _named(kinds.inputs, graph.attributes["arg_attrs"])
            made = _named(kinds.results, graph.attributes["res_attrs"])
            return {"inputs": given, "outputs": [one for one in made if one[1] != TOKEN]}
    raise ValueError("the program has no function main")


def _named(kinds: Any, attributes: Any) -> list[list[str]]:
    names = [str(one["coreai.name"]).strip('"') if "coreai.name" in one else "" for one in attributes]
    plain = [str(kind).removeprefix("!coreai.handle<") for kind in kinds]
    return [
        [name, kind.removesuffix(">") if kind.endswith(">>") else kind] for name, kind in zip(names, plain, strict=True)
    ]


async def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answer requests until there are no more."""
    fill = filled_from(incoming)
    async with AsyncExitStack() as stack:
        host = Host(stack)
        while True:
            try:
                header, arrays = unpack(fill)
            except EOFError:
                return
            try:
                answer, out = await host.answer(header, arrays)
            except Exception as error:  # Core AI raises types of its own, without a common base
                answer, out = {"error": f"{type(error).__name__}: {error}"}, {}
            send(outgoing, answer, out)


def main(incoming: int, outgoing: int) -> None:
    """Serve the two file descriptors."""
    with os.fdopen(incoming, "rb") as source, os.fdopen(outgoing, "wb") as sink:
        asyncio.run(serve(source, sink))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
