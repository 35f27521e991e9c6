"""A recipe: everything a run is told, read from YAML into frozen dataclasses.

Every default is the paper's where the paper speaks (MASTERS, arXiv:2512.22238); where it does not, the setting has a
name here and its value is written into the run's manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit import schema
from edgekit.files import sha256_json
from edgekit.registry import Registry
from edgekit.system.timeouts import Timeouts

# By name, as a recipe knows them; the packages give their registries the type of what is in them.
OBJECTIVES: Registry[Any] = Registry("edgekit.distill.objectives", "objective", "Objective", "Loss")
JUDGES: Registry[Any] = Registry("edgekit.distill.judges", "judge", "Judge", "JUDGE")
GENERATORS: Registry[Any] = Registry("edgekit.distill.generators", "generator", "Generator", "GENERATOR")
EXPORT_HELPERS = ("bundling", "coreml_patches", "genai", "onnx_attention", "onnx_precision", "parity", "prompts")
TARGETS: Registry[Any] = Registry("edgekit.export", "target", "Target", "TARGET", frozenset(EXPORT_HELPERS))


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
    retention: str | None = None
    """Data spec of questions about something else, never trained on: what the student may unlearn; asked before and
    after."""
    retention_limit: int | None = None
    """Ask the first so many of them; all when absent."""
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
    check_teacher: bool = True
    """Ask teachers and student a few dozen questions first, and stop where a teacher cannot do the task."""
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
    min_spread: float = 0.01
    """R_distill is 0 for a question whose distances lie closer together than this, (D_max - D_min) / D_max."""


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
    off_policy: Literal["none", "topr", "clip"] = "none"
    """What holds back the push against a bad response that the student would hardly write any more: nothing, as in the
    paper; TOPR's weight min(1, pi_theta / mu), mu of the model that wrote it; or PPO's clip of pi_theta / pi_ref."""
    clip: float | None = None
    """How far pi_theta / pi_ref may go from 1; for `off_policy: clip`."""
    kl_estimator: Literal["k3", "full", "weighted"] = "k3"
    """How KL(pi_theta || pi_ref) is taken per token: Schulman's k3, exp(d) - d - 1 with d = logp_ref - logp; in full
    over the vocabulary, which runs pi_ref on each batch; or k3 times the ratio pi_theta / mu, at most 2."""
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
    order: Literal["questions", "pictures"] = "questions"
    """Shuffle question by question, or image by image with all questions about one together, so that a batch
    encodes few images for many questions. Each is visited once before any comes again, over the whole ladder."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    lora: Lora | None = None
    """Train adapters of this shape (`pip install 'edgekit[lora]'`); all weights when absent."""
    learning_rate: float = 1e-6
    schedule: str = "constant"
    """Any `lr_scheduler_type` of transformers."""
    across_teachers: Literal["anew", "continue"] = "anew"
    """Whether each teacher of a ladder has the whole schedule and a new optimiser, or one schedule goes over all of
    them and the optimiser keeps its moments."""
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
    log_gradients: int = 0
    """Steps between looks at the gradients of objective, policy and KL: their norms, and whether they oppose each
    other; each costs three more backward passes. 0 is off. One process only."""
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
    prompt_tokens: tuple[int, ...] = (512,)
    """Lengths of the `pp` speed tests; 0 leaves them out."""
    new_tokens: tuple[int, ...] = (128,)
    """Lengths of the `tg` speed tests; 0 leaves them out."""
    repetitions: int = 5
    """Of each speed test; 0 leaves all of them out."""
    processes: int = 5
    """Fresh ones of each row, one after the other through the questions, which intervals of latencies are made of;
    fewer where a process would have less than 4 turns."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    """Seconds after which a row's process is given up, by phase."""


@dataclass(frozen=True)
class Gates:
    """Gates that `edgekit bench` holds each bundle to; absent means no gate."""

    max_drop: float | None = None
    """Accuracy below PyTorch's, in points of 100."""
    max_ttft_ms: float | None = None
    min_decode: float | None = None
    """Decoded tokens per second."""
    max_size: int | None = None
    """Bytes on disk."""
    max_memory: int | None = None
    """Bytes, the high-water mark of the process."""


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
        del gen_data["check_images"], gen_data["check_teacher"]
        if self.masters.gen_data.generator == "openai":
            gen_data["server"] = {"model": server["model"]}
        for key in ("report_to", "logging_steps", "log_gradients"):
            del value["trainer"][key]
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
