"""Training steps with a prompt run once for its responses, beside a row for each response.

    python benchmarks/packing.py --shape demo --shape mid --repeats 5

A step is what `edgekit distill` does on a batch: images, both decoders, JSD, GRPO, the backward pass, AdamW. `demo`:
the built-in teacher (masked as in its recipe) and student, with the responses both draw, equal ones run once. `mid`:
96 M parameters with random weights twice, 256 image tokens, eight different responses of six tokens. Steps are timed in
one process in turn; peak memory is each way's own, in fresh processes, above the loaded models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from generate import mid  # the script beside this one

from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.data import samples
from edgekit.distill.batch import Prompts, embed, encode_prompts, response_hidden
from edgekit.distill.generators.transformers import sample
from edgekit.distill.groups import Group, Weights
from edgekit.distill.loss import joint_loss
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.objectives import build
from edgekit.distill.policy import Measured
from edgekit.distill.vocabulary import answer_terms
from edgekit.families import family_of
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData

RESPONSES = 8
WAYS = {"packed": True, "a row each": False}


@dataclasses.dataclass
class Case:
    """Models with a batch: Q questions and their distinct responses."""

    student: Any
    teacher: Any
    processor: Processor
    prompts: Prompts
    owners: list[int]
    responses: list[list[int]]
    slots: list[list[int]]

    @property
    def vocab(self) -> int:
        """Size of the vocabulary."""
        return int(self.student.config.get_text_config().vocab_size)


def demo(questions: int) -> Case:
    """The demo models and what they say."""
    folder = resolve_checkpoint("demo:teacher")
    processor, teacher = Processor.load(folder), load_model(folder, attn="eager").requires_grad_(False)
    student = load_model(resolve_checkpoint("demo:student"), attn="eager")
    MaskedTeacher(teacher, folder, family_of("idefics3"), "all", ()).set_ratio(0.6)
    prompts = encode_prompts(processor, list(samples("easy-vqa:train", limit=questions)))
    settings = GenData(max_new_tokens=8)
    drawn = [sample(model, processor, prompts, RESPONSES // 2, settings, 0) for model in (teacher, student)]
    return _case(student, teacher, processor, prompts, [a + b for a, b in zip(*drawn, strict=True)])


def wide(questions: int) -> Case:
    """Random weights, 256 image tokens."""
    student, processor = mid(image_size=512)
    teacher, _ = mid(image_size=512)
    teacher.requires_grad_(False)
    prompts = encode_prompts(processor, list(samples("easy-vqa:train", limit=questions)))
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randint(300, 30_000, (questions, RESPONSES, 6), generator=rng).tolist()
    return _case(student, teacher, processor, prompts, drawn)


SHAPES: dict[str, tuple[Callable[[int], Case], int]] = {"demo": (demo, 48), "mid": (wide, 2)}


def _case(student: Any, teacher: Any, processor: Processor, prompts: Prompts, drawn: list[list[list[int]]]) -> Case:
    distinct: dict[tuple[int, tuple[int, ...]], int] = {}
    slots = [[distinct.setdefault((q, tuple(ids)), len(distinct)) for ids in rows] for q, rows in enumerate(drawn)]
    owners, responses = [q for q, _ in distinct], [list(ids) for _, ids in distinct]
    return Case(student, teacher, processor, prompts, owners, responses, slots)


def step_of(case: Case, pack: bool) -> Callable[..., float]:
    """A training step, which leaves the student as it is where `learn` is False; returns the loss."""
    optimizer = torch.optim.AdamW(case.student.parameters(), lr=1e-6)
    ids = torch.tensor([token for response in case.responses for token in response])
    count, objective = len(case.responses), build("jsd", {})
    group = Group(
        owners=torch.tensor(case.owners),
        lengths=torch.tensor([len(response) for response in case.responses]),
        slots=torch.tensor(case.slots),
        r_acc=(torch.arange(count) % 2).float(),
        present=torch.ones(count, dtype=torch.bool),
        ref_logp=torch.full((len(ids),), -math.log(case.vocab)),  # else k3 of random weights is thousands of nats
        writer_logp=torch.full((len(ids),), -math.log(case.vocab)),
        from_teacher=torch.zeros(len(case.slots), RESPONSES, dtype=torch.bool),
        reference=torch.full((len(case.slots),), -1),
    )

    def states(model: Any) -> Any:
        return response_hidden(
            model, embed(model, case.processor, case.prompts, 0), case.owners, case.responses, 0, pack
        )

    def step(learn: bool = True) -> float:
        hidden = states(case.student)
        with torch.no_grad():
            aim = states(case.teacher)
        heads = case.student.get_output_embeddings(), case.teacher.get_output_embeddings()
        terms = answer_terms((hidden, heads[0]), (aim, heads[1]), ids, {"jsd": objective}, case.vocab)
        loss = joint_loss(Measured(terms.logp), terms.losses, group, Weights(objective={"jsd": 1.0})).loss
        loss.backward()
        if learn:
            optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def resident() -> int:
    """Bytes of this process that are its own."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024


def peak(case: Case, pack: bool) -> int:
    """Highest memory of one step after a first one, bytes above the loaded models; looked at every 2 ms."""
    start, highest, done = resident(), 0, threading.Event()

    def look() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, resident())

    watch = threading.Thread(target=look)
    watch.start()
    step = step_of(case, pack)
    step(), step()
    done.set()
    watch.join()
    return highest - start


def measure(case: Case, repeats: int) -> dict[str, list[float]]:
    """Seconds of a step, once per repetition, the ways in turn."""
    steps = {name: step_of(case, pack) for name, pack in WAYS.items()}
    first = [step(learn=False) for step in steps.values()]  # warms up, and both must be at the same loss
    if abs(first[0] - first[1]) > 1e-3 * abs(first[1]) + 1e-4:
        raise SystemExit(f"The ways do not agree: losses {first}.")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="may be repeated; both when absent")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", nargs=2, metavar=("SHAPE", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.once:
        make, questions = SHAPES[given.once[0]]
        print(peak(make(questions), WAYS[given.once[1]]))
        return
    found = {name: _row(name, given) for name in given.shape or SHAPES}
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, row in found.items():
        print(f"\n{name}: {row['questions']} questions, {row['distinct']} different responses of {row['drawn']}")
        for way in WAYS:
            print(f"  {way:12} {row[way]['step_s']:8.3f} s a step  {row[way]['peak_bytes'] / 1e6:10,.0f} MB at most")
        low, high = row["speedup_range"]
        print(f"  packed does {row['speedup']:.2f} ({low:.2f} - {high:.2f}) times the steps")


def _row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    make, questions = SHAPES[name]
    command = [sys.executable, __file__, "--threads", str(given.threads), "--once", name]
    peaks = {
        way: int(subprocess.run([*command, way], check=True, capture_output=True, text=True).stdout) for way in WAYS
    }
    case = make(questions)
    seconds = measure(case, given.repeats)
    ratios = sorted(b / a for a, b in zip(seconds["packed"], seconds["a row each"], strict=True))
    return {
        "questions": questions,
        "distinct": len(case.responses),
        "drawn": questions * RESPONSES,
        **{way: {"step_s": statistics.median(s), "peak_bytes": peaks[way], "raw": s} for way, s in seconds.items()},
        "speedup": statistics.median(ratios),
        "speedup_range": [ratios[0], ratios[-1]],
    }


if __name__ == "__main__":
    main()
