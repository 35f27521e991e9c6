"""Core AI assets that are damaged, and manifests that do not fit them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manifests import reseal

from hostile.changes import Change, deep, field, file

ASSETS = ("model", "embed", "vision")
STATES = ("k_cache", "v_cache")


def cases() -> Iterator[tuple[str, Change]]:
    """Name and change of each."""
    for asset in ASSETS:
        yield from _programs(asset)
        yield from _metadata(asset)
    yield from _states()


def _programs(asset: str) -> Iterator[tuple[str, Change]]:
    name = f"{asset}.aimodel/main.mlirb"
    yield f"{asset} garbage", file(name, b"\xff" * 5000)
    yield f"{asset} empty", file(name, b"")
    yield f"{asset} text", file(name, "module { }")
    for share in (0.01, 0.1, 0.5, 0.9, 0.999):
        yield f"{asset} cut at {share}", file(name, lambda data, share=share: data[: int(share * len(data))])
    yield f"{asset} zeros at its end", file(name, lambda data: data[:-1000] + b"\0" * 1000)
    yield f"{asset} of 100 MB", file(name, lambda data: data + b"\xff" * 100_000_000)
    for seed in range(12):
        yield f"{asset} flipped {seed}", file(name, lambda data, seed=seed: flipped(data, seed))
    yield f"{asset} of lengths without end", file(name, lambda data: data[:4] + b"\xff" * 64 + data[68:])


def flipped(data: bytes, seed: int, count: int = 8) -> bytes:
    """Some bits of a file's first part turned over, where its structure stands."""
    drawn, found = random.Random(seed), bytearray(data)
    for _ in range(count):
        found[drawn.randrange(4, min(len(found), 4096))] ^= 1 << drawn.randrange(8)
    return bytes(found)


def _metadata(asset: str) -> Iterator[tuple[str, Change]]:
    name = f"{asset}.aimodel/metadata.json"
    yield f"{asset} metadata deep", file(name, '{"assetVersion": "2.0", "a": ' + deep(100_000) + "}")
    yield f"{asset} metadata of 100 MB", file(name, '{"assetVersion": "2.0", "a": "' + "x" * 100_000_000 + '"}')
    for text in ("", "[]", "null", "{", '{"assetVersion": null}', '{"assetVersion": "3.0"}', '{"assetVersion": 1e999}'):
        yield f"{asset} metadata {text}", file(name, text)
    yield f"{asset} metadata not UTF-8", file(name, b"\xff\xfe")


def _states() -> Iterator[tuple[str, Change]]:
    for axis, size in ((0, 1), (0, 4096), (1, 1 << 20), (2, 1), (2, 65536), (3, 1 << 30), (3, 1), (4, 65536), (4, 1)):
        yield f"states of {size} in axis {axis}", _state(axis, size)
        yield f"states and cache of {size} in axis {axis}", _state(axis, size, cache=True)
    yield "states of no axes", _shape([])
    yield "states of free axes", _shape(["layers", 1, "heads", "tokens", "width"])
    yield "states of eight axes", _shape([1] * 8)
    yield "no states", lambda folder: _inputs(folder, lambda specs: [one for one in specs if one["name"] not in STATES])
    yield "states of another type", lambda folder: _inputs(folder, _retyped)
    yield "logits without axes", field("components.text_decoder.outputs.0.shape", [])
    yield "logits of a free size", field("components.text_decoder.outputs.0.shape.2", "V")


def _state(axis: int, size: int, cache: bool = False) -> Change:
    key = {0: "layers", 2: "kv_heads", 4: "head_dim"}.get(axis)

    def edit(manifest: dict[str, Any]) -> None:
        for spec in manifest["components"]["text_decoder"]["inputs"]:
            if spec["name"] in STATES:
                spec["shape"][axis] = size
        if cache and key:
            manifest["cache"][key] = size

    return lambda folder: _edit(folder, edit)


def _shape(shape: list[Any]) -> Change:
    def changed(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**one, "shape": shape} if one["name"] in STATES else one for one in specs]

    return lambda folder: _inputs(folder, changed)


def _retyped(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "dtype": "bfloat16"} if one["name"] in STATES else one for one in specs]


def _inputs(folder: Path, change: Any) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        decoder = manifest["components"]["text_decoder"]
        decoder["inputs"] = change(decoder["inputs"])

    _edit(folder, edit)


def _edit(folder: Path, edit: Any) -> None:
    reseal(folder, edit)
