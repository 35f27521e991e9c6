"""Peak memory and time of the distillation loss, beside its peers, in one run.

    python benchmarks/loss.py [--tokens 512] [--vocab 151936] [--student 896] [--teacher 1536] [--repeats 5] [--json]

Each way computes the generalised JSD (beta 0.5) of the same student and teacher states over the same vocabulary,
forward and backward to the student's states and head:

    edgekit        edgekit.distill.vocabulary.answer_terms; it gives each token's log-probability (for GRPO) as well
    edgekit-dense  the same formula on whole logits, by autograd
    trl-dense      TRL's GKDTrainer.generalized_jsd_loss on whole logits
    trl-chunked    TRL's ChunkedDivergenceFunction, what its DistillationTrainer uses
    liger          Liger's fused linear JSD, where an accelerator and the package are there

Memory is what a fresh process needs above its inputs, weights and gradients; time is the median over repeats that are
interleaved between the ways in one process. TRL and Liger are measured if they are installed (`pip install trl`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BETA = 0.5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Loss = Callable[[Tensor, nn.Linear, Tensor, nn.Linear, Tensor], Tensor]


def edgekit(student: Tensor, head: nn.Linear, teacher: Tensor, other: nn.Linear, ids: Tensor) -> Tensor:
    from edgekit.distill.objectives import build
    from edgekit.distill.vocabulary import answer_terms

    terms = answer_terms(
        (student, head), (teacher, other), ids, {"jsd": build("jsd", {"beta": BETA})}, len(head.weight)
    )
    return terms.losses["jsd"].mean() + 0.0 * terms.logp.sum()


def edgekit_dense(student: Tensor, head: nn.Linear, teacher: Tensor, other: nn.Linear, ids: Tensor) -> Tensor:
    from edgekit.distill.objectives.jsd import jsd

    with torch.no_grad():
        aim = other(teacher)
    return jsd(head(student), aim, BETA).mean()


def trl_dense(student: Tensor, head: nn.Linear, teacher: Tensor, other: nn.Linear, ids: Tensor) -> Tensor:
    from trl.experimental.gkd import GKDTrainer

    with torch.no_grad():
        aim = other(teacher)
    return GKDTrainer.generalized_jsd_loss(head(student)[None], aim[None], labels=ids[None], beta=BETA)


def trl_chunked(student: Tensor, head: nn.Linear, teacher: Tensor, other: nn.Linear, ids: Tensor) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    divergence, _ = ChunkedDivergenceFunction.apply(student, head.weight, None, teacher, other.weight, None, BETA)
    return divergence.mean()


def liger(student: Tensor, head: nn.Linear, teacher: Tensor, other: nn.Linear, ids: Tensor) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA, compiled=False)
    return loss(student, head.weight, teacher, other.weight, ids)


WAYS: dict[str, tuple[Loss, str]] = {
    "edgekit": (edgekit, ""),
    "edgekit-dense": (edgekit_dense, ""),
    "trl-dense": (trl_dense, "trl"),
    "trl-chunked": (trl_chunked, "trl"),
    "liger": (liger, "liger_kernel"),
}


def ready() -> list[str]:
    """Ways that can be measured here."""
    names = [name for name, (_, package) in WAYS.items() if not package or find_spec(package)]
    return [name for name in names if name != "liger" or DEVICE == "cuda"]


def problem(args: argparse.Namespace) -> tuple[Any, ...]:
    """The same states, heads and tokens for every way."""
    torch.manual_seed(0)
    kind = torch.bfloat16 if args.bf16 else torch.float32
    student = torch.randn(args.tokens, args.student, device=DEVICE, dtype=kind).requires_grad_()
    teacher = torch.randn(args.tokens, args.teacher, device=DEVICE, dtype=kind)
    heads = [
        nn.Linear(width, args.vocab, bias=False, device=DEVICE, dtype=kind) for width in (args.student, args.teacher)
    ]
    heads[1].requires_grad_(False)
    return student, heads[0], teacher, heads[1], torch.randint(0, args.vocab, (args.tokens,), device=DEVICE)


def once(name: str, parts: tuple[Any, ...]) -> tuple[float, float]:
    """(seconds, loss) of one forward and backward."""
    parts[0].grad = parts[1].weight.grad = None  # as a Trainer leaves them after a step
    start = time.perf_counter()
    loss = WAYS[name][0](*parts)
    loss.backward()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, loss.item()


def peak(name: str, args: argparse.Namespace) -> int:
    """Bytes a fresh process needs above what it holds before the step, less the gradients that the step leaves."""
    parts = problem(args)
    warm = argparse.Namespace(**{**vars(args), "tokens": 4, "vocab": 256})
    once(name, problem(warm))  # imports and thread pools are not the loss's memory
    gradients = parts[0].nbytes + parts[1].weight.nbytes
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        once(name, parts)
        return torch.cuda.max_memory_allocated() - held - gradients
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held = _status("VmRSS")
    once(name, parts)
    return _status("VmHWM") - held - gradients


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("tokens", 512), ("vocab", 151_936), ("student", 896), ("teacher", 1536), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak, args))
        return
    names = ready()
    command = [sys.executable, *sys.argv]
    memory = {
        name: int(subprocess.run([*command, "--peak", name], check=True, capture_output=True, text=True).stdout)
        for name in names
    }
    parts = problem(args)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses = {}
    for repeat in range(args.repeats + 1):
        for name in names:
            spent, losses[name] = once(name, parts)
            if repeat:  # the first one warms up
                seconds[name].append(spent)
    rows = [
        {
            "way": name,
            "loss": losses[name],
            "peak_bytes": memory[name],
            "seconds_median": float(np.median(seconds[name])),
            "seconds_all": seconds[name],
            "memory_of_ours": memory[name] / memory["edgekit"],
            "time_of_ours": float(np.median(np.array(seconds[name]) / np.array(seconds["edgekit"]))),
        }
        for name in names
    ]
    if args.json:
        print(json.dumps({"settings": vars(args), "device": DEVICE, "rows": rows}, indent=2))
        return
    print(f"{args.tokens} tokens, vocabulary {args.vocab:,}, widths {args.student} and {args.teacher}, {DEVICE}")
    print(f"{'way':<14} {'loss':>9} {'peak MB':>9} {'x ours':>7} {'seconds':>8} {'x ours':>7}")
    for row in rows:
        print(
            f"{row['way']:<14} {row['loss']:9.6f} {row['peak_bytes'] / 1e6:9.0f} {row['memory_of_ours']:7.2f}"
            f" {row['seconds_median']:8.2f} {row['time_of_ours']:7.2f}"
        )


if __name__ == "__main__":
    main()
