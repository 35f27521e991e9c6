"""edgekit's prefill and decode over llama.cpp, beside llama.cpp's own counters of the same file in the same run.

One process of the library, one thread, mid size with random weights by default:

    python benchmarks/llamacpp.py BUNDLE [--tokens 32] [--repetitions 9]

Without a bundle it is the text model of SmolVLM-256M's shape alone, with random Q8_0 weights, which are written in
seconds. `token` is one of a greedy answer, `tg` one of the test of that name, `sampled` one that edgekit chooses
itself, for which the logits cross to its process. `cpu ratio` is the processor time of both processes over that inside
llama.cpp's decoding: waiting for a core, which a busy machine adds to each message between them, is not in it.

    python benchmarks/llamacpp.py [--threads 1]

With --own DATA it measures accuracy instead: prompts as edgekit feeds them, and as llama.cpp's own programs cut them.

    python benchmarks/llamacpp.py BUNDLE --own easy-vqa:test [--limit 300]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edgekit.bundle import Bundle
from edgekit.data import samples
from edgekit.demo.shapes import draw
from edgekit.formats.gguf.library import MARKER
from edgekit.formats.gguf.process import LlamaModel
from edgekit.inputs.chat import question, render
from edgekit.inputs.images import as_rgb
from edgekit.inputs.processor import Processor
from edgekit.runtimes.generate import answer
from edgekit.runtimes.llamacpp import LlamaSession, open_session


def measure(bundle: Path, tokens: int, repetitions: int) -> list[dict[str, float]]:
    """Milliseconds of each repetition: the image, and prefill and a token as edgekit and as llama.cpp time them."""
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
    session.decode_steps([token % session.vocab_size for token in range(tokens)])
    decode = time.perf_counter() - start
    theirs = session.perf()
    return {
        "img_ms": 1000 * img,
        "prefill_ms": 1000 * prefill,
        # llama.cpp counts a batch of one token as evaluation, whatever it is part of.
        "prefill_llamacpp_ms": theirs_prefill["t_p_eval_ms"] + theirs_prefill["t_eval_ms"],
        "tg_ms": 1000 * decode / tokens,
        "tg_llamacpp_ms": theirs["t_eval_ms"] / tokens,
    }


def random_model(path: Path) -> None:
    """A text model as SmolVLM-256M's: 30 layers of width 576, MLP 1,536, 9 heads, 3 of keys and values, 49,280 rows."""
    import gguf

    width, mlp, layers, keys, rows = 576, 1536, 30, 192, 49280
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {"context_length": 8192, "embedding_length": width, "block_count": layers, "feed_forward_length": mlp}
    sizes |= {"attention.head_count": 9, "attention.head_count_kv": 3, "rope.dimension_count": 64}
    for key, size in sizes.items():
        writer.add_uint32(f"llama.{key}", size)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_array("tokenizer.ggml.tokens", [f"[{number}]" for number in range(rows)])
    writer.add_array("tokenizer.ggml.merges", ["a b"])

    def matrix(name: str, out: int, inner: int) -> None:
        blocks = rng.integers(0, 256, (out, inner // 32, 34), dtype=np.uint8)
        blocks[:, :, :2] = np.array([inner**-0.5 / 74], np.float16).view(np.uint8)  # the block's scale comes first
        writer.add_tensor(name, blocks.reshape(out, -1), raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    shapes = {"attn_q": (width, width), "attn_k": (keys, width), "attn_v": (keys, width), "attn_output": (width, width)}
    shapes |= {"ffn_gate": (mlp, width), "ffn_up": (mlp, width), "ffn_down": (width, mlp)}
    matrix("token_embd.weight", rows, width)
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))
        for name, (out, inner) in shapes.items():
            matrix(f"blk.{layer}.{name}.weight", out, inner)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measure_text(threads: int, tokens: int, repetitions: int) -> list[dict[str, float]]:
    """As `measure`, of the random text model: a prompt of 80 tokens and single ones; processor time too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random-Q8_0.gguf"
        random_model(path)
        model = LlamaModel(path, None, threads=threads, context=1024)
        try:
            return [_once_text(model, tokens) for _ in range(repetitions + 1)][1:]
        finally:
            model.close()


def _once_text(model: LlamaModel, tokens: int) -> dict[str, float]:
    worker = psutil.Process(model.process.pid)
    row = {}

    def one_by_one() -> None:
        for place in range(80, 80 + tokens):
            model.feed_tokens(np.array([300]), np.array([place]))

    parts: dict[str, Callable[[], object]] = {
        "prefill": lambda: model.feed_tokens(np.arange(80) + 300, np.arange(80)),
        "token": lambda: list(model.greedy(300, 80, tokens, ())),
        "tg": lambda: model.feed_each(np.full(tokens, 300), 80 + np.arange(tokens)),
        "sampled": one_by_one,
    }
    model.cut(0)
    for part, run in parts.items():
        model.cut(0 if part == "prefill" else 80)
        model.perf()
        before, start = _cpu_ms(worker), time.perf_counter()
        run()
        wall, cpu, count = 1000 * (time.perf_counter() - start), _cpu_ms(worker) - before, _count(part, tokens)
        theirs = model.perf()
        own = theirs["t_p_eval_ms"] + theirs["t_eval_ms"]
        row |= {f"{part}_ms": wall / count, f"{part}_llamacpp_ms": own / count}
        row |= {f"{part}_cpu_ms": cpu / count, f"{part}_llamacpp_cpu_ms": theirs["cpu_ms"] / count}
    return row


def _count(part: str, tokens: int) -> int:
    return 1 if part == "prefill" else tokens


def _cpu_ms(worker: psutil.Process) -> float:
    """Of both processes."""
    times = worker.cpu_times()
    return 1000 * (time.process_time() + times.user + times.system)


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and the median of the ratios taken within each repetition."""
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for part in ("prefill", "token", "tg", "sampled"):
        if f"{part}_ms" not in found:
            continue
        ratios = [row[f"{part}_ms"] / row[f"{part}_llamacpp_ms"] for row in rows]
        found[f"{part}_ratio"] = statistics.median(ratios)
        found[f"{part}_ratio_range"] = [min(ratios), max(ratios)]  # type: ignore[assignment]
        if f"{part}_cpu_ms" in found:
            cpu = (sum(row[f"{part}{of}_cpu_ms"] for row in rows) for of in ("", "_llamacpp"))
            found[f"{part}_cpu_ratio"] = next(cpu) / next(cpu)
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
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--own", metavar="DATA")
    parser.add_argument("--limit", type=int, default=300)
    given = parser.parse_args()
    if given.bundle is None:
        print(json.dumps(summary(measure_text(given.threads, given.tokens, given.repetitions)), indent=2))
        return
    if given.own:
        print(json.dumps(accuracies(given.bundle, given.own, given.limit), indent=2))
        return
    print(json.dumps(summary(measure(given.bundle, given.tokens, given.repetitions)), indent=2))


if __name__ == "__main__":
    main()
