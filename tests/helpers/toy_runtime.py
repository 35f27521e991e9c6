"""Another package's runtime, as its author would write it from the documented contract: installed beside edgekit by a
`.dist-info` folder with an entry point. Its bundles hold a file that says what goes wrong, and where.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from edgekit import registry
from edgekit.bundle import Bundle, seal
from edgekit.manifest import Cache, Component, Precision, TensorSpec, Text

RUNTIME = """
import json, os, signal, sys, time
from pathlib import Path

import numpy as np

from edgekit.runtimes import Runtime
from edgekit.runtimes import session
from edgekit.runtimes.session import Prepared

TOKENS = [5, 6, 2]


class Session(session.Session):
    eos_token_ids, vocab_size, image_token_id = frozenset({2}), 8, 1

    def __init__(self, folder):
        self.fault = json.loads((Path(folder) / "toy.json").read_text())
        self.step = self.answers = 0
        self.go("load")

    def go(self, place):
        fault = self.fault
        if fault.get("where") != place or self.answers < fault.get("after", 0):
            return
        kind = fault["kind"]
        if kind == "sleep":
            time.sleep(fault["seconds"])
        elif kind == "native":  # holds the interpreter, as a library may
            import ctypes
            ctypes.PyDLL(None).usleep(int(1e6 * fault["seconds"]))
        elif kind == "print":
            print("hello from a library")
            os.write(1, b"native hello\\\\n")
            sys.__stdout__.write("and more\\\\n")
        elif kind == "channel":
            os.write(int(sys.argv[-1]), fault["text"].encode())
        elif kind == "memory":
            raise MemoryError("the toy wants more than there is")
        elif kind == "recursion":
            self.go(place)
        elif kind == "signal":
            os.kill(os.getpid(), getattr(signal, fault["signal"]))
        elif kind == "child":
            import subprocess
            subprocess.Popen(["sleep", "600"])
        elif kind == "code":
            exec(fault["code"], globals())
        elif kind == "bug":
            raise KeyError("a bug of the toy")

    def prepare(self, messages, images):
        pixels = np.zeros((1, 3, 2, 2), np.float32) if images else None
        return Prepared(np.array([[3, 1, 4]]), pixels, parts=[1] if images else [])

    def encode_image(self, prepared):
        self.go("encode")
        return prepared.pixels

    def logits(self):
        logits = np.zeros(self.fault.get("shape", [8]), np.float32)
        logits.reshape(-1)[TOKENS[min(self.step, 2)] % logits.size] = 1
        self.step += 1
        return logits

    def prefill(self, prepared, features):
        self.go("prefill")
        time.sleep(0.001)
        self.step = 0
        return self.logits()

    def decode_step(self, token):
        self.go("decode")
        time.sleep(0.0005)
        return self.logits()

    def decode_text(self, ids):
        return " ".join("yes" if token == 5 else "no" for token in ids if token != 2)

    def reset(self):
        self.answers += 1
        self.step = 0

    def rewind(self, length):
        return 0

    def close(self):
        pass


def open_session(folder, threads):
    return Session(folder)


RUNTIME = Runtime(targets=("toy",), open_session=open_session)
"""


def install(monkeypatch: Any, site: Path, plugins: dict[tuple[str, str], str] | None = None, name: str = "toy") -> None:
    """Put a package's folder on the path, of this process and of those it starts, until the test ends.

    Args:
        site: An empty folder.
        plugins: (entry point group, name) -> source of the module; the toy runtime when None.
        name: Of the package.
    """
    site.mkdir(parents=True, exist_ok=True)
    about = site / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for (group, entry), source in (plugins or {("edgekit.runtimes", "toy"): RUNTIME}).items():
        module = f"{name}_{entry}"
        (site / f"{module}.py").write_text(source)
        sys.modules.pop(module, None)  # of another test
        lines.append(f"[{group}]\n{entry} = {module}\n")
    (about / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", ":".join([str(site), *(path for path in sys.path if path)]))
    # What is looked up from here on is forgotten together with the path.
    monkeypatch.setattr(registry, "_entry_points", cache(registry._entry_points.__wrapped__))


def toy_bundle(folder: Path, **fault: Any) -> Path:
    """A bundle of the toy runtime; `fault` says what goes wrong: kind, where, after so many answers."""
    folder.mkdir(parents=True)
    (folder / "toy.json").write_text(json.dumps(fault))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("")
    spec = TensorSpec("x", "float32", (1,))
    parts = ("vision_encoder", "token_embedding", "text_decoder")
    seal(
        folder,
        name=folder.name,
        target="toy",
        precision=Precision("fp32", "toy"),
        family="idefics3",
        components={part: Component("toy.json", (spec,), (spec,)) for part in parts},
        preprocessing={},
        text=Text("tokenizer.json", "chat_template.jinja", 1, (2,)),
        cache=Cache(1, 1, 1),
        vocab_size=8,
        student_sha256="0" * 64,
    )
    Bundle.load(folder)
    return folder
