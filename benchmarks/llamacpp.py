"""edgekit's prefill and decode over llama.cpp, beside llama.cpp's own counters of the same file in the same run.

One process of the library, one thread, mid size with random weights by default:

    python benchmarks/llamacpp.py BUNDLE [--tokens 32] [--repetitions 9]

With --own DATA it measures accuracy instead: prompts as edgekit feeds them, and as llama.cpp's own programs cut them.

    python benchmarks/llamacpp.py BUNDLE --own easy-vqa:test [--limit 300]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.chat import question, render
from edgekit.data import samples
from edgekit.demo.shapes import draw
from edgekit.llama_worker import MARKER
from edgekit.pictures import as_rgb
from edgekit.processor import Processor
from edgekit.runtimes.generate import answer
from edgekit.runtimes.llamacpp import LlamaSession, open_session


def measure(bundle: Path, tokens: int, repetitions: int) -> list[dict[str, float]]:
    """Milliseconds of each repetition: the picture, and prefill and a token as edgekit and as llama.cpp time them."""
    session = open_session(bundle, 1)
    try:
        return [_once(session, tokens) for _ in range(repetitions + 1)][1:]  # the first is for warming up
    finally:
        session.close()


def _once(session: LlamaSession, tokens: int) -> dict[str, float]:
    session.reset()
    prepared = session.prepare(question("what is there to see, and what is it like?"), [draw(0)[0]])
    start = time.perf_counter()
    features = session.encode_image(prepared)
    img = time.perf_counter() - start
    session.perf()
    start = time.perf_counter()
    session.prefill(prepared, features)
    prefill = time.perf_counter() - start
    theirs_prefill = session.perf()
    start = time.perf_counter()
    for token in range(tokens):
        session.decode_step(token % session.vocab_size)
    decode = time.perf_counter() - start
    theirs = session.perf()
    return {
        "img_ms": 1000 * img,
        "prefill_ms": 1000 * prefill,
        # llama.cpp counts a batch of one token as evaluation, whatever it is part of.
        "prefill_llamacpp_ms": theirs_prefill["t_p_eval_ms"] + theirs_prefill["t_eval_ms"],
        "token_ms": 1000 * decode / tokens,
        "token_llamacpp_ms": theirs["t_eval_ms"] / tokens,
    }


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and the median of the ratios taken within each repetition."""
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for part in ("prefill", "token"):
        ratios = [row[f"{part}_ms"] / row[f"{part}_llamacpp_ms"] for row in rows]
        found[f"{part}_ratio"] = statistics.median(ratios)
        found[f"{part}_ratio_range"] = [min(ratios), max(ratios)]  # type: ignore[assignment]
    return found


def accuracies(bundle: Path, data: str, limit: int) -> dict[str, float]:
    """Share of right answers with edgekit's tiles and order, and with llama.cpp's own."""
    session = open_session(bundle, 1)
    processor = Processor.load(bundle)
    place = Bundle.load(bundle).manifest.details["placeholder"]
    right = {"edgekit": 0, "own": 0}
    try:
        for sample in samples(data, limit=limit):
            images = [image.open() for image in sample.images]
            said = answer(session, sample.messages, images, max_new_tokens=8).text
            right["edgekit"] += said == sample.answer
            text = render(processor.template, sample.messages, processor.special).replace(place, MARKER)
            _, logits = session.own_logits(text, [np.ascontiguousarray(np.asarray(as_rgb(image))) for image in images])
            tokens = [int(logits.argmax())]
            while tokens[-1] not in session.eos_token_ids and len(tokens) < 8:
                tokens.append(int(session.decode_step(tokens[-1]).argmax()))
            right["own"] += session.decode_text(tokens).strip() == sample.answer
    finally:
        session.close()
    return {name: count / limit for name, count in right.items()}


def main() -> None:
    """Print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--own", metavar="DATA")
    parser.add_argument("--limit", type=int, default=300)
    given = parser.parse_args()
    if given.own:
        print(json.dumps(accuracies(given.bundle, given.own, given.limit), indent=2))
        return
    print(json.dumps(summary(measure(given.bundle, given.tokens, given.repetitions)), indent=2))


if __name__ == "__main__":
    main()
