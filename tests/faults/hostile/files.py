"""Files that are not what their names say, and things that are no files."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manifests import reseal

from hostile.changes import Change, both, deep, file, named, setting, socket_at, special, write

BOMB = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def cases() -> Iterator[tuple[str, Change]]:
    """Name and change of each."""
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        yield f"{name} deep", file(name, '{"model_type": ' + deep(100_000) + "}")
        yield f"{name} of 100 MB", file(name, '{"a": "' + "x" * 100_000_000 + '"}')
        yield f"{name} a list", file(name, "[1]")
        yield f"{name} empty", file(name, "")
        yield f"{name} not UTF-8", file(name, b"\xff\xfe")
    for name in ("tokenizer.json",):
        yield f"{name} deep", file(name, deep(100_000))
        yield f"{name} of 100 MB", file(name, '{"a": "' + "x" * 100_000_000 + '"}')
        yield f"{name} empty", file(name, "")
        yield f"{name} no tokenizer", file(name, "{}")
        yield f"{name} that repeats", _tokenizer(
            {"type": "Sequence", "normalizers": [
                {"type": "Replace", "pattern": {"Regex": "[^x]|x"}, "content": "x" * 1000} for _ in range(6)
            ]}
        )  # fmt: skip
        yield (
            f"{name} that searches for ever",
            _tokenizer(
                {"type": "Replace", "pattern": {"Regex": "(a|a|a|aa|.)*(a|a|a|aa|.)*(a|a|a|aa|.)*\\n$"}, "content": "y"}
            ),
        )
        yield f"{name} with ids far out", setting("tokenizer.json", "added_tokens.0.id", 4_000_000_000)
        yield f"{name} with ids out of the table", setting("tokenizer.json", "model.vocab", {"a": 50_000})
    yield "config.json without a type", setting("config.json", "model_type", 7)
    yield "config.json of another type", setting("config.json", "model_type", "qwen2_vl_nonsense")
    yield "chat template that never ends", file("chat_template", BOMB)
    yield "chat template of a long text", file("chat_template", "{{ 'a' * 10000000000 }}")
    yield "chat template of 100 MB", file("chat_template", "x" * 100_000_000)
    yield "chat template deep", file("chat_template", "{% if 1 %}" * 10_000)
    yield "chat template not UTF-8", file("chat_template", b"\xff\xfe")
    yield "chat template that runs code", file("chat_template", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    yield "chat template without an image", file("chat_template", "hello")
    yield "chat template of nothing", file("chat_template", "")
    for name in ("text_decoder", "token_embedding", "vision_encoder"):
        yield f"{name} garbage", file(name, b"\xff" * 5000)
        yield f"{name} empty", file(name, b"")
        yield f"{name} cut", file(name, lambda data: data[: len(data) // 2])
        yield f"{name} zeros at its end", file(name, lambda data: data[:-1000] + b"\0" * 1000)
    yield "decoder a protobuf of a huge length", file("text_decoder", b"\x3a\xff\xff\xff\xff\x07" + b"\0" * 100)
    yield "decoder a safetensors of a huge header", file("text_decoder", struct.pack("<Q", 1 << 62) + b"{}" * 50)
    yield "decoder a GGUF of huge counts", file("text_decoder", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
    yield "a pickle", both(lambda folder: write(folder / "x.pkl", b"x"), lambda folder: _listed(folder, "x.pkl"))
    yield "a file too many", lambda folder: write(folder / "more.bin", b"x")
    yield "a file too few", lambda folder: (folder / "tokenizer.json").unlink()
    yield "a FIFO too many", lambda folder: os.mkfifo(folder / "pipe")
    yield "a socket too many", lambda folder: socket_at(folder / "socket")
    yield "a link to a folder outside", lambda folder: (folder / "up").symlink_to(folder.parent)
    yield "a link to itself", lambda folder: (folder / "loop").symlink_to(folder / "loop")
    yield "a link to a file outside", lambda folder: (folder / "passwd").symlink_to("/etc/passwd")
    for name in ("manifest.json", "config.json", "tokenizer.json", "chat_template.jinja"):
        yield f"{name} a FIFO", special(name, os.mkfifo)
        yield f"{name} a folder", special(name, Path.mkdir)
        yield f"{name} a link outside", special(name, lambda path: path.symlink_to("/etc/passwd"))
        yield f"{name} a link to a device", special(name, lambda path: path.symlink_to("/dev/zero"))
        yield f"{name} a socket", special(name, socket_at)
    yield "the decoder a link outside", _linked("text_decoder")
    pixels: dict[str, tuple[Any, ...]] = {
        "size": ({"longest_edge": 10**9},), "size.longest_edge": (-5, "x", 1e300), "max_image_size": (7,),
        "max_image_size.longest_edge": (1, 0, 10**6, -1), "image_mean": ("abc", [7], [1, 2]), "resample": (99, "x"),
        "image_std": ([0, 0, 0], [1, 1, "x"]), "rescale_factor": ("x", [1]),
    }  # fmt: skip
    models: dict[str, tuple[Any, ...]] = {
        "vision_config.image_size": (10**9, "x", [1]), "vision_config.patch_size": (0, -7), "scale_factor": (0, "x"),
        "vision_config": ([], 7), "text_config": (7,),
    }  # fmt: skip
    for name, table in (("preprocessor_config.json", pixels), ("config.json", models)):
        for path, values in table.items():
            yield from ((f"{name} {path} {value}", setting(name, path, value)) for value in values)


def _listed(folder: Path, name: str) -> None:
    reseal(folder, lambda manifest: manifest["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))


def _linked(component: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / named(folder, component)
        path.rename(folder.parent / "secret")
        path.symlink_to(folder.parent / "secret")

    return change


def _tokenizer(normalizer: dict[str, Any]) -> Change:
    return setting("tokenizer.json", "normalizer", normalizer)
