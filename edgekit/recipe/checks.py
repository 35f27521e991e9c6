"""What the values of a recipe must hold: ranges, names that exist, settings that go together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgekit import schema
from edgekit.errors import EdgekitError, did_you_mean
from edgekit.precision import by_part, canonical, is_mixed
from edgekit.recipe.model import GENERATORS, JUDGES, OBJECTIVES, TARGETS
from edgekit.recipe.per_dataset import entries
from edgekit.registry import Registry
from edgekit.system.timeouts import PHASES

if TYPE_CHECKING:
    from edgekit.recipe.model import Lora, Recipe

MOST = 2**53
SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
)  # fmt: skip
"""Of transformers' `SchedulerType`; those left out need settings of their own, or look at an evaluation."""
_UNUSABLE = (
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
)  # fmt: skip
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "masters.mask.r_max": (lambda v: v == "auto" or 0 <= v < 1, "in [0, 1), or auto"),
    "masters.mask.step": (lambda v: 0 < v < 1, "in (0, 1)"),
    "masters.probe.questions": (lambda v: v >= 1, "at least 1"),
    "masters.probe.step": (lambda v: 0 < v < 1, "in (0, 1)"),
    "masters.probe.max_drop": (lambda v: 0 <= v <= 100, "in [0, 100]"),
    "masters.gen_data.teacher_responses": (lambda v: v >= 0, "at least 0"),
    "masters.gen_data.student_responses": (lambda v: v >= 0, "at least 0"),
    "masters.gen_data.temperature": (lambda v: v > 0, "above 0"),
    "masters.gen_data.top_p": (lambda v: 0 < v <= 1, "in (0, 1]"),
    "masters.gen_data.top_k": (lambda v: v >= 0, "at least 0 (0 is off)"),
    "masters.gen_data.repetition_penalty": (lambda v: v > 0, "above 0"),
    "masters.gen_data.max_new_tokens": (lambda v: v >= 1, "at least 1"),
    "masters.gen_data.batch_questions": (lambda v: v >= 1, "at least 1"),
    "masters.gen_data.shard_questions": (lambda v: v >= 1, "at least 1"),
    "masters.rewards.min_spread": (lambda v: 0 <= v <= 1, "in [0, 1] (0 is off)"),
    "masters.rewards.llm.judge_concurrency": (lambda v: v >= 1, "at least 1"),
    "masters.rewards.llm.judge_timeout_s": (lambda v: v > 0, "above 0"),
    "masters.rewards.llm.judge_retries": (lambda v: v >= 0, "at least 0"),
    "masters.gen_data.server.concurrency": (lambda v: v >= 1, "at least 1"),
    "masters.gen_data.server.retries": (lambda v: v >= 0, "at least 0"),
    "masters.gen_data.server.timeout_s": (lambda v: v > 0, "above 0"),
    "masters.grpo_weight": (lambda v: v >= 0, "at least 0"),
    "masters.kl_beta": (lambda v: v >= 0, "at least 0"),
    "masters.clip": (lambda v: v is None or v > 0, "above 0"),
    "trainer.steps": (lambda v: v >= 1, "at least 1"),
    "trainer.batch_questions": (lambda v: v >= 1, "at least 1"),
    "trainer.gradient_accumulation": (lambda v: v >= 1, "at least 1"),
    "trainer.learning_rate": (lambda v: v > 0, "above 0"),
    "trainer.warmup_steps": (lambda v: v >= 0, "at least 0"),
    "trainer.weight_decay": (lambda v: v >= 0, "at least 0"),
    "trainer.max_grad_norm": (lambda v: v >= 0, "at least 0 (0 is off)"),
    "trainer.save_steps": (lambda v: v >= 1, "at least 1"),
    "trainer.logging_steps": (lambda v: v >= 1, "at least 1"),
    "trainer.log_gradients": (lambda v: v >= 0, "at least 0 (0 is off)"),
    "trainer.threads": (lambda v: v is None or v >= 1, "at least 1"),
    "trainer.seed": (lambda v: 0 <= v < 2**32 - 1000, "in [0, 2^32 - 1000)"),
    "qad.steps": (lambda v: v >= 0, "at least 0 (0 is off)"),
    "qad.learning_rate": (lambda v: v > 0, "above 0"),
    "qad.batch_questions": (lambda v: v >= 1, "at least 1"),
    "qad.temperature": (lambda v: v > 0, "above 0"),
    "qad.kl_weight": (lambda v: v >= 0, "at least 0"),
    "qad.ce_weight": (lambda v: v >= 0, "at least 0"),
    "data.train_limit": (lambda v: v is None or v >= 1, "at least 1"),
    "data.test_limit": (lambda v: v is None or v >= 1, "at least 1"),
    "data.retention_limit": (lambda v: v is None or v >= 1, "at least 1"),
    "bench.limit": (lambda v: v is None or v >= 1, "at least 1"),
    "bench.warmup": (lambda v: v >= 0, "at least 0"),
    "bench.threads": (lambda v: v >= 1, "at least 1"),
    "bench.max_new_tokens": (lambda v: v >= 1, "at least 1"),
    "bench.prompt_tokens": (lambda v: all(n >= 0 for n in v), "of lengths of at least 0"),
    "bench.new_tokens": (lambda v: all(n >= 0 for n in v), "of lengths of at least 0"),
    "bench.repetitions": (lambda v: v >= 0, "at least 0"),
    "bench.processes": (lambda v: v >= 1, "at least 1"),
    **{f"bench.timeouts.{phase}_s": (lambda v: v > 0, "above 0") for phase in PHASES},
    "gates.max_drop": (lambda v: v is None or -100 <= v <= 100, "in [-100, 100]"),
    "gates.max_ttft_ms": (lambda v: v is None or v > 0, "above 0"),
    "gates.min_decode": (lambda v: v is None or v > 0, "above 0"),
    "gates.max_size": (lambda v: v is None or v > 0, "above 0"),
    "gates.max_memory": (lambda v: v is None or v > 0, "above 0"),
}


def problems_of(recipe: Recipe) -> list[str]:
    """Everything that is wrong with the values of a recipe whose shape is right, one line each."""
    problems = []
    for dotted, (holds, text) in _RANGES.items():
        value: Any = recipe
        for key in dotted.split("."):
            value = getattr(value, key)
        if not holds(value):
            problems.append(f"{dotted}: {value!r} is not {text}")
    problems += _check_lora(recipe.trainer.lora)
    problems += _too_large(schema.to_json(recipe), "")
    problems += _check_exports(recipe)
    problems += _check_schedule(recipe)
    problems += _check_off_policy(recipe)
    if recipe.trainer.lora is not None and recipe.trainer.across_teachers == "continue":
        problems.append("trainer.across_teachers: continue needs all weights, as trainer.lora begins anew each time")
    if not recipe.teachers:
        problems.append("teachers: at least one is needed")
    for number, teacher in enumerate(recipe.teachers):
        where = f"teachers[{number}]"
        if teacher.r_max not in (None, "auto") and not 0 <= float(teacher.r_max) < 1:
            problems.append(f"{where}.r_max: {teacher.r_max!r} is not in [0, 1), or auto")
        if teacher.r_step is not None and not 0 < teacher.r_step < 1:
            problems.append(f"{where}.r_step: {teacher.r_step!r} is not in (0, 1)")
        if teacher.steps is not None and teacher.steps < 1:
            problems.append(f"{where}.steps: {teacher.steps!r} is not at least 1")
    for name in ("r_max", "r_step", "steps"):
        if getattr(recipe.student, name) is not None:
            problems.append(f"student.{name}: is for teachers only")
    if recipe.masters.gen_data.generator == "openai":
        problems += _check_server(recipe)
    if recipe.masters.gen_data.teacher_responses + recipe.masters.gen_data.student_responses < 1:
        problems.append("masters.gen_data: teacher_responses and student_responses are both 0")
    if recipe.qad.steps and not recipe.qad.kl_weight + recipe.qad.ce_weight:
        problems.append("qad: kl_weight and ce_weight are both 0")
    if not recipe.name or not all(c.isalnum() or c in "-_." for c in recipe.name) or recipe.name.startswith("."):
        problems.append(f"name: {recipe.name!r} is no plain folder name (letters, digits, '-', '_', '.')")
    if len(recipe.name) > 100:
        problems.append(f"name: {recipe.name[:20] + '...'!r} has more than 100 characters")
    if recipe.name == "latest":
        problems.append("name: 'latest' is taken for the newest run")
    if not recipe.objective:
        problems.append("objective: at least one is needed")
    for name, weight in recipe.objective.items():
        if weight < 0:
            problems.append(f"objective.{name}: {weight!r} is not at least 0")
    if recipe.objective and not any(recipe.objective.values()):
        problems.append("objective: all weights are 0, so nothing of the teachers is learnt")
    for name in sorted(set(recipe.objective_settings) - set(recipe.objective)):
        problems.append(f"objective_settings.{name}: {name!r} is not among the objectives")
    problems += _check_names(recipe)
    return problems


def missing_inputs(recipe: Recipe, base: Path) -> list[str]:
    """Models and data that are not there, one line each.

    Args:
        recipe: Its values are right.
        base: Folder that relative names of models start from.
    """
    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.data import open_data

    models = [(f"teachers[{number}]", model) for number, model in enumerate(recipe.teachers)]
    looks: list[tuple[str, Callable[[], object]]] = [
        (f"{where}.checkpoint", partial(resolve_checkpoint, model.checkpoint, base, weights=False))
        for where, model in [*models, ("student", recipe.student)]
    ]
    data = recipe.data
    specs = {"data.train": data.train, "data.test": data.test, "data.retention": data.retention}
    specs["bench.data"] = recipe.bench.data
    looks += [(where, partial(open_data, spec)) for where, spec in specs.items() if spec is not None]
    problems = []
    for where, look in looks:
        try:
            look()
        except EdgekitError as error:
            problems.append(f"{where}: " + " ".join(part for part in (error.what, error.why, error.fix) if part))
    return problems


def _check_exports(recipe: Recipe) -> list[str]:
    problems: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for number, export in enumerate(recipe.exports):
        where = f"exports[{number}]"
        if export.calibrate < 1:
            problems.append(f"{where}.calibrate: {export.calibrate!r} is not at least 1")
        if export.target not in TARGETS.names():
            error = TARGETS.unknown(export.target)
            problems.append(f"{where}.target: {error.what} {error.fix}")
            continue
        if export.genai and export.target != "onnx":
            problems.append(f"{where}.genai: the target {export.target!r} has nothing for onnxruntime-genai, onnx has")
        try:
            precision = canonical(export.precision)
        except EdgekitError as error:
            problems.append(f"{where}.precision: {error.what} {error.fix}")
            continue
        problems += [f"{where}.precision: {text}" for text in _unknown_precisions(export.target, precision)]
        first = seen.setdefault((export.target, precision), number)
        if first != number:
            problems.append(f"{where}: the same bundle as exports[{first}]")
    return problems


def _unknown_precisions(target: str, precision: str) -> list[str]:
    """Precisions that a target does not know; none where the target cannot be imported here."""
    try:
        known = TARGETS.load(target)
    except (ImportError, EdgekitError):  # a third party's, or its extra is not installed: the export says so
        return []
    whole, parts = known.precisions, known.parts
    if not is_mixed(precision):
        return [] if precision in whole else [_no_precision(target, precision, "", whole)]
    if parts is None:
        return [f"the target {target!r} has one precision for a whole bundle: {', '.join(whole)}"]
    return [
        _no_precision(target, own, f" for the {part} part", parts[part])
        for part, own in by_part(precision).items()
        if own not in parts[part]
    ]


def _no_precision(target: str, precision: str, where: str, known: Collection[str]) -> str:
    what = f"the target {target!r} has no precision {precision!r}{where}."
    return " ".join(part for part in (what, did_you_mean(precision, known), f"There are: {', '.join(known)}.") if part)


def _check_schedule(recipe: Recipe) -> list[str]:
    settings, where = recipe.trainer, "trainer.schedule"
    if settings.schedule in _UNUSABLE:
        return [f"{where}: {settings.schedule!r} needs settings that a recipe does not have"]
    if settings.schedule not in SCHEDULES:
        hint = did_you_mean(settings.schedule, SCHEDULES)
        return [f"{where}: {settings.schedule!r} is not one of {', '.join(SCHEDULES)}. {hint}".rstrip()]
    if not settings.warmup_steps:
        return []
    if settings.schedule == "constant":
        return ["trainer.warmup_steps: the schedule 'constant' has no warm-up; 'constant_with_warmup' has"]
    if settings.across_teachers == "continue":
        total = sum(map(recipe.steps, range(len(recipe.teachers))))
        long = f"trainer.warmup_steps: a warm-up of {settings.warmup_steps} steps is longer than the ladder's {total}"
        return [long] if settings.warmup_steps > total else []
    return [
        f"trainer.warmup_steps: a warm-up of {settings.warmup_steps} steps is longer than the {recipe.steps(number)} "
        f"steps with teacher {number + 1}"
        for number in range(len(recipe.teachers))
        if settings.warmup_steps > recipe.steps(number)
    ]


def _check_off_policy(recipe: Recipe) -> list[str]:
    chosen, clip = recipe.masters.off_policy, recipe.masters.clip
    if chosen == "clip" and clip is None:
        return ["masters.clip: missing, and masters.off_policy: clip needs it (PPO's is 0.2)"]
    if chosen != "clip" and clip is not None:
        return [f"masters.clip: {clip!r} has no effect with masters.off_policy: {chosen}; set masters.off_policy: clip"]
    return []


def _too_large(value: Any, path: str) -> list[str]:
    """Whole numbers that no counter here can hold."""
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in _too_large(item, f"{path}.{key}" if path else key)]
    if isinstance(value, list):
        return [text for place, item in enumerate(value) for text in _too_large(item, f"{path}[{place}]")]
    if isinstance(value, int) and abs(value) > MOST:
        return [f"{path}: {value!r} is beyond {MOST:,}"]
    return []


def _check_server(recipe: Recipe) -> list[str]:
    server, where = recipe.masters.gen_data.server, "masters.gen_data.server"
    problems = [f"{where}.{name}: missing" for name in ("url", "model") if not getattr(server, name)]
    try:
        parts = urlsplit(server.url)
    except ValueError:  # an unclosed bracket in the host
        parts = urlsplit("")
    if server.url and (parts.scheme not in ("http", "https") or not parts.netloc):
        problems.append(f"{where}.url: not http://HOST:PORT/v1 or https://HOST/v1")
    if "@" in parts.netloc:
        problems.append(f"{where}.url: holds a password, and recipes are kept with every run; use api_key_env")
    if server.api_key_env and not (server.api_key_env.isidentifier() and server.api_key_env.isascii()):
        problems.append(f"{where}.api_key_env: give the name of an environment variable, never the key itself")
    names = server.url + server.model
    masked = any(recipe.r_max(number) != 0 for number in range(len(recipe.teachers)))
    if masked and "{ratio}" not in names:
        problems.append(
            f"{where}: a server cannot mask its model, and the schedule has mask ratios above 0. Serve one model per "
            "stage (edgekit mask writes them) and put {ratio} into model or url, or set masters.mask.r_max to 0"
        )
    if len(recipe.teachers) > 1 and "{teacher}" not in names:
        problems.append(f"{where}: there are {len(recipe.teachers)} teachers; put {{teacher}} into model or url")
    return problems


def _check_lora(lora: Lora | None) -> list[str]:
    if lora is None:
        return []
    problems = [] if lora.rank >= 1 else [f"trainer.lora.rank: {lora.rank!r} is not at least 1"]
    if not lora.alpha > 0:
        problems.append(f"trainer.lora.alpha: {lora.alpha!r} is not above 0")
    if not 0 <= lora.dropout < 1:
        problems.append(f"trainer.lora.dropout: {lora.dropout!r} is not in [0, 1)")
    if not lora.target_modules:
        problems.append("trainer.lora.target_modules: name at least one")
    return problems


def _check_names(recipe: Recipe) -> list[str]:
    from edgekit.data.scoring import SCORING

    chosen: list[tuple[str, Registry[Any], str]] = [
        (f"objective.{name}", OBJECTIVES, name) for name in recipe.objective
    ]
    judge, scoring = recipe.masters.rewards.judge, recipe.data.scoring
    chosen += [(where, JUDGES, name) for where, name in entries(judge, "masters.rewards.judge")]
    chosen += [(where, SCORING, name) for where, name in entries(scoring, "data.scoring")]
    chosen.append(("masters.gen_data.generator", GENERATORS, recipe.masters.gen_data.generator))
    unknown = [(where, registry.unknown(name)) for where, registry, name in chosen if name not in registry.names()]
    problems = [f"{where}: {error.what} {error.fix}" for where, error in unknown]
    for key, choice in (("masters.rewards.judge", judge), ("data.scoring", scoring)):
        if not choice:
            problems.append(f"{key}: names nothing")
    return problems
