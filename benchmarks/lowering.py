"""Lowering for ExecuTorch at a real shape, and how fast the program it gives runs.

    python benchmarks/lowering.py --precision fp32 --precision int4 --json out.json
    python benchmarks/lowering.py --layers 4 --vision-layers 2 --peer

Random weights in the shape of SmolVLM-256M. Seconds are given by the clock and of the processor: on a shared machine
only the second tells one program from another. `--peer` lowers the same model, in the same run, the way ExecuTorch's
documentation shows: the modules as they are, a static cache written by index_copy, `to_edge_transform_and_lower`.
Speeds are medians; PyTorch runs the same modules beside each, repetitions interleaved.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.export import executorch
from edgekit.families import Split, idefics3
from edgekit.formats.executorch.program import Program, load_custom_ops
from edgekit.system.machine import peak_memory_bytes

CONTEXT = 2048


def model(layers: int, vision_layers: int) -> Any:
    """SmolVLM-256M's shape: SigLIP 768 x 12 at 512/16, Llama 576 x 30, 9 heads, 3 of keys and values."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    text = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": layers}
    text |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49280, "max_position_embeddings": 8192}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": vision_layers}
    vision |= {"num_attention_heads": 12, "image_size": 512, "patch_size": 16}
    config = Idefics3Config(
        text_config={**text, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        vision_config=vision,
        scale_factor=4,
        image_token_id=49190,
    )
    torch.manual_seed(0)
    return Idefics3ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


@contextlib.contextmanager
def timed(row: dict[str, Any], name: str) -> Iterator[None]:
    """Seconds of a block, by the clock and of the processor, into a row."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    row[f"{name}_s"] = round(time.perf_counter() - wall, 1)
    row[f"{name}_cpu_s"] = round(time.process_time() - cpu, 1)


def ours(split: Split, precision: str, path: Path) -> dict[str, Any]:
    """Rewrite, quantise, lower and write; what each took, and what stays off the delegate."""
    row: dict[str, Any] = {"way": "edgekit", "precision": precision}
    with timed(row, "rewrite"):
        made = executorch.methods(split, precision, CONTEXT)
    with timed(row, "lower"):
        edge = executorch.lower(made, executorch.constants(split, path.parent))
    row["undelegated"] = {name: sum(found.values()) for name, found in undelegated(edge).items()}
    with timed(row, "write"), path.open("wb") as stream:
        edge.to_executorch().write_to_file(stream)
    return row | {"megabytes": round(path.stat().st_size / 1e6, 1)}


def peer(split: Split) -> dict[str, Any]:
    """The same modules without any rewriting, by `to_edge_transform_and_lower`, float32."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from torch.export import Dim, export
    from transformers import Cache

    class IndexCache(Cache):
        def __init__(self, buffers: list[torch.Tensor], positions: torch.Tensor) -> None:
            super().__init__(layers=[])
            self.buffers, self.places = buffers, positions

        def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
            pair = self.buffers[2 * layer_idx : 2 * layer_idx + 2]
            for buffer, new in zip(pair, (keys, values), strict=True):
                buffer.index_copy_(2, self.places, new)
            return tuple(pair)

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return 0

        def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
            return CONTEXT, 0

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = split.text
            for number in range(2 * split.layers):
                self.register_buffer(f"cache_{number}", torch.zeros(1, split.kv_heads, CONTEXT, split.head_dim))

        def forward(self, inputs_embeds: torch.Tensor, positions: torch.Tensor) -> Any:
            cache = IndexCache([getattr(self, f"cache_{number}") for number in range(2 * split.layers)], positions)
            mask = (torch.arange(CONTEXT)[None] <= positions[:, None])[None, None]
            return self.text(inputs_embeds, mask, positions[None], cache)

    row: dict[str, Any] = {"way": "to_edge_transform_and_lower", "precision": "fp32"}
    part = split.vision[""]
    tokens = Dim("tokens", min=1, max=CONTEXT)
    with torch.no_grad(), timed(row, "lower"):
        example = (torch.randn(1, 5, split.width), torch.arange(5))
        traced = {
            "text_decoder": export(Decoder().eval(), example, dynamic_shapes=({1: tokens}, {0: tokens}), strict=False),
            "vision_encoder": export(part.module, (torch.randn(1, *part.pixels[1:]),), strict=False),  # type: ignore[arg-type]
        }
        partitioner: Any = {name: [XnnpackPartitioner()] for name in traced}
        config = EdgeCompileConfig(_check_ir_validity=False)
        edge = to_edge_transform_and_lower(traced, partitioner=partitioner, compile_config=config)
    return row | {"undelegated": {name: sum(found.values()) for name, found in undelegated(edge).items()}}


def undelegated(edge: Any) -> dict[str, dict[str, int]]:
    """Operators that stay outside XNNPACK: by method, by name, how many; what only unpacks a result is not counted."""
    counts: dict[str, dict[str, int]] = {}
    for name in sorted(edge.methods):
        found = counts.setdefault(name, {})
        for node in edge.exported_program(name).graph_module.graph.nodes:
            operator = getattr(node.target, "__name__", str(node.target))
            if node.op == "call_function" and operator not in ("getitem", "executorch_call_delegate"):
                found[operator] = found.get(operator, 0) + 1
    return counts


def speeds(split: Split, path: Path, threads: int, prompt: int, steps: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of an image, a prompt and a token, beside PyTorch's own eager modules."""
    from transformers import DynamicCache

    torch.set_num_threads(threads)
    program = Program(path, threads)
    rng = np.random.default_rng(0)
    part = split.vision[""]
    pixels = rng.standard_normal((1, *part.pixels[1:]), dtype=np.float32)  # type: ignore[misc, arg-type]
    embeds = rng.standard_normal((1, prompt, split.width), dtype=np.float32)
    state: dict[str, Any] = {}

    def decode(start: int, given: Any) -> Any:
        return program.run("text_decoder", given, np.array([start], dtype=np.int64))

    def eager(start: int, given: Any) -> None:
        positions = torch.arange(start, start + given.shape[1])[None]
        split.text(torch.from_numpy(given), None, positions, state["cache"])

    def eager_prompt() -> None:
        state["cache"] = DynamicCache()
        eager(0, embeds)

    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "image": (lambda: program.run("vision_encoder", pixels), 1),
        "image, PyTorch": (lambda: part.module(torch.from_numpy(pixels)), 1),
        "prompt": (lambda: decode(0, embeds), 1),
        "prompt, PyTorch": (eager_prompt, 1),
        "token": (lambda: [decode(prompt + step, embeds[:, :1]) for step in range(steps)], steps),
        "token, PyTorch": (lambda: [eager(prompt + step, embeds[:, :1]) for step in range(steps)], steps),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for name, (way, count) in ways.items():
                start = time.perf_counter()
                way()
                if repeat:  # the first warms up
                    took[name].append(1000 * (time.perf_counter() - start) / count)
    row: dict[str, Any] = {f"{name}_ms": round(statistics.median(values), 2) for name, values in took.items()}
    for name in ("image", "prompt", "token"):
        ratios = [b / a for a, b in zip(took[name], took[f"{name}, PyTorch"], strict=True)]
        row[f"{name}_times_pytorch"] = round(statistics.median(ratios), 2)
    return {"threads": threads, "prompt_tokens": prompt, **row}


def main() -> None:
    """Print a row per precision as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", action="append", choices=list(executorch.PRECISIONS))
    parser.add_argument("--layers", type=int, default=30, help="of the decoder")
    parser.add_argument("--vision-layers", type=int, default=12)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--steps", type=int, default=16, help="tokens decoded after it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with executorch.quiet():
        load_custom_ops()
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    split = idefics3.split(model(chosen.layers, chosen.vision_layers))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, executorch.quiet():
        for precision in chosen.precision or ["fp32"]:
            path = Path(folder) / f"{precision}.pte"
            rows.append(ours(split, precision, path))
            rows[-1]["speeds"] = [
                speeds(split, path, threads, chosen.prompt, chosen.steps, chosen.repeats)
                for threads in chosen.threads or [1]
            ]
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
        if chosen.peer:
            rows.append(peer(split))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
    sys.stdout.write(json.dumps({"peak_memory_mb": round(peak_memory_bytes() / 1e6)}) + "\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
