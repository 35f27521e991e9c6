"""What is inside a Core ML package: operations, parameters, bits per weight, states, and sizes; nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgekit.formats.coreml.mil.package import Package
from edgekit.formats.coreml.mil.values import STRING, dtype_numbered, shape_of

_COMPRESSED = "constexpr_"
_PRODUCTS = ("linear", "conv", "matmul", "scaled_dot_product_attention")


@dataclass(frozen=True)
class Weight:
    """A constant as the program uses it, with all that it is decompressed from.

    Attributes:
        blobs: Bytes of the weight file by place, (file, offset); the same places are one copy.
        numbers: Elements once it is decompressed.
        kind: Type of a stored element: fp16, int8, int4, or uint6 and the like for the indices of a palette.
        shape: Once it is decompressed.
        used_by: (operation, input) of whatever takes it.
    """

    blobs: dict[tuple[str, int], int]
    numbers: int
    kind: str
    shape: tuple[int, ...]
    used_by: tuple[tuple[str, str], ...]


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
        weights: What `parameters` counts, one by one.
        products: Multiply-adds with weights in one run, free sizes taken for 1.
        between_activations: The same of products of two computed values; 0 where a size of them is free.
        result_types: How often operations of a name give a type, (name, type).
    """

    operations: dict[str, int]
    parameters: int
    stored_bytes: int
    bits_per_weight: float
    states: dict[str, tuple[tuple[int, ...], str]]
    state_bytes: int
    weights: tuple[Weight, ...]
    products: int
    between_activations: int
    result_types: dict[tuple[str, str], int]


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
        BundleError: a function has no block, or a weight is not there.
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
    weights = _weights(operations)
    stored = {place: size for weight in weights.values() for place, size in weight.blobs.items()}
    for (file, offset), count in stored.items():
        package.weights.check(file, offset, count)
    parameters, size = sum(weight.numbers for weight in weights.values()), sum(stored.values())
    states = {
        part.name: part.type.stateType.wrappedType.tensorType
        for part in package.model.mlProgram.functions[name].inputs
        if part.type.WhichOneof("type") == "stateType"
    }
    products, between = _multiply_adds(operations, package.model.mlProgram.functions[name], weights)
    return FunctionFacts(
        dict(Counter(op.type for op in operations if op.type != "const").most_common()),
        parameters,
        size,
        8 * size / parameters if parameters else 0.0,
        {key: (shape_of(tensor), dtype_numbered(tensor.dataType).name) for key, tensor in states.items()},
        sum(_bytes(tensor) for tensor in states.values()),
        tuple(weights.values()),
        products,
        between,
        _result_types(operations),
    )


def _weights(operations: list[Any]) -> dict[str, Weight]:
    """Constants in the weight file and results of constexpr operations that other operations use, by name."""
    stored: dict[str, dict[tuple[str, int], int]] = {}
    kinds: dict[str, str] = {}
    found: dict[str, tuple[int, tuple[int, ...]]] = {}
    users: dict[str, list[tuple[str, str]]] = {}
    for operation in operations:
        for key, argument in operation.inputs.items():
            for part in argument.arguments:
                if part.WhichOneof("binding") == "name":
                    users.setdefault(part.name, []).append((operation.type, key))
    feeding = {name for name, takers in users.items() if any(kind.startswith(_COMPRESSED) for kind, _ in takers)}
    for operation in operations:
        blobs = {place: size for place, size, _ in _blobs(operation)}
        compressed = operation.type.startswith(_COMPRESSED)
        if not compressed and operation.type != "const":
            continue
        sources = [part.name for part in _bindings(operation)]
        for source in sources:
            blobs |= stored.get(source, {})
        for output in operation.outputs:
            stored[output.name] = blobs
            kinds[output.name] = _kind(operation, kinds)
        # The mask that sparse operations pass on is an output too, and a step between two feeds the next.
        last = operation.outputs[-1]
        if blobs and last.name not in feeding:
            shape = shape_of(last.type.tensorType)
            found[last.name] = (math.prod(shape), shape)
    return {
        name: Weight(stored[name], numbers, kinds[name], shape, tuple(users.get(name, ())))
        for name, (numbers, shape) in found.items()
    }


def _kind(operation: Any, kinds: dict[str, str]) -> str:
    """Type of the elements that an operation's result is stored as."""
    for key in ("indices", "data", "quantized_data", "nonzero_data"):
        if key in operation.inputs:
            part = operation.inputs[key].arguments[0]
            if part.WhichOneof("binding") == "name":
                return kinds.get(part.name, "unknown")
            return dtype_numbered(part.value.type.tensorType.dataType).name
        if key in operation.attributes:
            return dtype_numbered(operation.attributes[key].type.tensorType.dataType).name
    tensor = operation.outputs[-1].type.tensorType
    return dtype_numbered(tensor.dataType).name if tensor.dataType != STRING else "string"


def _multiply_adds(operations: list[Any], function: Any, weights: dict[str, Weight]) -> tuple[int, int]:
    """Of products with weights, and between computed values."""
    shapes = {part.name: shape_of(part.type.tensorType) for part in function.inputs}
    fixed: dict[str, Any] = {}
    for operation in operations:
        shapes |= {part.name: shape_of(part.type.tensorType) for part in operation.outputs}
        if operation.type == "const" and not operation.attributes["val"].type.tensorType.dimensions:
            fixed[operation.outputs[0].name] = operation.attributes["val"].immediateValue.tensor
    products = between = 0
    for operation in operations:
        if operation.type not in _PRODUCTS:
            continue
        names = {key: [part.name for part in item.arguments] for key, item in operation.inputs.items()}
        out = math.prod(abs(size) for size in shape_of(operation.outputs[0].type.tensorType))
        held = next(
            (weights[name[0]] for key, name in names.items() if key in ("weight", "y") and name[0] in weights), None
        )
        if held is None and any(size < 0 for name in names.values() for part in name for size in shapes.get(part, ())):
            continue
        if operation.type == "scaled_dot_product_attention":
            query, key, value = (shapes[names[part][0]] for part in ("query", "key", "value"))
            between += math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
        elif operation.type == "conv":
            products += out * math.prod(held.shape[1:]) if held else 0
        elif operation.type == "linear":
            products += out * held.shape[-1] if held else 0
        else:
            turned = "transpose_x" in names and _is_true(fixed.get(names["transpose_x"][0]))
            inner = abs(shapes[names["x"][0]][-2 if turned else -1])
            products, between = (products + out * inner, between) if held else (products, between + out * inner)
    return products, between


def _is_true(tensor: Any) -> bool:
    return tensor is not None and bool(tensor.bools.values and tensor.bools.values[0])


def _result_types(operations: list[Any]) -> dict[tuple[str, str], int]:
    counted: Counter[tuple[str, str]] = Counter()
    for operation in operations:
        if operation.type == "const" or operation.type.startswith(_COMPRESSED) or not operation.outputs:
            continue
        kind = operation.outputs[0].type
        if kind.WhichOneof("type") == "tensorType" and kind.tensorType.dataType != STRING:
            counted[operation.type, dtype_numbered(kind.tensorType.dataType).name] += 1
    return dict(counted)


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
