"""An iPhone app: a Swift package without dependencies, an adapter for the bundle's runtime, and a SwiftUI sample.

What of it ran, and where, is said in edgekit/apps/ios/README.md, which every app has: `make test-swift` on Linux, and
nothing on Apple's systems.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__
from edgekit.apps import App, Piece, Platform
from edgekit.apps._sources import bundled, read_model, sources
from edgekit.errors import EdgekitError

SOURCES = Path(__file__).parent / "ios"
FAMILIES = ("gemma3", "idefics3", "internvl", "lfm2_vl", "llava_onevision", "qwen2_5_vl", "qwen3_vl")
TEMPLATES = {
    "project.pbxproj": "App.xcodeproj/project.pbxproj", "README.md": "README.md",
    "App/Sources/Constants.swift": "App/Sources/Constants.swift",
}  # fmt: skip
"""Files with names between @ signs, and where they go; everything else is the same in every app."""
PACKAGES = ("EdgekitONNX", "EdgekitLlama")
BUILDS = (".build", ".swiftpm")
"""What Swift leaves beside a package."""
RAN = "its answers are those of Python on Linux"
TYPES = "its types were checked against stubs of what it uses; nothing of it was ever run"


@dataclass(frozen=True)
class Adapter:
    """What runs a target's bundles on an iPhone."""

    module: str
    package: str
    """Folder of the Swift package that it is in."""
    runtime: str
    """Its constant in Swift."""
    ios: str
    """Oldest version that it runs on."""
    ran: str
    """What is known of it."""
    needs: str = ""
    """What must be there before Xcode can build it."""


ADAPTERS = {
    "coreml": Adapter("EdgekitCoreML", "Edgekit", "coreML", "18.0", TYPES),
    "coreai": Adapter("EdgekitCoreAI", "Edgekit", "coreAI", "27.0", TYPES, "; Core AI needs the SDK of iOS 27"),
    "onnx": Adapter(
        "EdgekitONNX", "EdgekitONNX", "onnx", "18.0", RAN, ", which fetches ONNX Runtime's own package when it opens it"
    ),
    "gguf": Adapter(
        "EdgekitLlama", "EdgekitLlama", "llama", "18.0", RAN,
        ". First lay `llama.xcframework` into `EdgekitLlama/`: llama.cpp's `build-xcframework.sh` makes it, once its"
        " lists of headers, libraries and the module map have `mtmd.h`, `mtmd-helper.h` and `libmtmd.a` too"
        " (`LLAMA_BUILD_TOOLS=ON`); as the script was read, it leaves them out",
    ),
}  # fmt: skip


def pieces(app: App) -> dict[str, Piece]:
    """The library, the adapter, the sample app, the project and the bundle.

    Raises:
        EdgekitError: Xcode would read the name as a setting, or iOS does not load from the address.
    """
    _check(app)
    adapter = ADAPTERS[app.bundle.manifest.target]
    leave = tuple(name for name in PACKAGES if name != adapter.package)
    fixed = {
        name: piece
        for name, piece in sources(SOURCES, leave=tuple(TEMPLATES)).items()
        if name.split("/")[0] not in leave and not set(name.split("/")) & set(BUILDS)
    }
    names = _names(app, adapter)
    written = {to: _filled((SOURCES / given).read_text(encoding="utf-8"), names) for given, to in TEMPLATES.items()}
    model = {f"Model/{name}": piece for name, piece in bundled(app).items()}
    return {**fixed, **{name: Piece(data=text.encode()) for name, text in written.items()}, **model}


def _check(app: App) -> None:
    if re.search(r"\$[({]|@[A-Z]+@", app.name):
        raise EdgekitError(
            f"{app.name!r} is no name for an app: Xcode fills in what stands in $(...), and this what stands in @...@.",
            fix="Give another with --name.",
        )
    if app.model_url.startswith("http://"):
        raise EdgekitError(
            f"iOS loads nothing from {app.model_url}: it is not encrypted.",
            fix="Put the bundle on a server with https://, and name that with --model-url.",
        )


def _names(app: App, adapter: Adapter) -> dict[str, str]:
    """What stands for each name between @ signs."""
    manifest = app.bundle.manifest
    where = (
        f"The model is downloaded from {app.model_url}: put the bundle's folder there, on a server that takes `Range`."
        " The app holds the files' hashes, and takes no others."
        if app.model_url
        else "The model lies in `Model/`, and is part of the app."
    )
    return {
        "NAME": app.name,
        "QUOTED_NAME": quoted(app.name),
        "BUNDLE_ID": app.bundle_id,
        "BUNDLE": manifest.name,
        "HASH": app.bundle.hash,
        "SHORT": app.bundle.hash[:12],
        "FAMILY": manifest.family,
        "PRECISION": manifest.precision.common,
        "SIZE": f"{read_model(app.bundle)['bytes'] / 1e6:.1f} MB",
        "DOWNLOADS": "true" if app.model_url else "false",
        "WHERE": where,
        "ADAPTER": adapter.module,
        "PACKAGE": adapter.package,
        "RUNTIME": adapter.runtime,
        "IOS": adapter.ios,
        "XCODE": adapter.needs,
        "RAN": adapter.ran,
        "EDGEKIT": __version__,
    }


def quoted(text: str) -> str:
    """A text as a literal of Swift and of a project file: in quotes, nothing in it read as code."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"@{name}@", value)
    return text


PLATFORM = Platform(
    targets=tuple(ADAPTERS),
    families=FAMILIES,
    most_bytes=200_000_000,
    larger="Let the app download it:  --model-url https://example.com/models/student",
    pieces=pieces,
    start="open {out}/App.xcodeproj    in Xcode, choose a team, run it, and press Run the self-test",
)
