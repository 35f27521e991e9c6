"""A recipe: everything a run is told, read from YAML into frozen dataclasses.

Every default is the paper's where the paper speaks (MASTERS, arXiv:2512.22238); where it does not, the setting has a
name here and its value is written into the run's manifest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from edgekit import schema
from edgekit.choice import entries
from edgekit.errors import CheckpointError, EdgekitError, RecipeError
from edgekit.files import sha256_json
from edgekit.precision import canonical
from edgekit.registry import Registry

OBJECTIVES = Registry("edgekit.distill.objectives", "objective")
JUDGES = Registry("edgekit.distill.judges", "judge")
GENERATORS = Registry("edgekit.distill.generators", "generator")


@dataclass(frozen=True)
class Model:
    """A checkpoint."""

    checkpoint: str
    """Hugging Face folder or hub name; `demo:teacher`, `demo:mid` and `demo:student` are the built-in ones."""
    r_max: float | Literal["auto"] | None = None
    """Teachers only: this one's own first mask ratio, in [0, 1), or auto; `masters.mask.r_max` when absent."""
    r_step: float | None = None
    """Teachers only: this one's own fall of the ratio, in (0, 1); `masters.mask.step` when absent."""
    steps: int | None = None
    """Teachers only: optimiser steps with this one; `trainer.steps` when absent."""


@dataclass(frozen=True)
class Data:
    """Questions to learn from, and questions kept apart to measure on."""

    train: str
    """Data spec (`edgekit data show --help` lists the kinds)."""
    test: str
    """Data spec; never trained on."""
    train_limit: int | None = None
    """Use so many train questions, drawn with the run's seed; all when absent."""
    test_limit: int | None = None
    """Measure on the first so many test questions; all when absent."""
    scoring: str | dict[str, str] = "exact"
    """Metric of `edgekit.data.scoring`; for a mixed file a mapping from a row's `dataset` to one, with a `default`."""


@dataclass(frozen=True)
class Mask:
    """Eq. 1-3: which teacher weights are hidden, and how the ratio falls."""

    r_max: float | Literal["auto"] = 0.2
    """Mask ratio of the first stage, in [0, 1); auto probes each teacher and takes the largest before its cliff."""
    step: float = 0.05
    """Fall of the ratio from stage to stage."""
    scope: Literal["all", "language", "vision"] = "all"
    """Linear layers of which part; embeddings, norms, biases and lm_head are never masked."""
    exclude: tuple[str, ...] = ()
    """Module-name patterns (fnmatch) that are left whole."""


@dataclass(frozen=True)
class Probe:
    """How `r_max: auto` finds the cliff."""

    questions: int = 512
    """Train questions it asks, if possible none that the run learns from."""
    step: float = 0.05
    """Between ratios."""
    max_drop: float = 2.0
    """Accuracy that may be lost before it counts as the cliff, in points of 100."""


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server that answers for the teachers; for `generator: openai`."""

    url: str = ""
    """Its base, up to and with `/v1`; may hold `{ratio}` and `{teacher}`."""
    model: str = ""
    """Name of the model it serves; `{ratio}` stands for the mask ratio of the stage (0.2, 0.15, ..., 0), `{teacher}`
    for the teacher's number in the ladder, from 1. A server cannot mask: `edgekit mask` writes what it is to serve."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key; the key itself is never written anywhere."""
    concurrency: int = 16
    """Requests under way at once."""
    retries: int = 6
    """Further attempts after a busy server, a fault of it, or no answer, each after a longer wait."""
    timeout_s: float = 120.0
    """Seconds without a byte of the answer until a request is given up."""


@dataclass(frozen=True)
class GenData:
    """Responses written before training, section 3.2 of the paper."""

    generator: str = "transformers"
    """Who samples the teachers' responses; the student's own are always drawn by `transformers`."""
    server: Server = field(default_factory=Server)
    check_images: bool = True
    """Make sure that each teacher sees the images before its responses are drawn, by asking with others."""
    teacher_responses: int = 4
    """Per question, from the masked teacher of the stage."""
    student_responses: int = 4
    """Per question, from the student."""
    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 50
    repetition_penalty: float = 1.05
    max_new_tokens: int = 64
    batch_questions: int = 64
    """Questions sampled together."""
    shard_questions: int = 512
    """Questions per Parquet shard: what a kill can cost at most."""
    student_refresh: Literal["never", "per_teacher", "per_stage"] = "never"
    """Sample the student's responses once, anew for each teacher of the ladder, or anew at each mask stage from the
    student as it stands then."""


@dataclass(frozen=True)
class LlmJudge:
    """How the judges that ask a language model, `openai` and `local`, reach it."""

    judge_model: str | None = None
    """`openai`: the model's name on the server; `local`: a checkpoint, a Hugging Face folder or hub name."""
    judge_url: str | None = None
    """`openai`: base address of a server with POST /chat/completions, for example http://localhost:8000/v1."""
    judge_api_key_env: str | None = None
    """`openai`: name of the environment variable that holds the key; no key is sent when absent."""
    judge_concurrency: int = 8
    """`openai`: requests at a time; `local`: prompts in a batch."""
    judge_timeout_s: float = 60.0
    """`openai`: longest silence of the server, seconds."""
    judge_retries: int = 4
    """`openai`: how often a request that failed is sent again, after a growing pause."""


@dataclass(frozen=True)
class Rewards:
    """Eq. 6-7."""

    judge: str | dict[str, str] = "rule"
    """R_acc: `rule` scores closed answers with `data.scoring`, `openai` and `local` ask a language model, which open
    answers need; or a mapping from a row's `dataset` to one of these, with a `default`."""
    llm: LlmJudge = field(default_factory=LlmJudge)
    accuracy: bool = True
    """Use R_acc."""
    distill: bool = True
    """Use R_distill."""


@dataclass(frozen=True)
class Masters:
    """The distillation itself."""

    mask: Mask = field(default_factory=Mask)
    probe: Probe = field(default_factory=Probe)
    gen_data: GenData = field(default_factory=GenData)
    rewards: Rewards = field(default_factory=Rewards)
    grpo_weight: float = 1.0
    """Weight of L_GRPO beside the objective; 0 leaves plain distillation."""
    kl_beta: float = 0.1
    """beta of Eq. 9."""
    clip: float | None = None
    """Clip of pi_theta / pi_ref in L_GRPO, as PPO's; absent as in the paper, whose rho is 1 and never stops pushing."""
    kl_estimator: Literal["k3"] = "k3"
    """How KL(pi_theta || pi_ref) is taken per token: Schulman's k3, exp(d) - d - 1 with d = logp_ref - logp."""
    advantage_std: Literal["sample", "population"] = "sample"
    """std of Eq. 8 over the G responses of a question: divided by G - 1, as GRPO's implementations do, or by G."""
    reference: Literal["initial"] = "initial"
    """pi_ref: the student as the run found it."""
    distance_average: Literal["token_mean"] = "token_mean"
    """How D of Eq. 7 is averaged over a response."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (peft) instead of all weights; merged into the student before it is saved."""

    rank: int = 16
    alpha: float = 32.0
    """The adapter's product is scaled by alpha / rank."""
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("all-linear",)
    """Names of linear layers; `all-linear` is every one but the output head."""


@dataclass(frozen=True)
class Trainer:
    """Optimisation, by transformers' Trainer over accelerate."""

    steps: int = 1000
    """Optimiser steps per teacher, shared out over its mask stages."""
    batch_questions: int = 8
    """Questions per forward pass, each with all its responses; shared out where several processes run."""
    gradient_accumulation: int = 1
    """Forward passes per optimiser step."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    lora: Lora | None = None
    """Train adapters of this shape (`pip install 'edgekit[lora]'`); all weights when absent."""
    learning_rate: float = 1e-6
    schedule: str = "constant"
    """Any `lr_scheduler_type` of transformers."""
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    bf16: bool = False
    """Autocast to bfloat16."""
    attention: Literal["eager", "sdpa"] = "sdpa"
    """Attention implementation of teacher and student."""
    save_steps: int = 100
    """Steps between checkpoints: what a kill can cost at most."""
    threads: int | None = None
    """CPU threads; torch's choice when absent. A resumed run is the same bit for bit only at the same number."""
    seed: int = 0
    logging_steps: int = 20
    """Steps between logged figures."""
    report_to: tuple[str, ...] | None = None
    """Trackers by Trainer's names: tensorboard, wandb, mlflow, trackio, ...; tensorboard, if installed, when absent."""


@dataclass(frozen=True)
class Qad:
    """Quantisation-aware distillation of the finished student, against the very weights its export will hold."""

    precision: Literal["int4", "int8"] = "int4"
    """Of the ONNX export that the student is prepared for."""
    steps: int = 0
    """Optimiser steps; 0 leaves the stage out."""
    learning_rate: float = 1e-5
    batch_questions: int = 8
    """Questions per step, each with its reference answer."""
    temperature: float = 1.0
    """T of T^2 KL(p_ref || p_S)."""
    kl_weight: float = 0.7
    ce_weight: float = 0.3
    """Of the cross-entropy on the reference answer."""
    from_: Literal["student", "teacher"] = "student"
    """Whose answers p_ref are: the distilled student's in full precision, or the last teacher's."""


@dataclass(frozen=True)
class Export:
    """One bundle to make from the student."""

    target: str
    precision: str = "fp32"
    """One word for the whole bundle, or one for each part that is not fp32: `vision=fp16,text=int4`."""
    calibrate: int = 64
    """Train questions that a precision such as int8-static is calibrated with."""
    genai: bool = False
    """Also write what onnxruntime-genai loads; onnx only."""


@dataclass(frozen=True)
class Bench:
    """What `edgekit bench` does by default for this run."""

    data: str | None = None
    """Data spec; `data.test` when absent."""
    limit: int | None = 1000
    """Questions scored."""
    warmup: int = 5
    """Questions answered before anything is timed."""
    threads: int = 1
    max_new_tokens: int = 16


@dataclass(frozen=True)
class Gates:
    """Bars that `edgekit bench` holds each bundle to; absent means no bar."""

    max_drop: float | None = None
    """Accuracy below PyTorch's, in points of 100."""
    max_ttft_ms: float | None = None
    min_decode: float | None = None
    """Decoded tokens per second."""
    max_size: int | None = None
    """Bytes on disk."""


@dataclass(frozen=True)
class Recipe:
    """One run, from teachers to gates."""

    teachers: tuple[Model, ...]
    """In ascending size: mid teachers first, then the large one."""
    student: Model
    data: Data
    name: str = "masters"
    """Of the run's folder."""
    masters: Masters = field(default_factory=Masters)
    objective: dict[str, float] = field(default_factory=lambda: {"jsd": 1.0})
    """Distillation objectives and their weights."""
    objective_settings: dict[str, dict[str, int | float | str]] = field(default_factory=dict)
    """Settings of the objectives, by name: `{jsd: {beta: 0.5}}`; docs/objectives.md lists them."""
    trainer: Trainer = field(default_factory=Trainer)
    qad: Qad = field(default_factory=Qad)
    exports: tuple[Export, ...] = ()
    bench: Bench = field(default_factory=Bench)
    gates: Gates = field(default_factory=Gates)

    @property
    def hash(self) -> str:
        """Of what decides the full-precision student; what comes after it, and a server's address, may change."""
        value = schema.to_json(self)
        for key in ("judge_url", "judge_api_key_env", "judge_concurrency", "judge_timeout_s", "judge_retries"):
            del value["masters"]["rewards"]["llm"][key]  # how the judge is reached: a run may go on with another way
        gen_data = value["masters"]["gen_data"]
        server = gen_data.pop("server")
        del gen_data["check_images"]
        if self.masters.gen_data.generator == "openai":
            gen_data["server"] = {"model": server["model"]}
        del value["trainer"]["report_to"], value["trainer"]["logging_steps"]
        later = ("qad", "exports", "bench", "gates", "name")
        return sha256_json({key: value[key] for key in value if key not in later})

    def r_max(self, teacher: int) -> float | Literal["auto"]:
        """First mask ratio of one teacher of the ladder."""
        own = self.teachers[teacher].r_max
        return self.masters.mask.r_max if own is None else own

    def r_step(self, teacher: int) -> float:
        """Fall of the mask ratio from stage to stage of one teacher."""
        own = self.teachers[teacher].r_step
        return self.masters.mask.step if own is None else own

    def steps(self, teacher: int) -> int:
        """Optimiser steps with one teacher."""
        own = self.teachers[teacher].steps
        return self.trainer.steps if own is None else own


def demo_recipe_path() -> Path:
    """The built-in demo recipe."""
    return Path(str(files("edgekit.demo") / "demo.yaml"))


def ablation_recipe_path() -> Path:
    """The built-in ablation's recipe."""
    return Path(str(files("edgekit.demo") / "ablation.yaml"))


def load_recipe(path: Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: Dotted key -> YAML text, as `--set trainer.steps=200` gives them.
    Raises:
        RecipeError: not there, no YAML, or problems, all of them listed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Cannot read the recipe {path}.", why=str(error), fix="edgekit init  writes one.") from error
    try:
        value = yaml.safe_load(text)
        for key, override in (overrides or {}).items():
            _set(value, key, yaml.safe_load(override))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML.", why=str(error)) from error
    return read_recipe(value, str(path))


def read_recipe(value: Any, source: str = "recipe") -> Recipe:
    """A recipe from the value of its YAML.

    Raises:
        RecipeError: listing every problem.
    """
    problems: list[str] = []
    recipe = schema.read(Recipe, value, problems)
    if recipe is not None:
        problems = _check(recipe)
    if recipe is None or problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise RecipeError(f"{source} has {count}:", why="\n".join(problems))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """YAML of a recipe with every setting spelled out."""
    text: str = yaml.safe_dump(schema.to_json(recipe), sort_keys=False, allow_unicode=True)
    return text


def resolve_checkpoint(name: str, base: Path | None = None, *, weights: bool = True) -> Path:
    """The folder behind a checkpoint name.

    Args:
        name: Folder, `demo:teacher`, `demo:mid`, `demo:student`, or a hub name (`org/model`, fetched if it can be).
        base: Folder that relative names start from.
        weights: Fetch a hub model's weights too, not its configuration and tokenizer alone.
    Raises:
        CheckpointError: nothing there.
    """
    if name.startswith("demo:"):
        folder = Path(str(files("edgekit.demo") / "weights")) / name.removeprefix("demo:")
        if not folder.is_dir():
            raise CheckpointError(
                f"There is no demo model {name!r}.", fix="There are: demo:teacher, demo:mid, demo:student."
            )
        return folder
    for folder in (Path(name), *([base / name] if base else [])):
        if folder.is_dir():
            return folder.resolve()
    return _from_hub(name, weights)


def _from_hub(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = ["*.json", "*.jinja", "*.txt", "*.model", *(["*.safetensors"] if weights else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HFValidationError as error:
        raise CheckpointError(f"No model at {name!r}.", why="It is no folder and no hub name.") from error
    except Exception as error:  # offline, unknown and refused all come as different types from several layers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"No model at {name!r}.", why=f"It is no folder here, and the hub did not give it: {reason}"
        ) from error


def _set(value: Any, dotted: str, item: Any) -> None:
    keys = dotted.split(".")
    for key in keys[:-1]:
        if isinstance(value, dict):
            value = value.setdefault(key, {})
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise RecipeError(f"--set {dotted}: there is no {key!r} to set something in.")
    if isinstance(value, list) and keys[-1].isdigit() and int(keys[-1]) < len(value):
        value[int(keys[-1])] = item
    elif isinstance(value, dict):
        value[keys[-1]] = item
    else:
        raise RecipeError(f"--set {dotted}: there is no {keys[-1]!r} to set.")


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
}


def _check(recipe: Recipe) -> list[str]:
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


def describe_settings() -> list[tuple[str, str, str]]:
    """(dotted key, default, doc) of every setting, for `edgekit init` and the documentation."""
    return list(_describe(Recipe, ""))


def _describe(cls: type[Any], prefix: str) -> list[tuple[str, str, str]]:
    import typing

    hints, docs = typing.get_type_hints(cls), schema.field_docs(cls)  # type: ignore[arg-type]
    rows: list[tuple[str, str, str]] = []
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            rows += _describe(hint, f"{prefix}{schema.key_of(item)}.")
            continue
        default = item.default if item.default is not dataclasses.MISSING else None
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        shown = "" if default is None else str(schema.to_json(default))
        rows.append((f"{prefix}{schema.key_of(item)}", shown, docs.get(item.name, "")))
    return rows
