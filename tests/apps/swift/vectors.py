"""What the Swift tests compare with, made by the Python code:  python tests/apps/swift/vectors.py FOLDER [BUNDLE...]

FOLDER/core/              resizing, tokenizers, generation settings, sampling (tests/helpers/app_vectors.py), streaming
FOLDER/bundles/NAME       a tiny checkpoint of every family, one with two heads of keys and values, and the demo's
                          student in four precisions, as ONNX
FOLDER/questions/NAME     questions of easy-VQA, and the ids that the bundle answers them by in Python
FOLDER/gguf/NAME          the demo's student for llama.cpp, where llama-cpp-python is installed
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from app_vectors import write_vectors

from edgekit.demo.tiny import NAMES
from edgekit.runtimes.stream import TextStream

PRECISIONS = ("fp32", "fp16", "int8", "int4")
GGUF = ("fp16", "int8")
HEADS = "smolvlm-heads"
"""The other tiny ones have one head, whose place in a cache nobody can get wrong."""
QUESTIONS = 40


def main(folder: Path, names: list[str]) -> None:
    """Make what is not there yet."""
    if not (folder / "core").exists():
        core(folder / "core")
    for name in names or [*NAMES, HEADS, *(f"demo-{precision}" for precision in PRECISIONS)]:
        if not (folder / "bundles" / name).exists():
            bundle(folder, name)
    if find_spec("llama_cpp") and not names:
        for precision in GGUF:
            if not (out := folder / "gguf" / f"demo-{precision}").exists():
                export("gguf", "demo", precision, out)


# ------------------------------------------------------------------------------------------------------------ the core


def core(folder: Path) -> None:
    """Write what needs no bundle, whole or not at all."""
    part = folder.with_name("core.part")
    shutil.rmtree(part, ignore_errors=True)
    write_vectors(part)
    (part / "streams.json").write_text(json.dumps({"cases": list(streams())}))
    part.rename(folder)


def streams() -> Iterator[dict[str, Any]]:
    """Texts in pieces of bytes, as tokens may cut them, and what is shown when."""
    draw = random.Random(3)
    for text, stops in (
        ("plain words", []), ("  Grüße 👩‍💻 日本", []), ("one stop here STOP not this", ["STOP"]),
        ("almost STO and ST", ["STOP", "STEM"]), ("end\n\nUser:", ["\nUser:"]), ("é e\u0301", ["e\u0301"]),
        ("bad \udcff byte", ["x"]),
    ):  # fmt: skip
        for _ in range(6):
            data, parts = text.encode("utf-8", "surrogateescape"), list[bytes]()
            while data:
                size = draw.randint(1, 4)
                parts, data = [*parts, data[:size]], data[size:]

            def decode(ids: list[int], parts: list[bytes] = parts) -> str:
                return b"".join(parts[place] for place in ids).decode("utf-8", "replace").lstrip()

            stream = TextStream(decode, stops)
            shown = []
            for place in range(len(parts)):
                shown.append(stream.push(place))
                if stream.stopped:
                    break
            yield {
                "parts": [list(part) for part in parts], "stops": stops, "shown": shown, "rest": stream.finish(),
                "text": stream.text, "stopped": stream.stopped,
            }  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the bundles


def bundle(folder: Path, name: str) -> None:
    """A tiny checkpoint of a family in fp32, or the demo's student in a precision, and its answers to questions."""
    from edgekit.demo.tiny import TINY, write_checkpoint

    out = folder / "bundles" / name
    if not name.startswith("demo-"):
        shape = replace(TINY, kv_heads=2) if name == HEADS else TINY
        family = name.removesuffix("-heads")
        export("onnx", write_checkpoint(family, folder / "checkpoints" / name, seed=0, shape=shape), "fp32", out)
        return
    export("onnx", "demo", name.removeprefix("demo-"), out)
    questions(folder, name)


def export(target: str, checkpoint: Path | str, precision: str, out: Path) -> None:
    """A bundle with golden answers."""
    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.export.bundling import export_checkpoint
    from edgekit.runtimes.comparison import open_bundle
    from edgekit.runtimes.golden import golden_answers

    given = resolve_checkpoint("demo:student") if checkpoint == "demo" else Path(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    export_checkpoint(given, target, precision, out, opens=open_bundle, prompts=2, answers=golden_answers)


def questions(folder: Path, name: str) -> None:
    """Ids that a bundle answers questions of easy-VQA by, and chances to be near a tie."""
    from edgekit.data import samples
    from edgekit.runtimes.generate import answer
    from edgekit.runtimes.onnxruntime import open_session

    session = open_session(folder / "bundles" / name, 1)
    found = []
    for sample in samples("easy-vqa:test", limit=QUESTIONS):
        image = sample.images[0].open().convert("RGB")
        said = answer(session, sample.messages, [image], max_new_tokens=8)
        found.append(
            {"messages": sample.messages, "width": image.width, "height": image.height,
             "rgb": np.asarray(image).tobytes().hex(), "ids": said.token_ids, "text": said.text}
        )  # fmt: skip
    session.close()
    (folder / "questions").mkdir(exist_ok=True)
    (folder / "questions" / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
