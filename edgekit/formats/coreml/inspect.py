"""Inside Core ML packages."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from edgekit.bundle import Bundle
from edgekit.formats import Held, Part, Reader, Role, State, is_encoder
from edgekit.formats.coreml.programs import package_of

if TYPE_CHECKING:
    from edgekit.formats.coreml.mil.inspect import FunctionFacts, Weight

LEAVING = frozenset({"custom_layer", "reduce_prod", "lstm", "gru", "rnn"})
FAMILIES = ("gather", "scatter")
NAMES = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
MOST = ("linear", "conv", "matmul")


def read(bundle: Bundle) -> dict[str, Part]:
    """The parts of a bundle of target coreml.

    Raises:
        MissingExtraError: coremltools is not installed.
        BundleError: a package that is not whole, or not of a known version.
    """
    from edgekit.formats.coreml.mil import checked_packages
    from edgekit.formats.coreml.mil.declared import function_of
    from edgekit.formats.coreml.mil.inspect import inspect
    from edgekit.formats.coreml.mil.package import damaged

    bundle.check_parts()
    components = bundle.manifest.components
    packages = checked_packages(bundle)
    with damaged(f"A program of {bundle.folder}"):
        facts = {name: inspect(package) for name, package in packages.items()}
    parts = {}
    for name, component in components.items():
        package = package_of(component)
        function = function_of(components, name) or packages[package].default
        parts[name] = _part(package, name, component, facts[package].functions[function])
    return parts


def _part(package: str, name: str, component: Any, facts: FunctionFacts) -> Part:
    states = [State(key, NAMES[dtype], shape) for key, (shape, dtype) in facts.states.items()]
    states += [State(spec.name, spec.dtype, spec.shape) for spec in component.inputs if spec.name.startswith("past_")]
    return Part(
        facts.operations,
        tuple(_held(package, name, weight) for weight in facts.weights),
        facts.products,
        facts.between_activations,
        apart=leaving(facts.result_types),
        states=tuple(states),
    )


def leaving(result_types: dict[tuple[str, str], int]) -> dict[str, int]:
    """Operations that are known to leave the Neural Engine.

    Args:
        result_types: How often an operation of a name gives a type.
    """
    counted: Counter[str] = Counter()
    for (name, dtype), count in result_types.items():
        if name in LEAVING or name.startswith(FAMILIES):
            counted[name] += count
        elif dtype == "fp32":
            counted[f"{name} in float32"] += count
    return dict(counted)


def _held(package: str, component: str, weight: Weight) -> Held:
    role, rows = _role(component, weight)
    places = ",".join(f"{file}@{offset}" for file, offset in sorted(weight.blobs))
    kind = NAMES.get(weight.kind, weight.kind)
    return Held(f"{package}:{places}", weight.numbers, sum(weight.blobs.values()), kind, role, rows)


def _role(component: str, weight: Weight) -> tuple[Role, int]:
    if not weight.kind.startswith(("fp", "int4", "int8", "uint")):
        return "constant", 0
    if any(taker in MOST and key != "bias" for taker, key in weight.used_by):
        return "product", 0
    looked_up = any(taker.startswith("gather") and key == "x" for taker, key in weight.used_by)
    if looked_up and not is_encoder(component):
        return ("table" if component == "token_embedding" else "constant"), weight.shape[0]
    return "other", 0


READER = Reader(
    "operations known to leave the Neural Engine, by published accounts; Core ML alone decides, on the device",
    (
        "known to leave the Neural Engine: whatever computes in float32 (Apple's guide to typed execution: float16 "
        "only), look-ups by gather, recurrent cells and custom layers (github.com/hollance/neural-engine), scatter and "
        "reduce_prod (ane-guide.readthedocs.io); an operation that is not listed may leave it too",
        "on parameters: Core ML's linear operation always has a bias, so zeros stand for one the model does not have",
        "a vision encoder of any view (LFM2-VL) is counted for one patch, without attention: its sizes are free",
    ),
    read,
)
