"""An Android app as a Gradle project: a library in plain Kotlin, an adapter for the bundle's runtime, a Compose sample.

What of it ran, and where, is said in edgekit/apps/android/README.md, which every app has: `make test-kotlin` on a
desktop's JVM, and nothing on Android.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from edgekit import __version__
from edgekit.apps import App, Piece, Platform
from edgekit.apps._sources import about, bundled, context_of, filled, sources
from edgekit.visible import json_text

SOURCES = Path(__file__).parent / "android"
FAMILIES = (
    "gemma3", "idefics3", "internvl", "lfm2_vl", "llava_onevision", "qwen2_5_vl", "qwen3_5", "qwen3_vl",
)  # fmt: skip
TEMPLATES = ("gradle.properties", "README.md", "app/src/main/res/values/edgekit.xml")
"""Files with names between @ signs; all others are the same in every app of a target."""
ASSETS = "app/src/main/assets"
TOOLS = (
    "build", ".gradle", ".kotlin", ".idea", ".cxx", "captures", "local.properties", "wrapper", "gradlew", "gradlew.bat",
)  # fmt: skip
"""What Gradle and Android Studio leave."""
RAN = "its answers are those of Python on a desktop's JVM"
TYPES = "its types were checked against stubs of what it uses; nothing of it was ever run"


@dataclass(frozen=True)
class Adapter:
    """What runs a target's bundles on Android; its sources are in adapters/<target>."""

    kotlin: str
    """Its class."""
    opens: str
    """How a model is opened with it, in Kotlin."""
    ran: str
    """What is known of it."""
    needs: str
    """What Gradle fetches, or what must be there before it can build."""


ADAPTERS = {
    "onnx": Adapter(
        "OnnxAdapter", "open(bundle) { OnnxAdapter(it, threads = 4) }", RAN,
        "Gradle fetches ONNX Runtime (`onnxruntime-android`).",
    ),
    "executorch": Adapter(
        "ExecutorchAdapter", "open(bundle) { ExecutorchAdapter(it, threads = 4) }", TYPES,
        "Gradle fetches ExecuTorch (`executorch-android`): keep its version in `gradle/libs.versions.toml` at the one"
        " that wrote the bundle, or newer.",
    ),
    "gguf": Adapter(
        "LlamaSession", "openSession(bundle) { LlamaSession(bundle, it, threads = 4) }", RAN,
        "First put the sources of llama.cpp somewhere, and name that folder in `edgekit.llama` of `gradle.properties`:"
        " they are built with the app, by the NDK.",
    ),
}  # fmt: skip


def pieces(app: App) -> dict[str, Piece]:
    """The library, the adapter, the sample app, the project and the bundle."""
    target = app.bundle.manifest.target
    others = [f"{place}/{one}/" for one in ADAPTERS if one != target for place in ("adapters", "app/src")]
    fixed = sources(SOURCES, (*TEMPLATES, *others), TOOLS)
    names = _names(app, ADAPTERS[target])
    written = {name: filled(SOURCES / name, names) for name in TEMPLATES}
    written[f"{ASSETS}/edgekit.json"] = Piece(data=_constants(app).encode())
    model = {f"{ASSETS}/bundle/{name}": piece for name, piece in bundled(app).items()}
    return {**fixed, **written, **model}


def _names(app: App, adapter: Adapter) -> dict[str, str]:
    """What stands for each name between @ signs."""
    where = (
        f"The model is downloaded from {app.model_url} at the app's first start: put the bundle's folder there, on a"
        " server that takes `Range`. The app holds the files' hashes, and takes no others."
        if app.model_url
        else f"The model lies in `{ASSETS}/bundle`, stored as it is, and is copied once to a folder out of the backups."
    )
    return {
        **about(app),
        "TEXT_NAME": resource_text(app.name),
        "WHERE": where,
        "ADAPTER": adapter.kotlin,
        "OPENS": adapter.opens,
        "RAN": adapter.ran,
        "NEEDS": adapter.needs,
    }


def _constants(app: App) -> str:
    """assets/edgekit.json, which Constants.kt reads."""
    constants: dict[str, Any] = {
        "bundle_sha256": app.bundle.hash,
        "downloads": bool(app.model_url),
        "context": context_of(app.bundle),
        "edgekit": __version__,
    }
    return json_text(constants, indent=2) + "\n"


def resource_text(text: str) -> str:
    """A text as a string resource: in quotes, so that nothing in it is a reference, an escape or markup."""
    return '"' + escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


PLATFORM = Platform(
    targets=tuple(ADAPTERS),
    families=FAMILIES,
    most_bytes=200_000_000,
    larger="An app copies its model out of the package, so that it lies on the device twice. Let the app download it:"
    "  --model-url https://example.com/models/student",
    pieces=pieces,
    start="open {out} in Android Studio, run it on a device, and press Start in the tab Self-test",
    tools=TOOLS,
    encrypted=True,
)
