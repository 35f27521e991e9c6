"""What a recipe asks of the machine: its models' sizes, its questions' lengths and what each stage visits.

From configurations and a few questions; no weights are loaded.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.data import Sample, samples
from edgekit.distill import lora, trackers
from edgekit.distill.batch import Prompts, encode_prompts
from edgekit.distill.masking import mask_ratio
from edgekit.distill.model_sizes import ModelSizes, sizes_of
from edgekit.distill.objectives import build
from edgekit.distill.order import Order
from edgekit.distill.responses import Used
from edgekit.distill.settings import Assumed
from edgekit.errors import RecipeError
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import Recipe

ASSUMED_R_MAX = 0.2  # of a teacher whose r_max is "auto": the paper's
SAMPLED_QUESTIONS = 64


@dataclass(frozen=True)
class Load:
    """What the train questions weigh for one model.

    Attributes:
        prompt: Mean tokens of a prompt, image tokens included.
        longest: Tokens of the longest.
        patches: Mean patches of a question's images.
        context: Patches that attend to each other.
        fresh: Share of consecutive questions whose images no other of their batch has.
    """

    prompt: float
    longest: int
    patches: float
    context: float
    fresh: float


@dataclass(frozen=True)
class Checkpoint:
    """A model with its load."""

    name: str
    sizes: ModelSizes
    load: Load

    def image_flops(self) -> float:
        """Forward pass of the images of one question."""
        return self.sizes.vision.forward_flops(self.load.patches, self.load.context)

    def row_flops(self, tokens: float) -> float:
        """Forward pass of one prompt with a response of `tokens` tokens through the decoder and the output head."""
        length = self.load.prompt + tokens
        return self.sizes.text.forward_flops(length, length) + self.head_flops(tokens)

    def rows(self, distinct: float, tokens: float, prompt: float) -> tuple[float, float]:
        """(rows, tokens of each) that a question's responses are run in: one behind its prompt, or one for each."""
        packed, alone = prompt + distinct * (tokens - 1), prompt + tokens
        text = self.sizes.text
        if self.sizes.packs and text.forward_flops(packed, packed) < distinct * text.forward_flops(alone, alone):
            return 1.0, packed
        return distinct, alone

    def trained_flops(self, distinct: float, tokens: float) -> float:
        """Forward pass of a question with all of its different responses."""
        rows, length = self.rows(distinct, tokens, self.load.prompt)
        return rows * self.sizes.text.forward_flops(length, length) + self.head_flops(distinct * tokens)

    def head_flops(self, tokens: float) -> float:
        """Projection of `tokens` states onto the vocabulary."""
        return 2 * tokens * self.sizes.text.width * self.sizes.vocab


@dataclass(frozen=True)
class Plan:
    """A recipe with what was found out about it.

    Attributes:
        recipe: Resolved.
        student, teachers: The models.
        used: Responses per question that the loss looks at.
        stages: Of each teacher, the different questions that each of its mask stages visits.
        student_questions: Questions that the student answers, counted again where it is asked anew.
        questions: Train questions.
        test: Test questions.
        rows: Some train questions.
        tokens: Of a response, assumed.
        distinct: Different responses of a question that are trained on; those that are alike are run once.
        processes: That share the work.
        flops: Of a large matrix product, per second and process.
    """

    recipe: Recipe
    student: Checkpoint
    teachers: list[Checkpoint]
    used: Used
    stages: list[list[int]]
    student_questions: int
    questions: int
    test: int
    rows: list[Sample]
    tokens: float
    distinct: float
    processes: int
    flops: float

    @property
    def teacher_questions(self) -> list[int]:
        """Questions that each teacher answers, counted again at each mask ratio."""
        return [sum(stages) for stages in self.stages]


def plan_of(recipe: Recipe, base: Path, flops: float, assumed: Assumed) -> Plan:
    """Look at a recipe's models and questions.

    Args:
        recipe: Resolved.
        base: Folder that relative checkpoint names start from.
        flops: Of a large matrix product, per second and process.
        assumed: The rest of what is taken for given.

    Raises:
        EdgekitError: a model's configuration or the data is missing, or a number makes no sense.
    """
    response_tokens, distinct, processes = assumed.response_tokens, assumed.distinct_responses, assumed.processes
    if response_tokens is not None and not response_tokens > 0:
        raise RecipeError("--flops and --response-tokens must be above 0.")
    if processes < 1 or recipe.trainer.batch_questions % processes:
        raise RecipeError(
            f"{recipe.trainer.batch_questions} questions of a batch cannot be shared out among {processes} processes.",
            fix="trainer.batch_questions must be a multiple of --processes.",
        )
    lora.check(recipe.trainer.lora)
    trackers.chosen(recipe.trainer.report_to)
    data, settings = recipe.data, recipe.masters.gen_data
    objectives = [build(name, recipe.objective_settings.get(name, {})) for name in recipe.objective]
    used = Used.by(recipe, objectives)
    group = used.teacher + used.student + any(objective.over == "reference" for objective in objectives)
    if distinct is not None and not 1 <= distinct <= group:
        raise RecipeError(f"--distinct-responses: {distinct:g} is not between 1 and {group}.")
    rows = list(samples(data.train, limit=min(SAMPLED_QUESTIONS, settings.batch_questions)))
    questions = sum(1 for _ in samples(data.train, limit=data.train_limit))
    stages, student_questions = _visited(recipe, questions)
    return Plan(
        recipe=recipe,
        student=_checkpoint(recipe.student.checkpoint, base, rows),
        teachers=[_checkpoint(model.checkpoint, base, rows) for model in recipe.teachers],
        used=used,
        stages=stages if used.teacher else [[0] for _ in stages],
        student_questions=student_questions if used.student else 0,
        questions=questions,
        test=sum(1 for _ in samples(data.test, limit=data.test_limit)),
        rows=rows,
        tokens=min(response_tokens or math.inf, settings.max_new_tokens),
        distinct=distinct or group,
        processes=processes,
        flops=flops,
    )


def _visited(recipe: Recipe, questions: int) -> tuple[list[list[int]], int]:
    """Different questions that each mask stage of each teacher visits, and those the student is asked."""
    order, first = Order(questions, recipe.trainer.seed), 0
    per_step = recipe.trainer.batch_questions * recipe.trainer.gradient_accumulation
    stages, teacher_stages = [], []
    for number in range(len(recipe.teachers)):
        steps, wanted = recipe.steps(number), recipe.r_max(number)
        r_max = ASSUMED_R_MAX if wanted == "auto" else wanted
        ratios = [mask_ratio(step, steps, r_max, recipe.r_step(number)) for step in range(steps)]
        cuts = [0, *(step for step in range(1, steps) if ratios[step] != ratios[step - 1]), steps]
        visits = [order.visits(first + a * per_step, first + b * per_step) for a, b in itertools.pairwise(cuts)]
        stages.append([len(np.unique(rows)) for rows in visits])
        teacher_stages.append(np.unique(np.concatenate(visits)))
        first += steps * per_step
    asked = {
        "never": len(np.unique(np.concatenate(teacher_stages))),
        "per_teacher": sum(map(len, teacher_stages)),
        "per_stage": sum(map(sum, stages)),
    }
    return stages, asked[recipe.masters.gen_data.student_refresh]


def _checkpoint(name: str, base: Path, rows: list[Sample]) -> Checkpoint:
    folder = resolve_checkpoint(name, base, weights=False)
    sizes, processor = sizes_of(folder), Processor.load(folder)
    prompts = encode_prompts(processor, rows)
    lengths = [len(ids) for ids in prompts.ids]
    context, per_image = _patches(prompts, sizes.patch)
    load = Load(
        prompt=sum(lengths) / len(lengths),
        longest=max(lengths),
        patches=per_image * sum(len(own) for own in prompts.images) / len(rows),
        context=context,
        fresh=len({sample.images for sample in rows}) / len(rows),
    )
    return Checkpoint(name, sizes, load)


def _patches(prompts: Prompts, edge: int) -> tuple[float, float]:
    """Patches that attend to each other, and patches of an image; pixels are tiles (M, 3, H, W), or patches (M, P)."""
    if prompts.pixels is None:
        return 0.0, 0.0
    if prompts.pixels.dim() == 4:
        each = prompts.pixels[0].numel() / 3 / edge**2
        return each, each * len(prompts.pixels) / len(prompts.grids)
    each = len(prompts.pixels) / len(prompts.grids)
    return each, each
