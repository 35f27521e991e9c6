"""What a package's functions declare, read from the program without loading it, beside what a manifest says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from edgekit.errors import BundleError
from edgekit.formats.coreml.mil.package import Input, Package, Shapes
from edgekit.formats.coreml.mil.values import dtype_numbered, shape_of
from edgekit.formats.coreml.programs import CONTEXT, DECODE, FUNCTIONS, LENGTHS, package_of
from edgekit.formats.declared import Declared, Tensor, check_numbers, check_tensors
from edgekit.manifest import Component, Manifest

FLOATS = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
KEYS_AND_VALUES = re.compile(r"(key|value)_\d+")
MOST_LENGTHS = 4096  # characters
Packages = Mapping[str, Package]
"""By the names of their folders in the bundle."""


def check_programs(packages: Packages, components: Mapping[str, Component]) -> None:
    """Look whether the packages' functions are those that a manifest describes.

    Args:
        packages: Of the bundle.
        components: Of the manifest.

    Raises:
        BundleError: they are not, or a function is missing.
    """
    found = {}
    for name, part in components.items():
        package = packages[package_of(part)]
        found[name] = declared(package, _function(package, components, name))
    check_tensors(components, found)


def check_cache(packages: Packages, manifest: Manifest) -> None:
    """Look whether the manifest's numbers of the cache, and the package's own context, are those of its decoder.

    Raises:
        BundleError: they are not.
    """
    components = manifest.components
    package = packages[package_of(components["text_decoder"])]
    inputs, states = package.signature(_function(package, components, "text_decoder"))
    kept = [sizes_of(one.shapes) for one in states if KEYS_AND_VALUES.fullmatch(one.name)]
    if kept:
        check_numbers(manifest, {"cache.layers": len(kept) // 2})
    for sizes in kept:
        if len(sizes) != 4 or None in sizes:
            raise BundleError(f"A state of {package.path} is no keys and no values.", why=f"It has the sizes {sizes}.")
        check_numbers(manifest, {"cache.kv_heads": int(sizes[1] or 0), "cache.head_dim": int(sizes[3] or 0)})
    said = str(package.model.description.metadata.userDefined.get(CONTEXT, ""))
    most = min([int(sizes[2] or 0) for sizes in kept] or [max(_greatest(inputs), default=0)])
    if not said.isdecimal() or not 0 < int(said[:20]) <= most:
        raise BundleError(
            f"{package.path} does not say how its decoder is called.",
            why=f"{CONTEXT}: {said[:40]!r}, and the program takes {most:,} at most.",
            fix="Copy or export the bundle again.",
        )
    lengths = str(package.model.description.metadata.userDefined.get(LENGTHS, ""))
    listed = [size for size in lengths[:MOST_LENGTHS].split(",") if size]
    if len(lengths) > MOST_LENGTHS or not all(size.isdecimal() and 0 < int(size) <= int(said) for size in listed):
        raise BundleError(
            f"{package.path} does not say how its decoder is called.",
            why=f"{LENGTHS}: {lengths[:40]!r} are not from 1 to {CONTEXT}, {said}.",
            fix="Copy or export the bundle again.",
        )


def _greatest(inputs: list[Input]) -> Iterator[int]:
    """Tokens that a decoder without states looks at, at most."""
    for one in inputs:
        if one.name == "attention_mask":
            yield one.shapes.listed[0][-1] if one.shapes.listed else one.shapes.ranges[-1][1]


def _function(package: Package, components: Mapping[str, Component], name: str) -> str:
    """The function of a component."""
    function = function_of(components, name) or package.default
    if function not in package.functions:
        raise BundleError(
            f"{package.path} has no function {function!r}.",
            why=f"It has: {', '.join(package.functions)[:300] or 'none'}.",
            fix="Copy or export the bundle again.",
        )
    return function


def function_of(components: Mapping[str, Component], name: str) -> str | None:
    """The name of a component's function in its package; None for the only one."""
    return FUNCTIONS.get(name, name) if DECODE in components else None


def declared(package: Package, function: str) -> Declared:
    """What a function takes and gives.

    Raises:
        BundleError: an output that nothing makes.
    """
    inputs, _ = package.signature(function)
    block = package.block(function)
    made = {part.name: part.type.tensorType for step in block.operations for part in step.outputs}
    outputs = []
    for name in block.outputs:
        if name not in made:
            raise BundleError(
                f"Function {function!r} gives {name[:80]!r}, which nothing in it makes.",
                fix="Export the package again.",
            )
        sizes = [size if size >= 0 else None for size in shape_of(made[name])]
        outputs.append(Tensor(name, _name(dtype_numbered(made[name].dataType).name), sizes))
    return Declared([Tensor(one.name, _name(one.dtype.name), sizes_of(one.shapes)) for one in inputs], outputs)


def sizes_of(shapes: Shapes) -> list[int | None]:
    """Of each axis its size, None where there are several."""
    spans = [(min(sizes), max(sizes)) for sizes in zip(*shapes.listed, strict=True)] if shapes.listed else shapes.ranges
    return [low if low == high else None for low, high in spans]


def _name(dtype: str) -> str:
    return FLOATS.get(dtype, dtype)
