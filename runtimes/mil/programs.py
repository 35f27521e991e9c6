"""A bundle's packages in the evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekit.bundle import Component
from edgekit.mlprogram import Programs, package_of
from edgekit.runtimes.mil.package import Function, Package


def open_programs(folder: Path, components: Mapping[str, Component]) -> Programs:
    """Load all functions of a bundle of target coreml.

    Args:
        folder: The bundle's.
        components: Of its manifest.
    Raises:
        MissingExtraError: coremltools is not installed.
        BundleError: a package that is not whole, or not of a known version.
        EdgekitError: a function that is not there, or with an operation that is not known.
    """
    packages = {name: Package(folder / name) for name in {package_of(part) for part in components.values()}}

    def opened(package: str, function: str | None) -> Function:
        return packages[package].function(function)

    decoder = packages[package_of(components["text_decoder"])]
    return Programs(components, opened, dict(decoder.model.description.metadata.userDefined))
