"""A bundle's packages in the evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.formats.coreml.mil.declared import check_cache, check_programs
from edgekit.formats.coreml.mil.package import Function, Package, damaged
from edgekit.formats.coreml.programs import Programs, package_of
from edgekit.manifest import Component


def checked_packages(bundle: Bundle) -> dict[str, Package]:
    """The packages of a bundle of target coreml, once they are known to be those that its manifest describes.

    Raises:
        MissingExtraError: coremltools is not installed.
        BundleError: they are not, or a package is not whole.
    """
    packages = _open(bundle.folder, bundle.manifest.components)
    with damaged(f"A program of {bundle.folder}"):
        check_programs(packages, bundle.manifest.components)
        check_cache(packages, bundle.manifest)
    return packages


def open_programs(
    folder: Path, components: Mapping[str, Component], packages: Mapping[str, Package] | None = None
) -> Programs:
    """Load all functions of a bundle of target coreml.

    Args:
        folder: The bundle's.
        components: Of its manifest.
        packages: Those of `checked_packages`; opened anew where they are not given, and not compared with a manifest.

    Raises:
        MissingExtraError: coremltools is not installed.
        BundleError: a package that is not whole, or not of a known version.
        EdgekitError: a function that is not there, or with an operation that is not known.
    """
    found = _open(folder, components) if packages is None else packages

    def opened(package: str, function: str | None) -> Function:
        return found[package].function(function)

    decoder = found[package_of(components["text_decoder"])]
    return Programs(components, opened, dict(decoder.model.description.metadata.userDefined))


def _open(folder: Path, components: Mapping[str, Component]) -> dict[str, Package]:
    return {name: Package(folder / name) for name in {package_of(part) for part in components.values()}}
