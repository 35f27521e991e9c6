"""An iPhone app: a Swift package without dependencies, an adapter for the bundle's runtime, and a SwiftUI sample.

What of it ran, and where, is said in edgekit/apps/ios/README.md, which every app has: `make test-swift` on Linux, and
nothing on Apple's systems.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgekit.apps import App, Piece, Platform
from edgekit.apps._sources import about, bundled, filled, sources
from edgekit.errors import EdgekitError

SOURCES = Path(__file__).parent / "ios"
FAMILIES = (
    "gemma3", "idefics3", "internvl", "lfm2_vl", "llava_onevision", "qwen2_5_vl", "qwen3_5", "qwen3_vl",
)  # fmt: skip
TEMPLATES = {
    "project.pbxproj": "App.xcodeproj/project.pbxproj", "README.md": "README.md",
    "App/Sources/Constants.swift": "App/Sources/Constants.swift",
}  # fmt: skip
"""Files with names between @ signs, and where they go; everything else is the same in every app."""
PACKAGES = ("EdgekitONNX", "EdgekitLlama")
TOOLS = (".build", ".swiftpm", "xcuserdata", "project.xcworkspace")
"""What Swift and Xcode leave."""
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
        EdgekitError: Xcode would read the name as a setting.
    """
    _check(app)
    adapter = ADAPTERS[app.bundle.manifest.target]
    others = tuple(f"{name}/" for name in PACKAGES if name != adapter.package)
    fixed = sources(SOURCES, (*TEMPLATES, *others), TOOLS)
    names = _names(app, adapter)
    written = {to: filled(SOURCES / given, names) for given, to in TEMPLATES.items()}
    return {**fixed, **written, **{f"Model/{name}": piece for name, piece in bundled(app).items()}}


def _check(app: App) -> None:
    if re.search(r"\$[({]", app.name):
        raise EdgekitError(
            f"{app.name!r} is no name for an app: Xcode fills in what stands in $(...).",
            fix="Give another with --name.",
        )


def _names(app: App, adapter: Adapter) -> dict[str, str]:
    """What stands for each name between @ signs."""
    where = (
        f"The model is downloaded from {app.model_url}: put the bundle's folder there, on a server that takes `Range`."
        " The app holds the files' hashes, and takes no others."
        if app.model_url
        else "The model lies in `Model/`, and is part of the app."
    )
    return {
        **about(app),
        "QUOTED_NAME": quoted(app.name),
        "DOWNLOADS": "true" if app.model_url else "false",
        "WHERE": where,
        "ADAPTER": adapter.module,
        "PACKAGE": adapter.package,
        "RUNTIME": adapter.runtime,
        "IOS": adapter.ios,
        "XCODE": adapter.needs,
        "RAN": adapter.ran,
    }


def quoted(text: str) -> str:
    """A text as a literal of Swift and of a project file: in quotes, nothing in it read as code."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


PLATFORM = Platform(
    targets=tuple(ADAPTERS),
    families=FAMILIES,
    most_bytes=200_000_000,
    larger="Let the app download it:  --model-url https://example.com/models/student",
    pieces=pieces,
    start="open {out}/App.xcodeproj    in Xcode, choose a team, run it, and press Run the self-test",
    tools=TOOLS,
    encrypted=True,
)
