"""How far predicted times are from measured ones: this host predicted from its own peaks, every bundle held out once.

    python benchmarks/predicted.py --work FOLDER --bundle onnx:int8 --bundle executorch:int8 [--add FOLDER/bundle ...]

Shapes of different families and sizes with random weights are made and exported once in FOLDER; bundles of other
checkpoints may be added. Each bundle is measured in a fresh process (`img`, `pp128`, `tg32`, as `edgekit bench` takes
them), and so are this host's peaks: float32 and int8 products of large matrices, bytes read from memory, and a node of
a graph that does next to nothing.

The prediction is `edgekit.devices.predict.milliseconds`: operations over the peak, or bytes over the bandwidth,
whichever takes longer, each at a share of that peak, and a cost for each node. Shares are those that other shapes of
the same target and precision reached (their median), so that no figure of a shape is used to predict it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.devices.predict import Shares, milliseconds
from edgekit.formats.counting import Load
from edgekit.formats.inspecting import inspect_bundle

EDGEKIT = [sys.executable, "-m", "edgekit"]
PROMPT, NEW = 128, 32
KINDS = ("img", "pp128", "tg32")


@dataclass(frozen=True)
class Row:
    """One test of one bundle: what it has to do, and how long that took.

    Attributes:
        shape: The checkpoint's name; bundles of one shape are held out together.
        key: Target, precision and kind of test, for which shares are looked up.
        operations, bytes: Of one image, one prompt of 128, one new token.
        nodes: Of the graphs that ran.
        ms: Measured.
    """

    shape: str
    key: str
    operations: float
    bytes: float
    nodes: int
    ms: float


def make_shapes(work: Path) -> dict[str, Path]:
    """Checkpoints of three families and sizes between the demo's and SmolVLM-256M's, which comes too."""
    from edgekit.demo.tiny import Shape, write_checkpoint

    sizes = {
        "smolvlm": Shape(width=256, head_dim=64, kv_heads=2, repeats=3, vision_width=256, vision_heads=4),
        "internvl": Shape(width=512, head_dim=64, kv_heads=4, repeats=3, vision_width=384, vision_heads=6),
        "qwen2_5_vl": Shape(width=768, head_dim=64, kv_heads=4, repeats=4, vision_width=512, vision_heads=8),
    }
    made = {}
    for family, shape in sizes.items():
        made[f"{family}-{shape.width}"] = work / f"{family}-{shape.width}"
        if not (work / f"{family}-{shape.width}").exists():
            write_checkpoint(family, work / f"{family}-{shape.width}", seed=0, shape=shape, vocab_padding=32_000)
    return made


def make_bundles(work: Path, words: Sequence[str]) -> dict[str, list[Path]]:
    """Every shape in every target and precision, exported once."""
    found: dict[str, list[Path]] = {}
    for name, checkpoint in make_shapes(work).items():
        for word in words:
            folder = work / f"{name}-{word.replace(':', '-')}"
            target, _, precision = word.partition(":")
            if not folder.exists():
                command = [*EDGEKIT, "export", checkpoint, "--target", target, "--precision", precision]
                # Random weights may miss a tolerance on single tokens, which exits with 3 and keeps the bundle.
                code = subprocess.run([*map(str, command), "--samples", "2", "--out", str(folder)], check=False)
                if code.returncode not in (0, 3):
                    sys.exit(code.returncode)
            found.setdefault(name, []).append(folder)
    return found


def peaks(threads: int, repetitions: int = 7) -> dict[str, float]:
    """Of this host: float32 and int8 TOPS, GB/s read, microseconds of a node. Medians."""
    import torch

    torch.set_num_threads(threads)
    size = 1536
    a, b = (torch.randn(size, size) for _ in range(2))
    large = torch.randn(1 << 26)  # 256 MiB: more than any cache
    whole = product(size, threads)
    chain, nodes = small_nodes(threads), 256
    return {
        "fp32_tops": 2 * size**3 / best(lambda: a @ b, repetitions) / 1e12,
        "int8_tops": 2 * size**3 / best(whole, repetitions) / 1e12,
        "gb_s": 4 * large.numel() / best(large.sum, repetitions) / 1e9,
        "node_us": 1e6 * best(chain, repetitions) / nodes,
    }


def best(run: Callable[[], object], repetitions: int) -> float:
    """Seconds, median after a warm-up."""
    run()
    spent = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        run()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)


def product(size: int, threads: int) -> Callable[[], object]:
    """An int8 product of two square matrices in ONNX Runtime."""
    from onnx import TensorProto, helper

    def value(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [size, size])

    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    rng = np.random.default_rng(0)
    weight = helper.make_tensor(
        "b", TensorProto.INT8, [size, size], rng.integers(-127, 128, size * size).astype(np.int8).tobytes(), raw=True
    )
    session = _session([node], [value("a", TensorProto.UINT8)], [value("c", TensorProto.INT32)], [weight], threads)
    given = {"a": rng.integers(0, 256, (size, size)).astype(np.uint8)}
    return lambda: session.run(None, given)


def small_nodes(threads: int, nodes: int = 256) -> Callable[[], object]:
    """A chain of nodes that cannot be fused and do next to nothing."""
    from onnx import TensorProto, helper

    names = [f"v{number}" for number in range(nodes + 1)]
    made = [
        helper.make_node("Erf" if number % 2 else "Neg", [one], [next_])
        for number, (one, next_) in enumerate(pairwise(names))
    ]
    edge = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in (names[0], names[-1])]
    session = _session(made, edge[:1], edge[1:], [], threads)
    given = {names[0]: np.ones(64, np.float32)}
    return lambda: session.run(None, given)


def _session(nodes: Any, inputs: Any, outputs: Any, weights: Any, threads: int) -> Any:
    import onnxruntime
    from onnx import helper

    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(shape: str, folder: Path, threads: int, repetitions: int) -> list[Row]:
    """The tests of one bundle, in this process."""
    from edgekit.demo.shapes import draw
    from edgekit.runtimes import RUNTIMES, runtime_for
    from edgekit.runtimes.speed import run_once

    session = RUNTIMES.load(runtime_for(folder)).open_session(folder, threads)
    image = draw(0)[0]
    spent = {}
    try:
        for kind, tokens in (("img", 0), ("pp", PROMPT), ("tg", NEW)):
            runs = [run_once(session, kind, tokens, image) for _ in range(repetitions + 1)][1:]
            per = NEW if kind == "tg" else 1
            spent[f"{kind}{tokens or ''}"] = statistics.median(run["ms"] for run in runs) / per
        parts = len(session.prepare([{"role": "user", "content": [{"type": "image"}]}], [image]).pixels)
    finally:
        session.close()
    bundle = Bundle.load(folder, verify=False)
    loads = loads_of(bundle, parts)
    precision = f"{bundle.manifest.target} {bundle.manifest.precision.common}"
    return [Row(shape, f"{precision} {kind}", *loads[kind], ms=spent[kind]) for kind in KINDS]


def loads_of(bundle: Bundle, parts: int) -> dict[str, tuple[float, float, int]]:
    """Operations, bytes and nodes of each test; an image is `parts` tiles of one run, or one run of patches."""
    found = inspect_bundle(bundle, tokens=PROMPT)
    token, image = found.per_token, found.per_image
    assert image is not None
    nodes = {name: sum(part.operations.values()) for name, part in found.components.items()}
    decoder = nodes["text_decoder"] + nodes["token_embedding"]
    encoder = next(count for name, count in nodes.items() if name.startswith("vision"))
    products, row = token.flops - token.attention_flops, found.cache_bytes_per_token
    tiles = parts if bundle.manifest.encoders()[next(iter(bundle.manifest.encoders()))][1] is None else 1
    return {
        "img": (image.flops * tiles, image.weight_bytes + (image.bytes_moved - image.weight_bytes) * tiles, encoder),
        f"pp{PROMPT}": ((products + token.attention_flops / 2) * PROMPT, token.weight_bytes + row * PROMPT, decoder),
        f"tg{NEW}": (products + token.attention_flops * NEW / 2 / PROMPT, token.weight_bytes + row * NEW / 2, decoder),
    }


def ideal(row: Row, host: dict[str, float]) -> float:
    """Milliseconds at the full peaks, without nodes."""
    load, tops = Load(row.operations, row.bytes), host["fp32_tops" if " fp" in row.key else "int8_tops"]
    return milliseconds(load, tops, host["gb_s"], Shares((1, 1, 1), (1, 1, 1), call_ms=(0, 0, 0))).value


def predict(row: Row, rows: Sequence[Row], host: dict[str, float]) -> float:
    """Milliseconds, from the shares that other shapes reached in the same test, target and precision."""
    others = [one for one in rows if one.key == row.key and one.shape != row.shape]
    shares = [ideal(one, host) / max(one.ms - nodes_ms(one, host), one.ms / 10) for one in others]
    return ideal(row, host) / statistics.median(shares) + nodes_ms(row, host)


def nodes_ms(row: Row, host: dict[str, float]) -> float:
    """Of a graph's nodes without their work."""
    return row.nodes * host["node_us"] / 1000


def summary(found: Sequence[tuple[Row, float]]) -> dict[str, Any]:
    """Errors: median over all and by kind, and the range that holds 80 % of measured over predicted."""
    errors = {kind: [abs(ms / row.ms - 1) for row, ms in found if row.key.endswith(kind)] for kind in KINDS}
    ratios = sorted(row.ms / ms for row, ms in found)
    low, high = np.quantile(ratios, [0.1, 0.9])
    return {
        "figures": len(ratios),
        "median_error": statistics.median([error for values in errors.values() for error in values]),
        **{f"median_error_{kind}": statistics.median(values) for kind, values in errors.items()},
        "measured_over_predicted": {"10 %": float(low), "median": statistics.median(ratios), "90 %": float(high)},
    }


def main() -> None:
    """Make, measure, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bundle", action="append", metavar="TARGET:PRECISION", required=True)
    parser.add_argument("--add", action="append", metavar="NAME=FOLDER", default=[], help="a bundle of another shape")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every figure there")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    bundles = make_bundles(given.work, given.bundle)
    for word in given.add:
        name, _, folder = word.partition("=")
        bundles.setdefault(name, []).append(Path(folder))
    rows: list[Row] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        before = fresh.submit(peaks, given.threads).result()
        for name, folders in bundles.items():
            for folder in folders:
                rows += fresh.submit(measure, name, folder, given.threads, given.repetitions).result()
        after = fresh.submit(peaks, given.threads).result()
    host = {name: (value + after[name]) / 2 for name, value in before.items()}
    found = [(row, predict(row, rows, host)) for row in rows if sum(one.key == row.key for one in rows) > 2]
    print(f"peaks, {given.threads} thread(s): " + ", ".join(f"{name} {value:.3g}" for name, value in host.items()))
    print(
        "| shape | target, precision, test | predicted ms | measured ms | predicted / measured |\n|---|---|---|---|---|"
    )
    for row, ms in sorted(found, key=lambda pair: (pair[0].key, pair[0].operations)):
        print(f"| {row.shape} | {row.key} | {ms:.3g} | {row.ms:.3g} | {ms / row.ms:.2f} |")
    print(json.dumps(summary(found), indent=2))
    if given.json:
        kept = {"peaks": host, "rows": [{**asdict(row), "predicted_ms": ms} for row, ms in found]}
        given.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
