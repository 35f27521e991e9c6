"""Speed of an ONNX decoder beside PyTorch eager and the graphs of onnxruntime-genai's own model builder.

    python benchmarks/decode.py --work FOLDER --threads 1 --threads 2 --json out.json

The model has the shape of SmolVLM-256M and random weights: Llama 576 x 30 layers, 9 heads, 3 key-value heads, mlp 1536,
vocabulary 49,280; SigLIP base 768 x 12 at 512 px. Checkpoints and graphs are made once in FOLDER. The builder's graphs
need `pip install onnxruntime-genai`; without it they are left out, and the output says so.

Every graph is driven by one loop: a cache appended to in place, inputs and outputs bound, logits of the last position
read. A repetition is a fresh process: each way reads a prompt, then all decode in turns of a few tokens, in an order
that is drawn for each turn, so that what else the machine does hits all alike. The first tokens of a turn are not
counted: threads of the way before still spin. `ratio` compares within each repetition. `cpu ms` is processor time,
which waiting for a core does not add to.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, LAYERS, KV_HEADS, HEAD_DIM, VOCABULARY = 576, 30, 3, 64, 49280
PRECISIONS = ("fp32", "int8", "int4")
EAGER = "PyTorch eager"
TURN, SETTLE = 8, 3  # tokens of a turn that are counted, and before them tokens that are not


def make_models(work: Path) -> None:
    """Random checkpoints: the vision-language model in `vlm`, its decoder alone in `text` for the builder."""
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig, LlamaForCausalLM

    from edgekit.demo.architecture import build_tokenizer, write_processor

    tokenizer = build_tokenizer(["a"])
    ids = tokenizer.token_to_id
    ends = {"bos_token_id": ids("<|im_start|>"), "eos_token_id": ids("<end_of_utterance>")}
    ends |= {"pad_token_id": ids("<|im_end|>")}
    text = {"hidden_size": WIDTH, "intermediate_size": 1536, "num_hidden_layers": LAYERS, "num_attention_heads": 9}
    text |= {"num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY, "max_position_embeddings": 8192, **ends}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = Idefics3Config(
        text_config={"model_type": "llama", **text},
        vision_config={**vision, "image_size": 512, "patch_size": 16},
        scale_factor=4,
        image_token_id=ids("<image>"),
    )
    torch.manual_seed(0)
    model: Any = Idefics3ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    model.generation_config.update(**ends)
    model.save_pretrained(work / "vlm")
    write_processor(tokenizer, work / "vlm")
    _say_512(work / "vlm")
    alone: Any = LlamaForCausalLM(LlamaConfig(**text))
    alone.model.load_state_dict(model.model.text_model.state_dict())
    alone.lm_head.load_state_dict(model.lm_head.state_dict())
    alone.save_pretrained(work / "text")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (work / "text" / name).write_bytes((work / "vlm" / name).read_bytes())


def _say_512(folder: Path) -> None:
    """Processor files for one tile of 512 px, 64 tokens; `write_processor` writes the demo's, of 64 px."""
    for name, changes in (
        ("preprocessor_config.json", {"size": {"longest_edge": 512}, "max_image_size": {"longest_edge": 512}}),
        ("processor_config.json", {"image_seq_len": 64}),
    ):
        value = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**value, **changes}), encoding="utf-8")


def make_graphs(work: Path) -> None:
    """Our graphs, by the export's own code, each traced once for all precisions."""
    import onnx_ir

    from edgekit.checkpoint.folder import load_model
    from edgekit.export import onnx
    from edgekit.families import family_of

    split = family_of("idefics3").split(load_model(work / "vlm"))
    trace, kept = onnx._trace, work / "traced"
    kept.mkdir(exist_ok=True)

    def cached(graph: Any) -> Any:
        path = kept / f"{graph.name}.onnx"
        if not path.exists():
            onnx_ir.save(trace(graph), path)
        return onnx_ir.load(path)

    onnx._trace = cached
    try:
        for precision in (*PRECISIONS, "fp16"):
            folder = work / f"ours-{precision}"
            if not (folder / "onnx").exists():
                folder.mkdir(exist_ok=True)
                for path in (work / "vlm").glob("*.json"):
                    (folder / path.name).write_bytes(path.read_bytes())
                template = work / "vlm" / "chat_template.jinja"
                (folder / template.name).write_bytes(template.read_bytes())
                onnx.write(split, precision, folder)
    finally:
        onnx._trace = trace


def make_peers(work: Path) -> None:
    """The builder's graphs of the decoder alone, with its own defaults."""
    for precision in PRECISIONS:
        if not (work / f"builder-{precision}" / "model.onnx").exists():
            command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(work / "text")]
            command += ["-o", str(work / f"builder-{precision}"), "-p", precision, "-e", "cpu", "-c", str(work)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def open_graph(path: Path, threads: int) -> Any:
    """A session as edgekit's runtime opens it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Graph:
    """A decoder graph on buffers for a whole answer, past and present one."""

    def __init__(self, path: Path, threads: int, room: int) -> None:
        from onnxruntime import OrtValue

        self.session = open_graph(path, threads)
        self.names = {value.name for value in self.session.get_inputs()}
        shape = (1, KV_HEADS, room, HEAD_DIM)
        self.cache = {
            f"{layer}.{part}": OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))
            for layer in range(LAYERS)
            for part in ("key", "value")
        }
        self.length = 0

    def reset(self) -> None:
        """Forget all tokens."""
        self.length = 0

    def step(self, embeds: Any) -> Any:
        """Append tokens: embeddings (1, T, D), or as many ids for a graph that holds its embedding."""
        tokens = embeds.shape[1]
        positions = np.arange(self.length, self.length + tokens)[None]
        self.length += tokens
        feeds = {"inputs_embeds": embeds, "input_ids": np.ones((1, tokens), dtype=np.int64)}
        feeds |= {"position_ids": positions, "attention_mask": np.ones((1, self.length), dtype=np.int64)}
        binding = self.session.io_binding()
        for name in self.names & set(feeds):
            binding.bind_cpu_input(name, feeds[name])
        for key, buffer in self.cache.items():
            binding.bind_ortvalue_input(f"past_key_values.{key}", buffer)
            binding.bind_ortvalue_output(f"present.{key}", buffer)
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()[0, -1]


class Eager:
    """The same decoder in PyTorch as transformers runs it, with its dynamic cache; logits of the last position only."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        self.reset()

    def reset(self) -> None:
        """Forget all tokens."""
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)

    def step(self, embeds: Any) -> Any:
        """Append tokens: embeddings (1, T, D)."""
        import torch

        with torch.no_grad():
            given = torch.from_numpy(embeds)
            out = self.model(inputs_embeds=given, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            return out.logits[0, -1].numpy()


def ways(work: Path, threads: int, room: int) -> dict[str, Callable[[], Any]]:
    """Name -> what opens it."""
    made: dict[str, Callable[[], Any]] = {EAGER: lambda: Eager(work / "text", threads)}
    suffix = {"fp32": "", "int8": "_int8", "int4": "_q4"}
    for precision in PRECISIONS:
        ours = work / f"ours-{precision}" / "onnx" / f"decoder_model_merged{suffix[precision]}.onnx"
        made[f"edgekit {precision}"] = lambda path=ours: Graph(path, threads, room)
        theirs = work / f"builder-{precision}" / "model.onnx"
        if theirs.exists():
            made[f"builder {precision}"] = lambda path=theirs: Graph(path, threads, room)
    return made


def timed(way: Any, embeds: Any) -> float:
    """Milliseconds of one step."""
    begun = time.perf_counter()
    way.step(embeds)
    return 1000 * (time.perf_counter() - begun)


def repetition(work: Path, threads: int, prompt: int, tokens: int, number: int) -> dict[str, dict[str, float]]:
    """The figures of each way in this process: opened in the order of this repetition, then driven in turns.

    Returns:
        Name -> milliseconds of the prompt, and of a token on the clock (median) and on the processor (mean).
    """
    rng = np.random.default_rng(0)
    long, one = (rng.standard_normal((1, length, WIDTH)).astype(np.float32) for length in (prompt, 1))
    turns = math.ceil(tokens / TURN)
    made = ways(work, threads, prompt + turns * (TURN + SETTLE) + 2)
    names = list(made)
    order = names[number % len(names) :] + names[: number % len(names)]
    if number % 2:
        order.reverse()
    opened = {name: made[name]() for name in order}
    for way in opened.values():
        way.step(long)
        way.step(one)
        way.reset()
    prefill = {name: timed(opened[name], long) for name in order}
    steps: dict[str, list[float]] = {name: [] for name in order}
    cpu = dict.fromkeys(order, 0.0)
    for _ in range(turns):
        for name in rng.permutation(order):
            for _ in range(SETTLE):
                opened[name].step(one)
            begun = time.process_time()
            steps[name] += [timed(opened[name], one) for _ in range(TURN)]
            cpu[name] += time.process_time() - begun
    return {
        name: {
            "prefill_ms": prefill[name],
            "step_ms": statistics.median(steps[name]),
            "cpu_ms": 1000 * cpu[name] / len(steps[name]),
        }
        for name in order
    }


def measure(work: Path, threads: int, repeats: int, prompt: int, tokens: int) -> dict[str, list[dict[str, float]]]:
    """The figures of each way, once per repetition.

    Each repetition is a fresh process. The graph that a process opens first was seen to be slower than the same graph
    opened later, by up to 8 % (where its weights come to lie), so the order of opening turns too.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways(work, threads, 0)}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        for number in range(repeats):
            for name, figures in fresh.submit(repetition, work, threads, prompt, tokens, number).result().items():
                found[name].append(figures)
    return found


def measure_image(work: Path, threads: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of one 512 px tile in each vision graph and in PyTorch."""
    import torch

    from edgekit.checkpoint.folder import load_model
    from edgekit.families import family_of

    pixels = np.random.default_rng(0).standard_normal((1, 1, 3, 512, 512)).astype(np.float32)
    module = family_of("idefics3").split(load_model(work / "vlm")).vision[""].module
    made: dict[str, Callable[[], Any]] = {EAGER: lambda: module(torch.from_numpy(pixels[0]))}
    for precision, suffix in {"fp32": "", "fp16": "_fp16", "int8": "_int8"}.items():
        session = open_graph(work / f"ours-{precision}" / "onnx" / f"vision_encoder{suffix}.onnx", threads)
        made[f"edgekit {precision}"] = lambda session=session: session.run(None, {"pixel_values": pixels})
    found: dict[str, list[float]] = {name: [] for name in made}
    torch.set_num_threads(threads)
    with torch.no_grad():
        for _ in range(repeats):
            for name, run in made.items():
                begun = time.perf_counter()
                run()
                found[name].append(1000 * (time.perf_counter() - begun))
    return found


def ratio(found: dict[str, list[dict[str, float]]], name: str, peer: str, key: str) -> tuple[float, float, float]:
    """How many times as long the peer takes, within each repetition: median, lowest and highest."""
    values = sorted(b[key] / a[key] for a, b in zip(found[name], found[peer], strict=True))
    return statistics.median(values), values[0], values[-1]


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Ratios first: to PyTorch eager, and to the builder's graph at the same precision."""
    out = f"{'':16}{'eager/':>8}{'builder/':>20}{'cpu builder/':>14}{'tokens/s':>10}{'step ms':>9}{'cpu ms':>8}"
    out += f"{'prefill ms':>12}\n"
    for name, rows in found.items():
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        peer = name.replace("edgekit", "builder")
        builder, cpu = "", ""
        if peer != name and peer in found:
            median, low, high = ratio(found, name, peer, "step_ms")
            builder = f"{median:.2f} {low:.2f}-{high:.2f}"
            cpu = f"{ratio(found, name, peer, 'cpu_ms')[0]:.2f}"
        out += f"{name:16}{ratio(found, name, EAGER, 'step_ms')[0]:8.2f}{builder:>20}{cpu:>14}"
        out += f"{1000 / middle['step_ms']:10.1f}{middle['step_ms']:9.2f}{middle['cpu_ms']:8.2f}"
        out += f"{middle['prefill_ms']:12.1f}\n"
    return out


def main() -> None:
    """Make what is not there, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and graphs, 5 GB")
    parser.add_argument("--threads", type=int, action="append", help="may be repeated; 1 and 2 when absent")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--prompt", type=int, default=100, help="tokens before the measured ones")
    parser.add_argument("--tokens", type=int, default=32, help="measured in each repetition")
    parser.add_argument("--json", type=Path, help="also write every figure there")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "text" / "tokenizer_config.json").exists():
        make_models(given.work)
    make_graphs(given.work)
    if importlib.util.find_spec("onnxruntime_genai"):
        make_peers(given.work)
    else:
        sys.stdout.write("onnxruntime-genai is not installed: its builder's graphs are left out.\n")
    kept: dict[str, Any] = {}
    for threads in given.threads or (1, 2):
        found = measure(given.work, threads, given.repeats, given.prompt, given.tokens)
        images = measure_image(given.work, threads, given.repeats)
        kept[str(threads)] = {"decode": found, "image_ms": images}
        sys.stdout.write(f"\n{threads} thread(s), {given.prompt} tokens before, {given.repeats} repetitions\n")
        sys.stdout.write(table(found))
        for name, values in images.items():
            against = statistics.median(a / b for a, b in zip(images[EAGER], values, strict=True))
            sys.stdout.write(f"image {name:16} eager/ {against:5.2f}  {statistics.median(values):9.1f} ms\n")
        sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
