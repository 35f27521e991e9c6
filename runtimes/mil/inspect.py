"""What is inside a Core ML package: operations, parameters, bits per weight, states, and sizes; nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgekit.runtimes.mil.package import Package
from edgekit.runtimes.mil.values import dtype_numbered, shape_of

_COMPRESSED = "constexpr_"


@dataclass(frozen=True)
class FunctionFacts:
    """One function of a package.

    Attributes:
        operations: How often each operation occurs, nested blocks included, without constants.
        parameters: Weights as the program uses them: constants in the weight file and results of constexpr operations.
        stored_bytes: Bytes of the weight file that the function reads; functions may share them.
        bits_per_weight: Stored bits for each parameter, scales and palettes included; 0.0 without parameters.
        states: Shape and type of each state.
        state_bytes: Of all states together.
    """

    operations: dict[str, int]
    parameters: int
    stored_bytes: int
    bits_per_weight: float
    states: dict[str, tuple[tuple[int, ...], str]]
    state_bytes: int


@dataclass(frozen=True)
class PackageFacts:
    """A whole package.

    Attributes:
        specification_version: Of Core ML.
        functions: By name.
        size_bytes: Every file of the package.
        weight_bytes: The weight files alone.
    """

    specification_version: int
    functions: dict[str, FunctionFacts]
    size_bytes: int
    weight_bytes: int


def inspect(package: Package) -> PackageFacts:
    """Read a package's facts.

    Raises:
        BundleError: a function has no block.
        EdgekitError: a type in it is not known.
    """
    files = [path for path in package.path.rglob("*") if path.is_file()]
    return PackageFacts(
        package.model.specificationVersion,
        {name: _function(package, name) for name in package.functions},
        sum(path.stat().st_size for path in files),
        sum(path.stat().st_size for path in files if path.parent.name == "weights"),
    )


def _function(package: Package, name: str) -> FunctionFacts:
    operations = list(_operations(package.block(name)))
    feeding = {part.name for op in operations if op.type.startswith(_COMPRESSED) for part in _bindings(op)}
    stored: dict[tuple[str, int], int] = {}
    parameters = 0
    for operation in operations:
        blobs = list(_blobs(operation))
        stored.update({key: size for key, size, _ in blobs})
        if operation.type == "const" and operation.outputs[0].name not in feeding:
            parameters += sum(count for _, _, count in blobs)
        elif operation.type.startswith(_COMPRESSED):
            # The mask that sparse operations pass on is an output too, and a step between two feeds the next.
            last = operation.outputs[-1]
            parameters += 0 if last.name in feeding else math.prod(shape_of(last.type.tensorType))
    states = {
        part.name: part.type.stateType.wrappedType.tensorType
        for part in package.model.mlProgram.functions[name].inputs
        if part.type.WhichOneof("type") == "stateType"
    }
    size = sum(stored.values())
    return FunctionFacts(
        dict(Counter(op.type for op in operations if op.type != "const").most_common()),
        parameters,
        size,
        8 * size / parameters if parameters else 0.0,
        {key: (shape_of(tensor), dtype_numbered(tensor.dataType).name) for key, tensor in states.items()},
        sum(_bytes(tensor) for tensor in states.values()),
    )


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)


def _bindings(operation: Any) -> Iterator[Any]:
    """Inputs bound to a name."""
    for argument in operation.inputs.values():
        yield from (part for part in argument.arguments if part.WhichOneof("binding") == "name")


def _blobs(operation: Any) -> Iterator[tuple[tuple[str, int], int, int]]:
    """(where, bytes, elements) of each value an operation keeps in a weight file."""
    bound = (part.value for argument in operation.inputs.values() for part in argument.arguments)
    for value in (*operation.attributes.values(), *bound):
        if value.WhichOneof("value") == "blobFileValue":
            tensor, where = value.type.tensorType, value.blobFileValue
            yield (where.fileName, where.offset), _bytes(tensor), math.prod(shape_of(tensor))


def _bytes(tensor: Any) -> int:
    return -(-math.prod(shape_of(tensor)) * dtype_numbered(tensor.dataType).bits // 8)
