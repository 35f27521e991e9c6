"""How far apart the distances of a question's responses lie: what `masters.rewards.min_spread` is compared with.

    python benchmarks/spread.py --questions 256

The demo's student and its teacher, at mask ratios of the demo's schedule, draw four responses each; D is the mean
JSD over a response, as R_distill takes it. Relative spread: (D_max - D_min) / D_max over the responses of one question.
Printed are its quantiles, over questions with two distinct responses or more, and what R_distill does at each
threshold: of the pairs of a right and a wrong response it ranks those where it prefers the right one, and the groups
with pairs where R_acc + R_distill has no preference left.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.data import Sample, samples
from edgekit.distill.batch import embed, encode_prompts, response_hidden
from edgekit.distill.generators.transformers import sample
from edgekit.distill.groups import row_means
from edgekit.distill.judges import rule
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.objectives import build
from edgekit.distill.rewards import distill_rewards, group_advantages
from edgekit.distill.vocabulary import answer_terms
from edgekit.families import family_of
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData

RATIOS = (0.6, 0.3, 0.0)
THRESHOLDS = (0.0, 0.0001, 0.001, 0.01, 0.1, 0.3)
PER_BATCH = 32


@dataclass
class Groups:
    """Distances and R_acc (Q, G) of the drawn responses, and how many of each question's are distinct (Q,)."""

    distances: torch.Tensor
    right: torch.Tensor
    distinct: list[int]

    @property
    def spread(self) -> np.ndarray[Any, Any]:
        """(Q,) relative."""
        high, low = self.distances.amax(1), self.distances.amin(1)
        return ((high - low) / high.clamp_min(1e-30)).numpy()


@torch.no_grad()
def measure(teacher: Any, student: Any, processor: Processor, batch: list[Sample]) -> Groups:
    """Draw, and compare both models on what was drawn."""
    prompts, settings = encode_prompts(processor, batch), GenData(max_new_tokens=8)
    both = [sample(model, processor, prompts, 4, settings, 0) for model in (teacher, student)]
    drawn = [a + b for a, b in zip(*both, strict=True)]
    distinct: dict[tuple[int, tuple[int, ...]], int] = {}
    slots = [[distinct.setdefault((q, tuple(ids)), len(distinct)) for ids in rows] for q, rows in enumerate(drawn)]
    owners, responses = [q for q, _ in distinct], [list(ids) for _, ids in distinct]
    sides = [
        (response_hidden(m, embed(m, processor, prompts, 0), owners, responses, 0), m.get_output_embeddings())
        for m in (student, teacher)
    ]
    ids = torch.tensor([token for response in responses for token in response])
    vocab = int(student.config.get_text_config().vocab_size)
    losses = answer_terms(sides[0], sides[1], ids, {"jsd": build("jsd", {})}, vocab).losses["jsd"]
    means = row_means(losses, torch.tensor([len(response) for response in responses]))
    verdicts = rule.make("exact")([(batch[q], processor.decode(list(ids))) for q, ids in distinct])
    places = torch.tensor(slots)
    return Groups(means[places], torch.tensor(verdicts)[places], [len(set(row)) for row in slots])


def report(groups: Groups) -> None:
    """Print one mask ratio's table."""
    several = np.array(groups.distinct) > 1
    spread = groups.spread[several]
    quantiles = np.quantile(spread, (0.05, 0.25, 0.5, 0.75, 0.95)) if len(spread) else [float("nan")] * 5
    shown = ", ".join(f"{value:.2g}" for value in quantiles)
    print(
        f"  {several.sum()} of {len(several)} questions have distinct responses; relative spread at 5, 25, 50, 75, 95 %"
    )
    print(f"  of them: {shown}")
    right, D = groups.right, groups.distances
    mixed = (right.amax(1) > 0) & (right.amin(1) < 1)
    print("  min_spread   groups with R_distill   right preferred, of all pairs   cancelled, of mixed groups")
    for threshold in THRESHOLDS:
        kept = torch.from_numpy((groups.spread >= threshold) & (groups.spread > 0))
        rewards = torch.where(kept[:, None], distill_rewards(D, torch.ones_like(D, dtype=torch.bool)), 0.0)
        pairs = (right[:, :, None] > 0) & (right[:, None, :] == 0) & kept[:, None, None]
        gap = rewards[:, :, None] - rewards[:, None, :]
        won = int((pairs & (gap > 0)).sum())
        dead = (group_advantages(right + rewards) == 0).all(1) & mixed
        total = int(pairs.sum())
        share = f"{won / total:6.1%} of {total}" if total else "-"
        print(f"  {threshold:10g}   {int(kept.sum()):21d}   {share:>28}   {int(dead.sum())} of {int(mixed.sum())}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--student", default="demo:student", help="a checkpoint, for instance one half trained")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = resolve_checkpoint("demo:teacher")
    processor, model = Processor.load(folder), load_model(folder, attn="eager").requires_grad_(False)
    student = load_model(resolve_checkpoint(arguments.student), attn="eager")
    teacher = MaskedTeacher(model, folder, family_of("idefics3"), "all", ())
    asked = list(samples("easy-vqa:train", limit=arguments.questions))
    for ratio in RATIOS:
        teacher.set_ratio(ratio)
        parts = [
            measure(teacher.model, student, processor, asked[start : start + PER_BATCH])
            for start in range(0, len(asked), PER_BATCH)
        ]
        print(f"mask ratio {ratio:g}")
        report(
            Groups(
                torch.cat([part.distances for part in parts]),
                torch.cat([part.right for part in parts]),
                [count for part in parts for count in part.distinct],
            )
        )


if __name__ == "__main__":
    main()
