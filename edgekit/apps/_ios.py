"""An iPhone app: a Swift package without dependencies, an adapter for the bundle's runtime, and a SwiftUI sample.

In the making, and so no platform of `edgekit app` yet: nothing of the library has run (edgekit/apps/ios/README.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__
from edgekit.apps import App, Piece, Platform
from edgekit.apps._sources import bundled, read_model, sources
from edgekit.handover import MODEL

SOURCES = Path(__file__).parent / "ios"
FAMILIES = ("gemma3", "idefics3", "internvl", "lfm2_vl", "llava_onevision", "qwen2_5_vl", "qwen3_vl")
TEMPLATES = {
    "project.pbxproj": "App.xcodeproj/project.pbxproj", "README.md": "README.md",
    "App/Sources/Constants.swift": "App/Sources/Constants.swift",
}  # fmt: skip
"""Files with names between @ signs, and where they go; everything else is the same in every app."""
PACKAGES = ("EdgekitONNX", "EdgekitLlama")


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
    needs: str = ""
    """What must be fetched before Xcode can build it."""


ADAPTERS = {
    "coreml": Adapter("EdgekitCoreML", "Edgekit", "coreML", "18.0"),
    "coreai": Adapter("EdgekitCoreAI", "Edgekit", "coreAI", "27.0", "; Core AI needs the SDK of iOS 27"),
    "onnx": Adapter(
        "EdgekitONNX", "EdgekitONNX", "onnx", "18.0", ", which fetches ONNX Runtime's own package when it opens it"
    ),
    "gguf": Adapter(
        "EdgekitLlama", "EdgekitLlama", "llama", "18.0",
        "; llama.cpp's `build-xcframework.sh` makes the `llama.xcframework` that belongs into `EdgekitLlama/`",
    ),
}  # fmt: skip


def pieces(app: App) -> dict[str, Piece]:
    """The library, the adapter, the sample app, the project and the bundle."""
    adapter = ADAPTERS[app.bundle.manifest.target]
    leave = tuple(name for name in PACKAGES if name != adapter.package)
    fixed = {
        name: piece
        for name, piece in sources(SOURCES, leave=tuple(TEMPLATES)).items()
        if name.split("/")[0] not in leave and "/.build/" not in f"/{name}"
    }
    names = _names(app, adapter)
    written = {to: _filled((SOURCES / given).read_text(encoding="utf-8"), names) for given, to in TEMPLATES.items()}
    model = {f"Model/{name}": piece for name, piece in bundled(app).items()}
    return {**fixed, **{name: Piece(data=text.encode()) for name, text in written.items()}, **model}


def _names(app: App, adapter: Adapter) -> dict[str, str]:
    """What stands for each name between @ signs."""
    manifest = app.bundle.manifest
    address = f"{app.model_url.rstrip('/')}/{MODEL}"
    where = (
        f"The model is downloaded from {app.model_url}: put the bundle's folder there, on a server that takes `Range`."
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
        "MODEL_URL": f"URL(string: {quoted(address)})" if app.model_url else "nil",
        "WHERE": where,
        "ADAPTER": adapter.module,
        "PACKAGE": adapter.package,
        "RUNTIME": adapter.runtime,
        "IOS": adapter.ios,
        "XCODE": adapter.needs,
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
