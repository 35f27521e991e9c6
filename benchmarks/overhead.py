"""What edgekit costs above calling ONNX Runtime directly, and whether two runs of its bench agree.

    python benchmarks/overhead.py direct BUNDLE --repetitions 20 --new-tokens 16
    python benchmarks/overhead.py direct --make FOLDER      # makes a bundle of SmolVLM-256M's shape first
    python benchmarks/overhead.py agree BUNDLE [BUNDLE ...] --runs 4 --reference CHECKPOINT --data easy-vqa:test

`direct`: one image and one question, prepared once. One way is edgekit's session under the loop of `edgekit bench`;
the other is the same graphs in the same ONNX Runtime, called by a loop written out below: encode, embed, merge,
prefill, and greedy steps with the cache bound in place. Both give the same tokens, or the script stops. The ways take
turns, their order changes each time, and the ratio is taken within each repetition; `cpu` is processor time, which
waiting for a core does not add to.

`agree`: the bench several times, one after the other; of all figures with a 95 % interval, how many overlap from each
run to the next.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.demo.shapes import draw
from edgekit.inputs.chat import question

ROOM = 512  # tokens that the direct way has buffers for
CHOSEN = ("ttft_ms", "image_encode_ms", "decode_tokens_per_s", "ttft_ratio", "decode_ratio", "accuracy")


def make_bundle(work: Path) -> Path:
    """A bundle of SmolVLM-256M's shape with random weights, int8; made once."""
    from edgekit.export.bundling import export_checkpoint
    from edgekit.runtimes.comparison import open_bundle

    sys.path.insert(0, str(Path(__file__).parent))
    from decode import make_models  # type: ignore[import-not-found]

    if not (work / "vlm").exists():
        make_models(work)
    if not (work / "bundle").exists():
        export_checkpoint(work / "vlm", "onnx", "int8", work / "bundle", opens=open_bundle)
    return work / "bundle"


class Direct:
    """The graphs of an ONNX bundle without edgekit's session: tiles, one decoder that appends in place."""

    def __init__(self, folder: Path, threads: int, room: int) -> None:
        import onnxruntime

        bundle = Bundle.load(folder)
        manifest = bundle.manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        self.vision, self.embedding, self.decoder = (
            onnxruntime.InferenceSession(bundle.path(manifest.components[name].file), options)
            for name in ("vision_encoder", "token_embedding", "text_decoder")
        )
        self.image_token, cache = manifest.text.image_token_id, manifest.cache
        if not cache.in_place or "position_ids" in {value.name for value in self.decoder.get_inputs()}:
            raise SystemExit("this script drives decoders that append in place and count positions by themselves")
        shape = (1, cache.kv_heads, room, cache.head_dim)
        self.buffers = {
            f"{layer}.{part}": onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))
            for layer in range(cache.layers)
            for part in ("key", "value")
        }
        self.logits = np.zeros((1, 1, self.decoder.get_outputs()[0].shape[-1]), dtype=np.float32)
        self.single = onnxruntime.OrtValue.ortvalue_from_numpy(self.logits)
        self.binding = self.decoder.io_binding()
        for name, buffer in self.buffers.items():
            self.binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
            self.binding.bind_ortvalue_output(f"present.{name}", buffer)

    def step(self, embeds: Any, start: int) -> Any:
        """Append embeddings (1, T, D) behind the first `start` tokens; logits of the last."""
        tokens = embeds.shape[1]
        self.binding.bind_cpu_input("inputs_embeds", embeds)
        self.binding.bind_cpu_input("attention_mask", np.ones((1, start + tokens), dtype=np.int64))
        if tokens == 1:
            self.binding.bind_ortvalue_output("logits", self.single)
            self.decoder.run_with_iobinding(self.binding)
            return self.logits[0, -1]
        self.binding.bind_output("logits", "cpu")
        self.decoder.run_with_iobinding(self.binding)
        return self.binding.get_outputs()[-1].numpy()[0, -1]

    def answer(self, ids: Any, pixels: Any, new_tokens: int) -> list[int]:
        """So many greedy tokens, whatever they are."""
        features = self.vision.run(None, {"pixel_values": pixels[None]})[0]
        embeds = self.embedding.run(None, {"input_ids": ids})[0]
        embeds[ids == self.image_token] = features.reshape(-1, features.shape[-1])
        logits, length, found = self.step(embeds, 0), ids.shape[1], []
        while True:
            found.append(int(logits.argmax()))
            if len(found) == new_tokens:
                return found
            logits = self.step(self.embedding.run(None, {"input_ids": np.array([[found[-1]]])})[0], length)
            length += 1


class Prepared:
    """A session that has prepared its prompt already and never ends an answer early."""

    def __init__(self, session: Any, prepared: Any) -> None:
        self._session, self._prepared = session, prepared
        self.eos_token_ids: frozenset[int] = frozenset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def prepare(self, *_: Any) -> Any:
        """What was prepared."""
        return self._prepared


def ways(folder: Path, threads: int, new_tokens: int, number: int = 0) -> dict[str, Callable[[], list[int]]]:
    """Name -> what gives the tokens of one answer. Which of the two opens its graphs first turns with `number`."""
    from edgekit.runtimes.generate import answer
    from edgekit.runtimes.onnxruntime import open_session

    early = Direct(folder, threads, ROOM) if number % 2 else None
    session = open_session(folder, threads)
    messages, images = question("what is in the image?"), [draw(0)[0]]
    prepared = session.prepare(messages, images)
    ready: Any = Prepared(session, prepared)
    direct = early or Direct(folder, threads, ROOM)
    if prepared.ids.shape[1] + new_tokens > ROOM:
        raise SystemExit(f"at most {ROOM - prepared.ids.shape[1]} new tokens have room")
    return {
        "direct": lambda: direct.answer(prepared.ids, prepared.pixels, new_tokens),
        "edgekit": lambda: answer(ready, messages, images, max_new_tokens=new_tokens).token_ids,
    }


def overhead(folder: Path, threads: int, new_tokens: int, repetitions: int, processes: int) -> dict[str, Any]:
    """The figures of all repetitions, shared among fresh processes.

    The graph that a process opens first was seen to be slower than the same graph opened later, by up to 8 % (where its
    weights come to lie), so who opens first turns from process to process.
    """
    spent: dict[str, list[tuple[float, float]]] = {"direct": [], "edgekit": []}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        for number in range(processes):
            job = fresh.submit(timed, folder, threads, new_tokens, repetitions // processes, number)
            for name, values in job.result().items():
                spent[name] += values
    return summary(spent)


def timed(folder: Path, threads: int, new_tokens: int, repetitions: int, number: int) -> dict[str, Any]:
    """(wall, cpu) milliseconds of each answer of each way in this process."""
    made = ways(folder, threads, new_tokens, number)
    names = list(made)
    tokens = {name: made[name]() for name in names}
    if tokens["edgekit"] != tokens["direct"]:
        raise SystemExit(f"the two ways do not say the same: {tokens}")
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(repetitions):
        for name in names if number % 2 else names[::-1]:
            wall, cpu = time.perf_counter(), time.process_time()
            made[name]()
            spent[name].append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    return spent


def summary(spent: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians, and the overhead in percent with its bootstrap interval, by the clock and by the processor."""
    from edgekit.stats import median_interval

    found: dict[str, Any] = {"repetitions": len(spent["direct"])}
    for place, kind in enumerate(("wall", "cpu")):
        ratios = [ours[place] / theirs[place] for ours, theirs in zip(spent["edgekit"], spent["direct"], strict=True)]
        interval = median_interval(ratios)
        found[f"{kind}_overhead_percent"] = 100 * (statistics.median(ratios) - 1)
        found[f"{kind}_overhead_ci95"] = interval and [100 * (bound - 1) for bound in interval]
        for name, values in spent.items():
            found[f"{name}_{kind}_ms"] = statistics.median(value[place] for value in values)
    return found


def agree(one: Any, other: Any) -> dict[str, Any]:
    """Of all figures with an interval in two reports of the same rows: how many agree, and which do not."""
    apart, total = [], 0
    for a, b in zip(one.rows, other.rows, strict=True):
        for name in CHOSEN:
            first, second = getattr(a, f"{name}_ci95"), getattr(b, f"{name}_ci95")
            if first is None or second is None:
                continue
            total += 1
            if first[1] < second[0] or second[1] < first[0]:
                apart.append(f"{a.name} {name}: {getattr(a, name):.4g} {first}, then {getattr(b, name):.4g} {second}")
    return {"figures": total, "agree": total - len(apart), "apart": apart}


def main() -> None:
    """Print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["direct", "agree"])
    parser.add_argument("bundle", type=Path, nargs="*")
    parser.add_argument("--make", type=Path)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--processes", type=int, default=4, help="that the repetitions are shared among")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--data", default="easy-vqa:test")
    parser.add_argument("--limit", type=int, default=400)
    given = parser.parse_args()
    folders = [make_bundle(given.make)] if given.make else given.bundle
    if given.what == "direct":
        found = overhead(folders[0], given.threads, given.new_tokens, given.repetitions, given.processes)
    else:
        from edgekit.runtimes.bench import Settings, bench

        settings = Settings(given.data, limit=given.limit, threads=given.threads, trace=0, repetitions=0)
        with tempfile.TemporaryDirectory() as place:
            runs = [bench(folders, given.reference, settings, Path(place) / str(n)) for n in range(given.runs)]
        pairs = [agree(one, other) for one, other in pairwise(runs)]
        found = {name: sum(pair[name] for pair in pairs) for name in ("figures", "agree")}
        found["apart"] = [text for pair in pairs for text in pair["apart"]]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
