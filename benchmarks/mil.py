"""Time and memory of evaluating a stateful decoder from its Core ML package, beside PyTorch eager on the same modules.

    python benchmarks/mil.py [--layers 30] [--width 576] [--prompt 80] [--repeats 5] [--precision fp16] [--json]

The default is SmolVLM-256M's text model in shape (30 layers of width 576, MLP 1,536, vocabulary 49,280) with random
weights, its keys and values as Core ML states. Both sides take the same steps in turn in one process: a prefill, then
single tokens on the growing cache. The ratio is taken within each repetition; below 1 the evaluator is faster.
Memory is the process's own (anonymous) memory that loading and running the package added, and the mapped pages of the
weight file beside it, in a fresh process that never builds the PyTorch model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

HEADS = 4  # coreml_models.Decoder's query heads; half as many hold keys and values
CONTEXT = 256


def build(folder: Path, args: argparse.Namespace) -> Any:
    """The decoder in PyTorch, and its package in `folder`."""
    import coreml_models as models
    import coremltools as ct

    torch.manual_seed(0)
    mlp = args.width * 8 // 3
    model = models.Decoder(args.width, args.layers, CONTEXT, args.vocabulary, mlp).eval()
    tokens, length = (ct.RangeDim(1, CONTEXT, default=1) for _ in range(2))
    half = np.float16
    converted = models.convert(
        model,
        (torch.randn(1, 3, args.width), models.causal(3, 5)),
        folder,
        inputs=[
            ct.TensorType("x", shape=(1, tokens, args.width), dtype=half),
            ct.TensorType("mask", shape=(1, 1, tokens, length), dtype=half),
        ],
        outputs=[ct.TensorType("out", dtype=half)],
        states=model.states(),
    )
    if args.precision != "fp16":
        compress(converted, args.precision).save(str(folder))
    return model


def compress(converted: Any, precision: str) -> Any:
    from coremltools.optimize import coreml as co

    if precision == "palette4":
        config = co.OptimizationConfig(co.OpPalettizerConfig(mode="uniform", nbits=4))
        return co.palettize_weights(converted, config)
    blocks: dict[str, Any] = {"dtype": "int4", "granularity": "per_block"} if precision == "int4" else {}
    config = co.OptimizationConfig(co.OpLinearQuantizerConfig(mode="linear_symmetric", **blocks))
    return co.linear_quantize_weights(converted, config)


def script(args: argparse.Namespace) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs of a prefill and of single tokens."""
    import coreml_models as models

    torch.manual_seed(1)
    sizes = [args.prompt, *[1] * args.tokens]
    ends = np.cumsum(sizes)
    return [(torch.randn(1, n, args.width), models.causal(n, int(end))) for n, end in zip(sizes, ends, strict=True)]


Step = Callable[[torch.Tensor, torch.Tensor], Any]


def timed(step: Step, steps: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float, Any]:
    """Prefill and mean decode time in ms, and the last logits."""
    spent, found = [], None
    for x, mask in steps:
        start = time.perf_counter()
        found = step(x, mask)
        spent.append(1000 * (time.perf_counter() - start))
    return spent[0], statistics.fmean(spent[1:]), found


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    from edgekit.runtimes.mil import Package

    model = build(folder, args)
    start = time.perf_counter()
    function = Package(folder, keep=args.keep).function()
    load_ms = 1000 * (time.perf_counter() - start)
    steps = script(args)
    rows: dict[str, list[tuple[float, float]]] = {"torch": [], "evaluator": []}
    worst = 0.0
    for repeat in range(args.repeats + 1):
        for buffer in model.buffers():
            buffer.zero_()
        state = function.make_state()
        with torch.no_grad():
            *eager, want = timed(model, steps)
        *ours, got = timed(lambda x, mask: function.predict({"x": x, "mask": mask}, state)["out"], steps)  # noqa: B023
        worst = max(worst, float(np.abs(got.astype(np.float32) - want.numpy()).max() / want.abs().max()))
        if repeat:  # the first one warms both
            rows["torch"].append((eager[0], eager[1]))
            rows["evaluator"].append((ours[0], ours[1]))
    return {"load_ms": load_ms, "relative_logit_error": worst, **summary(rows)}


def summary(rows: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians in ms of each side, and the median of the ratios within repetitions."""
    found: dict[str, Any] = {}
    for at, name in enumerate(("prefill", "decode")):
        for side, times in rows.items():
            found[f"{side}_{name}_ms"] = statistics.median(row[at] for row in times)
        ratios = [mine[at] / theirs[at] for mine, theirs in zip(rows["evaluator"], rows["torch"], strict=True)]
        found[f"{name}_ratio"], found[f"{name}_ratio_range"] = statistics.median(ratios), [min(ratios), max(ratios)]
    return found


def own_memory() -> dict[str, int]:
    """Bytes of this process that are its own, and that are mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return {"anonymous": found["RssAnon"], "mapped": found["RssFile"]}


def memory(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Bytes added by loading and by steps; the peak is looked at after each step and while loading ends."""
    from edgekit.runtimes.mil import Package
    from edgekit.runtimes.mil.ops import operations

    operations()
    steps = script(args)
    before = own_memory()
    function = Package(folder, keep=args.keep).function()
    state = function.make_state()
    peaks = [own_memory()]
    for x, mask in steps:
        function.predict({"x": x, "mask": mask}, state)
        peaks.append(own_memory())
    weights = sum(path.stat().st_size for path in folder.rglob("weight.bin"))
    added = {kind: max(peak[kind] for peak in peaks) - before[kind] for kind in before}
    return {
        "weight_bytes": weights,
        "added_own_bytes": added["anonymous"],
        "added_mapped_bytes": added["mapped"],
        "added_over_weights": sum(added.values()) / weights,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"layers": 30, "width": 576, "vocabulary": 49280, "prompt": 80, "tokens": 16, "repeats": 5}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", choices=["fp16", "int8", "int4", "palette4"], default="fp16")
    parser.add_argument("--keep", choices=["dense", "stored"], default="dense")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        print(json.dumps(memory(args.memory_of, args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "decoder.mlpackage"
        found = measure(package, args)
        again = [sys.executable, __file__, *sys.argv[1:], "--memory-of", str(package)]
        found |= json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(json.dumps(found) if args.json else "\n".join(f"{key:24} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
