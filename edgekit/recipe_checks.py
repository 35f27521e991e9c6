"""What the values of a recipe must hold: ranges, names that exist, settings that go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgekit.choice import entries
from edgekit.errors import EdgekitError
from edgekit.precision import canonical
from edgekit.recipe import GENERATORS, JUDGES, OBJECTIVES

if TYPE_CHECKING:
    from edgekit.recipe import Lora, Recipe

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
    "trainer.threads": (lambda v: v is None or v >= 1, "at least 1"),
    "qad.steps": (lambda v: v >= 0, "at least 0 (0 is off)"),
    "qad.learning_rate": (lambda v: v > 0, "above 0"),
    "qad.batch_questions": (lambda v: v >= 1, "at least 1"),
    "qad.temperature": (lambda v: v > 0, "above 0"),
    "qad.kl_weight": (lambda v: v >= 0, "at least 0"),
    "qad.ce_weight": (lambda v: v >= 0, "at least 0"),
    "data.train_limit": (lambda v: v is None or v >= 1, "at least 1"),
    "data.test_limit": (lambda v: v is None or v >= 1, "at least 1"),
    "bench.limit": (lambda v: v is None or v >= 1, "at least 1"),
    "bench.warmup": (lambda v: v >= 0, "at least 0"),
    "bench.threads": (lambda v: v >= 1, "at least 1"),
    "bench.max_new_tokens": (lambda v: v >= 1, "at least 1"),
    "bench.prompt_tokens": (lambda v: all(n >= 0 for n in v), "of lengths of at least 0"),
    "bench.new_tokens": (lambda v: all(n >= 0 for n in v), "of lengths of at least 0"),
    "bench.repetitions": (lambda v: v >= 0, "at least 0"),
    "bench.processes": (lambda v: v >= 1, "at least 1"),
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
    for number, export in enumerate(recipe.exports):
        try:
            canonical(export.precision)
        except EdgekitError as error:
            problems.append(f"exports[{number}].precision: {error.what} {error.fix}")
        if export.calibrate < 1:
            problems.append(f"exports[{number}].calibrate: {export.calibrate!r} is not at least 1")
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
    if recipe.masters.gen_data.generator == "openai":
        problems += _check_server(recipe)
    if recipe.masters.gen_data.teacher_responses + recipe.masters.gen_data.student_responses < 1:
        problems.append("masters.gen_data: teacher_responses and student_responses are both 0")
    if recipe.qad.steps and not recipe.qad.kl_weight + recipe.qad.ce_weight:
        problems.append("qad: kl_weight and ce_weight are both 0")
    if not recipe.name or not all(c.isalnum() or c in "-_." for c in recipe.name) or recipe.name.startswith("."):
        problems.append(f"name: {recipe.name!r} is no plain folder name (letters, digits, '-', '_', '.')")
    if recipe.name == "latest":
        problems.append("name: 'latest' is taken for the newest run")
    if not recipe.objective:
        problems.append("objective: at least one is needed")
    for name, weight in recipe.objective.items():
        if weight < 0:
            problems.append(f"objective.{name}: {weight!r} is not at least 0")
    for name in sorted(set(recipe.objective_settings) - set(recipe.objective)):
        problems.append(f"objective_settings.{name}: {name!r} is not among the objectives")
    problems += _check_names(recipe)
    return problems


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

    chosen = [(f"objective.{name}", OBJECTIVES, name) for name in recipe.objective]
    for key, registry, choice in (
        ("masters.rewards.judge", JUDGES, recipe.masters.rewards.judge),
        ("data.scoring", SCORING, recipe.data.scoring),
    ):
        chosen += [(where, registry, name) for where, name in entries(choice, key)]
    chosen.append(("masters.gen_data.generator", GENERATORS, recipe.masters.gen_data.generator))
    unknown = [(where, registry.unknown(name)) for where, registry, name in chosen if name not in registry.names()]
    problems = [f"{where}: {error.what} {error.fix}" for where, error in unknown]
    for key, choice in (("masters.rewards.judge", recipe.masters.rewards.judge), ("data.scoring", recipe.data.scoring)):
        if not choice:
            problems.append(f"{key}: names nothing")
    return problems
