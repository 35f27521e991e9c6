"""What a recipe will need, before anything starts: memory, disk, hours; from configurations and a few questions.

Everything is an estimate whose assumptions are listed beside it. docs/scale.md compares it with a measured run.
"""

from __future__ import annotations

import io
import itertools
import math
import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from edgekit.distill.gen_data import RESPONSES
from edgekit.distill.groups import Weights
from edgekit.distill.objectives import OBJECTIVES
from edgekit.distill.plan import ASSUMED_R_MAX, Plan, plan_of
from edgekit.distill.questions import QUESTIONS, question_row
from edgekit.distill.settings import Assumed
from edgekit.distill.vocabulary import CHUNK_VALUES, KEEP_BYTES
from edgekit.errors import RecipeError
from edgekit.recipe.model import Recipe

# Shares of a large matrix product's speed; measured for the demo models on two CPU cores (docs/scale.md).
FORWARD_SHARE = 0.3
DECODE_SHARE = 0.1
EVALUATION_TOKENS = 16
DENSE_COPIES = 14  # float32 vocabulary vectors alive in a dense JSD, forward and backward
CHUNK_COPIES = 6  # the same within a chunk
REPLIES = ("yes", "no", "it is", "the", "a", "two", "red", "left")


def estimate(recipe: Recipe, base: Path, assumed: Assumed) -> dict[str, Any]:
    """Memory in bytes per process, disk in bytes, time in hours, with every part and assumption.

    Args:
        recipe: Resolved.
        base: Folder that relative checkpoint names start from.
        assumed: What is taken for given.

    Raises:
        EdgekitError: a model's configuration or the data is missing, or a number makes no sense.
    """
    if assumed.flops is not None and not assumed.flops > 0:
        raise RecipeError("--flops and --response-tokens must be above 0.")
    if recipe.trainer.threads:
        torch.set_num_threads(recipe.trainer.threads)
    speed = assumed.flops or matmul_flops(bf16=recipe.trainer.bf16)
    plan = plan_of(recipe, base, speed, assumed)
    memory, disk, work = _memory(plan), _disk(plan), _work(plan)
    seconds = {
        "gen_data": work["gen_data"] / (FORWARD_SHARE * plan.flops) + work["decode"] / (DECODE_SHARE * plan.flops),
        "train": work["train"] / (FORWARD_SHARE * plan.flops),
        "measure": work["measure"] / (FORWARD_SHARE * plan.flops),
    }
    hours = {name: value / assumed.processes / 3600 for name, value in seconds.items()}
    return {
        "parameters": {
            "teachers": {checkpoint.name: checkpoint.sizes.parameters for checkpoint in plan.teachers},
            "student": plan.student.sizes.parameters,
            "trainable": plan.student.sizes.trainable(recipe.trainer.lora),
        },
        "questions": {"train": plan.questions, "test": plan.test},
        "responses": _responses(plan),
        "memory_bytes": memory,
        "disk_bytes": {**disk, "total": sum(disk.values())},
        "flops": {**work, "per_second": plan.flops},
        "hours": {**hours, "total": sum(hours.values())},
        "assumptions": _assumptions(plan, assumed.flops is not None),
    }


def matmul_flops(*, bf16: bool) -> float:
    """FLOP/s of the best of the large matrix products of a second on this machine's GPU, else its CPU.

    A second and not a few products: another program may have the core for a tenth of one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    best, end = math.inf, time.perf_counter() + 1.0
    while (begun := time.perf_counter()) < end or best == math.inf:
        (one @ one).sum().item()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


# --------------------------------------------------------------------------------------------------------- the parts


def _responses(plan: Plan) -> dict[str, float]:
    teacher = plan.used.teacher * sum(plan.teacher_questions)
    student = plan.used.student * plan.student_questions
    return {"teacher": teacher, "student": student, "tokens": (teacher + student) * plan.tokens}


def _memory(plan: Plan) -> dict[str, Any]:
    """Peak of one process while it trains and while it writes responses; weights are held in float32."""
    trainer, student = plan.recipe.trainer, plan.student.sizes
    trainable = student.trainable(trainer.lora)
    teacher = max(checkpoint.sizes.parameters for checkpoint in plan.teachers) * 4
    questions = trainer.batch_questions // plan.processes
    tokens = questions * plan.distinct * plan.tokens
    values = tokens * student.vocab
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    training = {
        "teacher weights": teacher,
        "student weights": 4 * student.parameters,
        **({"pi_ref weights": 4 * student.parameters} if Weights.by(plan.recipe, {}).needs_reference else {}),
        "student gradients": 4 * trainable,
        "AdamW states": 8 * trainable,
        "activations": _activations(plan, questions),
        "answer logits, in chunks": CHUNK_COPIES * 4 * min(values, CHUNK_VALUES[kind])
        + min(2 * 4 * values, KEEP_BYTES[kind]),
    }
    generation = {
        "teacher weights": teacher,
        "student weights": 4 * student.parameters,
        "keys and values, activations": _generation(plan),
    }
    return {
        "training": training,
        "gen_data": generation,
        "peak": max(sum(training.values()), sum(generation.values())),
        "answer logits if dense": DENSE_COPIES * 4 * values,
        "student states under FSDP2 or ZeRO-3": (4 * student.parameters + 12 * trainable) / plan.processes,
    }


def _activations(plan: Plan, questions: int) -> float:
    """Of the student, in training; under autocast its weights are kept once more in bfloat16."""
    trainer, sizes, load = plan.recipe.trainer, plan.student.sizes, plan.student.load
    how = {"bf16": trainer.bf16, "eager": trainer.attention == "eager", "checkpointed": trainer.gradient_checkpointing}
    rows, length = plan.student.rows(plan.distinct, plan.tokens, load.longest)
    kept = sizes.text.kept_bytes(questions * rows * length, length, **how)
    kept += sizes.vision.kept_bytes(questions * load.patches, load.context, **how)
    return kept + (2 * sizes.parameters if trainer.bf16 else 0)


def _generation(plan: Plan) -> float:
    """Of the larger of both writers: keys and values, which grow by copying, and one layer of the prompt's pass."""
    settings = plan.recipe.masters.gen_data
    most = 0.0
    for checkpoint, count in [(plan.student, settings.student_responses)] + [
        (teacher, settings.teacher_responses) for teacher in plan.teachers
    ]:
        sizes, rows = checkpoint.sizes, settings.batch_questions * count
        length = checkpoint.load.longest + plan.tokens
        cache = 2 * 4 * rows * length * sizes.text.layers * 2 * sizes.text.kv_width
        prompt = 4 * settings.batch_questions * checkpoint.load.longest * (4 * sizes.text.width + 3 * sizes.text.inner)
        images = settings.batch_questions * checkpoint.load.fresh * checkpoint.load.patches
        vision = 4 * images * (4 * sizes.vision.width + 2 * sizes.vision.inner)
        draws = rows * sizes.vocab * 4 * 6  # logits, sorted values with 8-byte places, shares
        most = max(most, cache + prompt + vision + draws)
    return most


def _disk(plan: Plan) -> dict[str, float]:
    """What stays in the run's folder."""
    recipe, sizes = plan.recipe, plan.student.sizes
    weights, trainable = 4 * sizes.parameters, sizes.trainable(recipe.trainer.lora)
    shards = math.ceil(plan.questions / recipe.masters.gen_data.shard_questions)
    counts = _responses(plan)
    responses = counts["teacher"] + counts["student"]
    passes = [*itertools.chain(*plan.stages), plan.student_questions]
    files = sum(min(shards, asked) for asked in passes)  # the visits of a stage lie spread over all shards
    asked, asked_cache = _stored(QUESTIONS, [question_row(sample) for sample in plan.rows], plan.questions, shards)
    said, said_cache = _stored(RESPONSES, _likely_responses(plan), responses, files)
    checkpoint = (weights if recipe.trainer.lora is None else 4 * trainable) + 8 * trainable
    kept = sum(min(2, math.ceil(recipe.steps(n) / recipe.trainer.save_steps)) for n in range(len(plan.teachers)))
    return {
        "questions": asked,
        "responses": said,
        "cache": asked_cache + said_cache,
        "checkpoints": kept * checkpoint + len(plan.teachers) * weights,
        "student": weights,
        "reports": 2 * plan.test * 64,
    }


def _stored(schema: pa.Schema, rows: list[dict[str, Any]], count: float, files: int) -> tuple[float, float]:
    """Bytes of `count` such rows in Parquet shards, and in the memory-mapped cache that training reads."""
    table = pa.Table.from_pylist(rows, schema=schema)
    sizes = []
    for part in (table, table.slice(0, len(rows) // 2)):
        file = io.BytesIO()
        pq.write_table(part, file, compression="zstd")
        sizes.append(file.tell())
    # A file costs something whatever it holds: what two lengths of it say.
    row = (sizes[0] - sizes[1]) / max(1, len(rows) - len(rows) // 2)
    return row * count + files * max(0.0, sizes[0] - row * len(rows)), table.nbytes / len(rows) * count


def _likely_responses(plan: Plan) -> list[dict[str, Any]]:
    """Rows of a shard as Gen-Data would write it; log-probabilities do not compress, words repeat."""
    rng, length = random.Random(0), max(1, round(plan.tokens))
    count = max(1, plan.recipe.masters.gen_data.teacher_responses)
    shard = min(plan.questions, plan.recipe.masters.gen_data.shard_questions)
    ids = [sample.id for sample in plan.rows]
    rows = []
    for question in range(shard):
        for number in range(count):
            tokens = [rng.randrange(plan.student.sizes.vocab) for _ in range(length)]
            rows.append(
                {
                    "question_id": f"{ids[question % len(ids)]}{question}",
                    "source": "teacher",
                    "teacher": plan.teachers[0].name,
                    "mask_ratio": 0.2,
                    "number": number,
                    "text": " ".join(rng.choice(REPLIES) for _ in range(length)),
                    "token_ids": tokens,
                    "r_acc": float(rng.random() < 0.5),
                    "ref_logp": [-rng.random() for _ in range(length)],
                    "seed": question // plan.recipe.masters.gen_data.batch_questions,
                }
            )
    return rows


def _work(plan: Plan) -> dict[str, float]:
    """FLOPs of the whole run by part: decoding token by token runs far below a matrix product's speed."""
    recipe, student, tokens = plan.recipe, plan.student, plan.tokens
    passes = [(student, plan.used.student, plan.student_questions)] + [
        (teacher, plan.used.teacher, asked)
        for teacher, asked in zip(plan.teachers, plan.teacher_questions, strict=True)
    ]
    prompts = decode = 0.0
    for checkpoint, count, asked in passes:
        again = checkpoint.load.fresh * (checkpoint.image_flops() + student.image_flops())
        reference = min(count, plan.distinct) * student.row_flops(tokens)
        prompts += asked * (again + checkpoint.row_flops(0) + reference)
        step = checkpoint.sizes.text.forward_flops(1, checkpoint.load.prompt + tokens) + checkpoint.head_flops(1)
        decode += asked * count * tokens * step
    # The backward pass costs twice the forward one; without weight gradients, once. Checkpointing runs it again.
    cost = (2 if recipe.trainer.lora is not None else 3) + int(recipe.trainer.gradient_checkpointing)
    cost += int(Weights.by(recipe, {}).needs_reference)  # pi_ref is as large as the student
    looks = 1 + any(OBJECTIVES.load(name).compares_images for name in recipe.objective)
    train = 0.0
    for number, teacher in enumerate(plan.teachers):
        questions = recipe.steps(number) * recipe.trainer.batch_questions * recipe.trainer.gradient_accumulation
        own = student.image_flops() + student.trained_flops(plan.distinct, tokens)
        other = teacher.image_flops() + teacher.trained_flops(plan.distinct, tokens)
        train += questions * (cost * own + looks * other)
    answer = student.load.fresh * student.image_flops() + student.row_flops(min(tokens, EVALUATION_TOKENS))
    return {"gen_data": prompts, "decode": decode, "train": train, "measure": 2 * plan.test * answer}


def _written(plan: Plan) -> str:
    """How many of the responses there could be are written."""
    if not plan.used.any:
        return "no responses are written: nothing but the reference answers is learnt from"
    counts = _responses(plan)
    stages = sum(map(len, plan.stages))
    every = plan.questions * (plan.used.teacher * stages + plan.used.student)
    return (
        f"responses only to the questions that a mask stage visits: {counts['teacher'] + counts['student']:,} of the "
        f"{every:,} that all stages would take for all questions"
    )


def _assumptions(plan: Plan, given_flops: bool) -> list[str]:
    device = "GPU" if torch.cuda.is_available() else "CPU"
    product = "bfloat16" if plan.recipe.trainer.bf16 else "float32"
    source = "as given" if given_flops else f"measured: a {product} matrix product on this machine's {device}"
    lines = [
        f"{plan.flops / 1e9:,.0f} GFLOP/s per process ({source}); forward and backward passes reach "
        f"{FORWARD_SHARE:.0%} of it, decoding {DECODE_SHARE:.0%}",
        f"responses of {plan.tokens:g} tokens, {plan.distinct:g} different ones per question: the most there can be "
        "unless --response-tokens and --distinct-responses say otherwise",
        f"prompts as the first {len(plan.rows)} train questions have them: {plan.student.load.prompt:.0f} tokens on "
        f"average, {plan.student.load.longest} at most",
        "weights in float32, whole in each process (DDP); on a CPU add about 0.6 GB for Python and its libraries",
        _written(plan),
    ]
    if any(plan.recipe.r_max(number) == "auto" for number in range(len(plan.teachers))):
        lines.append(f"r_max {ASSUMED_R_MAX} where it is 'auto'; the probe itself is not counted")
    return lines
