"""The web library in Chromium beside ONNX Runtime in Python, on the same questions in the same run.

    python benchmarks/web.py [BUNDLE...] [--questions 20] [--repetitions 7] [--threads 1]

Without a bundle: the demo's student in fp32, fp16, int8 and int4, exported first. In each repetition the questions of
easy-VQA are asked natively and then in the page, both loaded all the while; the first repetition warms up and does not
count. A ratio is the page's median over the native one of the same repetition, and its range is over all of them, so
what slows the machine for minutes falls out: above 1 the page takes longer. Equal tokens are counted in the last
repetition. The page is isolated, so that it has threads, in a browser of its own for each bundle. Needs Node.js,
Chromium, and what `make setup-web` installs.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import api
from edgekit.data import Sample, samples
from edgekit.inputs.images import as_rgb
from edgekit.runtimes.generate import answer
from edgekit.runtimes.onnxruntime import open_session

MODULES = Path(__file__).parent.parent / "tests" / "apps" / "web" / "node_modules"
PRECISIONS = ("fp32", "fp16", "int8", "int4")
PARTS = ("preprocess_ms", "image_encode_ms", "prefill_ms", "ttft_ms", "itl_ms")
Round = list[dict[str, Any]]
"""Of each question: ids, and milliseconds."""


class Handler(SimpleHTTPRequestHandler):
    """Plain files, isolated, and a page without anything of its own at /."""

    def guess_type(self, path: Any) -> str:
        kinds = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
        return kinds.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>bench</title>")
        return None

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class Page:
    """A browser with the model loaded."""

    def __init__(self, url: str, asked: list[Sample], threads: int, most: int, work: Path) -> None:
        questions = []
        for one in asked:
            pixels = [np.asarray(as_rgb(image.open())) for image in one.images]
            images = [
                {"width": of.shape[1], "height": of.shape[0], "rgb": base64.b64encode(of.tobytes()).decode()}
                for of in pixels
            ]
            questions.append({"text": one.text, "pictures": images})
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        task = {"modules": str(MODULES), "chromium": chromium, "url": url, "threads": threads, "most": most}
        (work / "task.json").write_text(json.dumps({**task, "questions": questions}))
        command = ["node", str(Path(__file__).with_suffix(".mjs")), str(work / "task.json")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.told: dict[str, Any] = self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The browser ended; what it said stands above.")
        return json.loads(line)

    def round(self) -> Round:
        """Ask all questions once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [{**one, "ttft_ms": ttft(one)} for one in self._line()]

    def close(self) -> None:
        """End the browser."""
        self._process.communicate(timeout=60)


def ttft(one: dict[str, Any]) -> float:
    """From the image and the words to the first token, milliseconds."""
    return float(sum(one[f"{part}_ms"] for part in ("preprocess", "image_encode", "prefill", "first_token")))


def native(session: Any, asked: list[Sample], most: int) -> Round:
    """Ask all questions once in Python."""
    found = []
    for one in asked:
        said = answer(session, one.messages, [image.open() for image in one.images], max_new_tokens=most)
        found.append({"ids": said.token_ids, **said.timings.as_dict()})
    return found


def median(asked: Round, part: str) -> float | None:
    """Over questions, or over all tokens behind the first; None where there is none."""
    values = [gap for one in asked for gap in one["itl_ms"]] if part == "itl_ms" else [one[part] for one in asked]
    return statistics.median(values) if values else None


def summary(here: list[Round], page: list[Round]) -> dict[str, dict[str, Any]]:
    """By part: medians over repetitions of each, the ratio, and its range.

    Args:
        here, page: A round for each repetition.
    """
    found = {}
    for part in PARTS:
        pairs = [(median(one, part), median(other, part)) for one, other in zip(here, page, strict=True)]
        kept = [(one, other) for one, other in pairs if one and other]
        if kept:
            ratios = [other / one for one, other in kept]
            found[part] = {
                "native_ms": statistics.median(one for one, _ in kept),
                "web_ms": statistics.median(other for _, other in kept),
                "ratio": statistics.median(ratios),
                "range": (min(ratios), max(ratios)),
            }
    return found


def measure(bundle: Path, asked: list[Sample], threads: int, repetitions: int, most: int) -> dict[str, Any]:
    """One bundle."""
    session = open_session(bundle, threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        api.app(bundle, platforms="web", out=work / "app", ort=MODULES / "onnxruntime-web")
        with served(work / "app") as url:
            page = Page(url, asked, threads, most, work)
            rounds = [(native(session, asked, most), page.round()) for _ in range(repetitions + 1)][1:]
            page.close()
    session.close()
    here, there = map(list, zip(*rounds, strict=True))
    equal = sum(one["ids"] == other["ids"] for one, other in zip(here[-1], there[-1], strict=True))
    return {"bundle": bundle.name, "page": page.told, "equal": equal, "parts": summary(here, there)}


def show(row: dict[str, Any], questions: int, threads: int) -> None:
    """A line for each part."""
    print(f"\n{row['bundle']}: {row['equal']} of {questions} questions with equal tokens")
    print(f"  threads: {threads}, in the page {row['page']['threads']}; {row['page']['agent']}")
    for part, of in row["parts"].items():
        low, high = of["range"]
        print(
            f"  {part.removesuffix('_ms'):14} native {of['native_ms']:9.3f} ms   web {of['web_ms']:9.3f} ms"
            f"   web / native {of['ratio']:6.2f} [{low:.2f}, {high:.2f}]"
        )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="Print all as one JSON value instead.")
    given = parser.parse_args()
    if not (MODULES / "playwright-core").is_dir():
        parser.error("playwright-core is not installed: make setup-web installs it")
    asked = list(samples("easy-vqa:test", limit=given.questions))
    with tempfile.TemporaryDirectory() as folder:
        bundles = given.bundles or export(Path(folder))
        rows = [measure(one, asked, given.threads, given.repetitions, given.new_tokens) for one in bundles]
    if given.json:
        print(json.dumps(rows))
        return
    for row in rows:
        show(row, len(asked), given.threads)


def export(folder: Path) -> list[Path]:
    """The demo's student in each precision."""
    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.export.bundling import export_checkpoint
    from edgekit.runtimes.comparison import open_bundle

    student, found = resolve_checkpoint("demo:student"), [folder / f"onnx-{precision}" for precision in PRECISIONS]
    for precision, out in zip(PRECISIONS, found, strict=True):
        export_checkpoint(student, "onnx", precision, out, opens=open_bundle, prompts=2)
    return found


if __name__ == "__main__":
    main()
