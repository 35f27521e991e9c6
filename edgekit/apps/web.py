"""A web page that answers by itself: plain modules, no bundler; an installed page works without a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.apps import App, Piece, Platform
from edgekit.apps._ort_web import ort_files
from edgekit.apps._sources import about, bundled, context_of, filled, read_model, sources
from edgekit.handover import MODEL
from edgekit.visible import json_text

SOURCES = Path(__file__).parent / "web"
GENERATED = ("settings.js", "sw.js", "README.md")
TOOLS = ("node_modules", "package-lock.json")
VISIT = ("visit.html", "visit.js")
"""The page of `edgekit bench --device web`, which is no part of an app."""
FAMILIES = (
    "gemma3", "idefics3", "internvl", "lfm2_vl", "llava_onevision", "qwen2_5_vl", "qwen3_5", "qwen3_vl",
)  # fmt: skip
FIRST = ("./", "icon.svg", "manifest.webmanifest")
"""What is kept for a page without a network, beside its scripts and styles; onnxruntime-web's files when first used."""


def pieces(app: App) -> dict[str, Piece]:
    """The page, the library, onnxruntime-web and the bundle.

    Raises:
        EdgekitError: onnxruntime-web is not there, and cannot be fetched.
    """
    fixed = sources(SOURCES, (*GENERATED, *VISIT), TOOLS)
    model = {f"model/{name}": piece for name, piece in bundled(app).items()}
    written = {"settings.js": _settings(app, model[f"model/{MODEL}"]), "manifest.webmanifest": _manifest(app)}
    made = {name: Piece(data=text.encode()) for name, text in written.items()}
    made["README.md"] = filled(SOURCES / "README.md", {**about(app), "WHERE": _where(app)})
    made["sw.js"] = Piece(data=_service_worker({**fixed, **made}).encode())
    runtime = {f"ort/{name}": Piece(path) for name, path in ort_files(app.ort).items()}
    return {**fixed, **made, **runtime, **model}


def _data(piece: Piece) -> bytes:
    return piece.data if piece.source is None else piece.source.read_bytes()


def _settings(app: App, model: Piece) -> str:
    data = _data(model)
    settings: dict[str, Any] = {
        "name": app.name,
        "model": f"model/{MODEL}",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "size": read_model(app.bundle)["bytes"],
        "bundle": app.bundle.hash,
        "context": context_of(app.bundle),
        "edgekit": __version__,
    }
    head, _, _ = (SOURCES / "settings.js").read_text(encoding="utf-8").partition("export const SETTINGS")
    return f"{head}export const SETTINGS = {json_text(settings, indent=2)};\n"


def _manifest(app: App) -> str:
    manifest = {
        "name": app.name,
        "short_name": app.name[:12],
        "id": f"./?{app.bundle_id}",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#f6f7f9",
        "theme_color": "#1f5fbf",
        "icons": [{"src": "icon.svg", "sizes": "any", "type": "image/svg+xml", "purpose": "any"}],
    }
    return json_text(manifest, indent=2) + "\n"


def _service_worker(files: dict[str, Piece]) -> str:
    """sw.js with its list, and a version that changes with any file of it."""
    names = sorted(name for name in files if name.endswith((".js", ".css")) and name != "sw.js")
    kept = [*names, *(name for name in ("index.html", *FIRST) if name in files)]
    digest = hashlib.sha256(b"".join(name.encode() + _data(files[name]) for name in kept)).hexdigest()
    text = (SOURCES / "sw.js").read_text(encoding="utf-8")
    listed = json.dumps([*FIRST, *names], indent=2)
    return text.replace("@VERSION@", f"edgekit-{digest[:16]}").replace("const FILES = [];", f"const FILES = {listed};")


def _where(app: App) -> str:
    return (
        f"It is downloaded from {app.model_url}: put the bundle's folder there, with an"
        " `Access-Control-Allow-Origin` header if that is another host; `Range` requests let a download go on."
        if app.model_url
        else "It lies in `model/`, and is served with the page."
    )


PLATFORM = Platform(
    targets=("onnx",),
    families=FAMILIES,
    most_bytes=2_000_000_000,
    larger="A page's WebAssembly has 4 GB for the model and all its work. Export a smaller precision, such as int4; "
    "a model that is only downloaded, with --model-url, has the same limit.",
    pieces=pieces,
    start="cd {out} && python3 -m http.server 8000    then open http://localhost:8000/",
    tools=TOOLS,
)
