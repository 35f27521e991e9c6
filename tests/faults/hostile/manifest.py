"""Manifests whose fields are of another kind, and documents that are no manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.bundle import sealed
from hostile.changes import Change, deep, field, text, write

NUMBERS = (
    "schema_version", "vocab_size", "cache.layers", "cache.kv_heads", "cache.head_dim", "position_axes", "deepstack",
    "text.image_token_id", "text.eos_token_ids.0", "buckets.*.tokens", "files.*.bytes",
)  # fmt: skip
TEXTS = (
    "name", "target", "family", "precision.common", "text.tokenizer", "text.chat_template", "student_sha256",
    "components.*.file", "buckets.*.component", "files.*.sha256", "components.*.inputs.*.dtype",
)  # fmt: skip
HOLDERS = ("files", "components", "preprocessing", "text", "cache", "buckets", "precision", "tools", "details")
WRONG_NUMBERS: dict[str, Any] = {
    "negative": -1, "above 64 bits": 1 << 70, "a fraction": 1.5, "text": "7", "nothing": None, "true": True,
    "a list": [1], "a mapping": {"a": 1},
}  # fmt: skip
WRONG_TEXTS: dict[str, Any] = {"a number": 7, "nothing": None, "a list": ["x"], "long": "x" * 1_000_000}
WRONG_HOLDERS: dict[str, Any] = {"a number": 7, "nothing": None, "a list": [[1]], "text": "x", "of nothing": {"": {}}}
NAMES = (
    "../out", "/etc/passwd", "a/../../out", "..\\out", "a\0b", "a//b", "./a", "", ".", "..", "a\nb", "x" * 300, "C:\\a",
    "CONFIG.JSON", "a/", "\u202egpj", "\ud800",
)  # fmt: skip
HUGE = 1 << 40


def cases() -> Iterator[tuple[str, Change]]:
    """Name and change of each."""
    yield from ((f"{path} {kind}", field(path, value)) for path in NUMBERS for kind, value in WRONG_NUMBERS.items())
    yield from ((f"{path} {kind}", field(path, value)) for path in TEXTS for kind, value in WRONG_TEXTS.items()
                if not (path in ("name",) and kind == "long"))  # fmt: skip
    yield from ((f"{path} {kind}", field(path, value)) for path in HOLDERS for kind, value in WRONG_HOLDERS.items()
                if not (path in ("preprocessing", "details", "tools") and kind == "of nothing"))  # fmt: skip
    yield from ((f"{path} huge", field(path, HUGE)) for path in NUMBERS)
    for name in NAMES:
        yield f"files named {name!r:.30}", _listing(name)
        yield f"component at {name!r:.30}", field("components.text_decoder.file", name)
    yield from _documents()


def _listing(name: str) -> Change:
    entry = {"bytes": 1, "sha256": "0" * 64}

    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = entry
        escaped = "\ud800" in name  # which no file can hold but as an escape
        write(folder / "manifest.json", json.dumps(manifest) if escaped else sealed(manifest))

    return change


def _documents() -> Iterator[tuple[str, Change]]:
    """Manifests that are no JSON, or too much of it."""
    yield "manifest deep", text(deep(100_000))
    yield "manifest deep mapping", text('{"a":' * 100_000 + "1" + "}" * 100_000)
    yield "manifest of 100 MB", text("[" + "1," * 50_000_000 + "1]")
    yield "manifest of 7 MB of lists", text("[" + "[]," * 2_400_000 + "[]]")
    yield "manifest of 7 MB of keys", text("{" + ",".join(f'"k{n}":1' for n in range(600_000)) + "}")
    yield "manifest with one long key", text('{"' + "k" * 7_000_000 + '":1}')
    yield "manifest NaN", text('{"schema_version": NaN}')
    yield "manifest Infinity", text('{"schema_version": Infinity}')
    yield "manifest 1e999", text('{"schema_version": 1e999}')
    yield "manifest with a number of 4000 digits", text('{"schema_version": ' + "9" * 4000 + "}")
    yield "manifest with a number of a million digits", text('{"schema_version": ' + "9" * 1_000_000 + "}")
    yield "manifest with a key twice", text('{"schema_version": 3, "schema_version": 3}')
    yield "manifest empty", text("")
    yield "manifest not UTF-8", text(b"\xff\xfe\x00")
    yield "manifest null", text("null")
    yield "manifest cut", text('{"schema_version": 3, "na')
    yield "manifest newer", field("schema_version", 999)
    yield "a deep field", field("details", json.loads(deep(500)))
    yield "a field with Infinity as text", field("cache.layers", "Infinity")
    yield "an unknown key", field("surprise", 1)
    yield "a hundred thousand components", field("components", {f"c{n}": {} for n in range(100_000)})
    yield "a hundred thousand files", field("files", {f"c{n}": {"bytes": 1, "sha256": "0" * 64} for n in range(50_000)})
