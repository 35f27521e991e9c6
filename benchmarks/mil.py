"""One image, a prompt and 32 tokens: Core ML bundles in the evaluator beside PyTorch eager, in time and memory.

    edgekit export CHECKPOINT --target coreml --precision fp16,int8,int4,pal4,pal6 --out BUNDLES
    python benchmarks/mil.py --reference CHECKPOINT BUNDLES/* [--repeats 5] [--tokens 32] [--json]

Each is run through the session that `edgekit run` and `edgekit bench` open. In every repetition PyTorch (the checkpoint
in float32) goes first and each bundle follows, in one process, on the same image, words and forced tokens; ratios are
taken within a repetition, below 1 the evaluator is faster. Times are CPU time of the process: with one thread that is
what the work takes on a core of its own. Preprocessing is in none of them.

Memory is the peak of a fresh process that opens one bundle and answers once, over what that process held when all was
imported: its own pages and those of the mapped weight file. `--keep` measures another way to hold compressed weights
than the runtime's own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.formats.coreml.mil import package as packages
from edgekit.formats.coreml.mil.ops import operations
from edgekit.formats.coreml.mil.proto import model_module
from edgekit.inputs.chat import Message, question
from edgekit.inputs.processor import Processor
from edgekit.runtimes import coreml, pytorch
from edgekit.runtimes.session import Prepared, Session
from edgekit.system.machine import peak_memory_bytes

PARTS = ("encode", "prefill", "decode", "all")


def asked(prepare: Callable[[list[Message], list[Any]], Any], words: int) -> Any:
    """The prompt for an image of noise and a question of so many words."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    return prepare(question(" ".join(["what"] * words), 1), [Image.fromarray(noise)])


def answer(session: Session, prepared: Any, tokens: int) -> tuple[dict[str, float], np.ndarray[Any, Any]]:
    """CPU milliseconds of each part, `decode` of one token; and all logits (tokens + 1, V)."""
    session.reset()
    marks, logits = [time.process_time()], []
    features = session.encode_image(prepared)
    marks.append(time.process_time())
    logits.append(session.prefill(prepared, features))
    marks.append(time.process_time())
    for token in range(tokens):
        logits.append(session.decode_step(10 + token))
    marks.append(time.process_time())
    encode, prefill, decode = (1000 * (end - start) for start, end in pairwise(marks))
    spent = (encode, prefill, decode / tokens, encode + prefill + decode)
    return dict(zip(PARTS, spent, strict=True)), np.stack(logits)


def weight_bytes(bundle: Path) -> int:
    """Of the packages' weight files."""
    return sum(path.stat().st_size for path in bundle.rglob("weight.bin"))


def memory(bundle: Path, args: argparse.Namespace) -> dict[str, float]:
    """Peak of this process beyond its imports, in bytes and over the weights."""
    operations(), model_module()
    processor = Processor.load(bundle).as_exported(Bundle.load(bundle).manifest.preprocessing)
    prepared = Prepared.of(asked(processor.encode, args.words))
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = peak_memory_bytes()
    answer(coreml.open_session(bundle, args.threads), prepared, args.tokens)
    added = peak_memory_bytes() - before
    return {"added_bytes": added, "over_weights": added / weight_bytes(bundle)}


def summary(eager: list[dict[str, float]], mine: list[dict[str, float]]) -> dict[str, Any]:
    """Median milliseconds of each part, and the median and the range of its ratios within a repetition."""
    found: dict[str, Any] = {}
    for part in PARTS:
        ratios = [one[part] / base[part] for one, base in zip(mine, eager, strict=True)]
        found[f"{part}_ms"] = statistics.median(one[part] for one in mine)
        found[f"eager_{part}_ms"] = statistics.median(base[part] for base in eager)
        found[part] = {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
    return found


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each bundle."""
    reference: Any = pytorch.open_session(args.reference, args.threads)
    sessions: list[Any] = [coreml.open_session(bundle, args.threads) for bundle in args.bundles]
    prompt, prompts = asked(reference.prepare, args.words), [asked(session.prepare, args.words) for session in sessions]
    eager, times = [], [[] for _ in sessions]
    gaps = [0.0] * len(sessions)
    for repeat in range(args.repeats + 1):
        spent, want = answer(reference, prompt, args.tokens)
        eager.append(spent)
        for at, session in enumerate(sessions):
            spent, got = answer(session, prompts[at], args.tokens)
            times[at].append(spent)
            gaps[at] = max(gaps[at], float(np.abs(got[:, : want.shape[1]] - want).max() / np.abs(want).max()))
        print(f"repetition {repeat} of {args.repeats}", file=sys.stderr)
    rows = []
    for bundle, mine, gap in zip(args.bundles, times, gaps, strict=True):
        row: dict[str, Any] = {"bundle": bundle.name, "weight_bytes": weight_bytes(bundle), "logit_gap": gap}
        row |= {"prompt_tokens": int(prompt.ids.shape[1])}
        row |= summary(eager[1:], mine[1:])  # the first warms
        again = [sys.executable, __file__, *sys.argv[1:], "--memory-of", str(bundle)]
        row |= json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| bundle | weights MB | encode | prefill | decode | all [range] | peak MB | over weights |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        parts = " | ".join(f"{row[part]['median']:.2f}" for part in PARTS[:3])
        low, high = row["all"]["range"]
        lines.append(
            f"| {row['bundle']} | {row['weight_bytes'] / 1e6:.0f} | {parts} | {row['all']['median']:.2f} [{low:.2f}, "
            f"{high:.2f}] | {row['added_bytes'] / 1e6:.0f} | {row['over_weights']:.2f} |"
        )
    first = rows[0]
    eager = ", ".join(f"{part} {first[f'eager_{part}_ms']:.0f} ms" for part in PARTS)
    return "\n".join([*lines, f"PyTorch eager: {eager}; {first['prompt_tokens']} tokens of prompt"])


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--reference", type=Path, required=True)
    for name, value in {"repeats": 5, "tokens": 32, "words": 16, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--keep", choices=list(packages.KEEP))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.keep:
        packages.KEEP["auto"] = packages.KEEP[args.keep]
    if args.memory_of:
        print(json.dumps(memory(args.memory_of, args)))
        return
    rows = measure(args)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


if __name__ == "__main__":
    main()
