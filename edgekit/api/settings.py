"""What verbs of many options are told: one settings object each, whose fields are the call's arguments.

`bench` takes its object whole; the others are called with the fields (`edgekit.api.arguments.told`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field

from edgekit.api.arguments import Folder, ImageInputs, Overrides, PathLike, Setting, Texts, check_fields
from edgekit.distill.settings import Assumed, Sweep

Size = tuple[int, int] | str
Sizes = Size | Iterable[Size]
"""(width, height) in pixels, or a text such as 448x336; one or several."""


@dataclass(frozen=True)
class BenchSettings:
    """How `bench` measures. What is None is as the run's recipe says (`bench:` in it), else as
    `edgekit.recipe.model.Bench` does.
    """

    reference: Folder | None = None
    """The student's checkpoint; found from the bundles' run when None."""
    data: PathLike | None = None
    """Questions, a data spec; the run's when None."""
    limit: int | None = None
    """The first so many questions; 0 for all."""
    threads: int | None = None
    """Of each runtime."""
    runtime: str | None = None
    """That runs the bundles, where several could; edgekit's own when None."""
    device: str = "host"
    """Where: an address, see `edgekit.devices`."""
    out: PathLike | None = None
    """Folder of the report; `reports/bench` of the run when None."""
    gates: Mapping[str, float | int | None] = field(default_factory=dict)
    """Fields of `edgekit.recipe.model.Gates` that override the recipe's; None leaves one as it is."""
    prompt_tokens: int | Iterable[int] | None = None
    """One length or several of the speed test `pp`, 0 for none."""
    new_tokens: int | Iterable[int] | None = None
    """The same of `tg`."""
    repetitions: int | None = None
    """Of each speed test, 0 for none."""
    processes: int | None = None
    """Fresh ones of each row, one after the other through the questions."""
    sustain_s: float = 0.0
    """Seconds that each row answers without a pause at the end, to see whether it slows down."""
    timeouts: Texts = ()
    """One `PHASE=TIME` or several, over the recipe's; see `edgekit.system.timeouts`."""
    external_results: PathLike | Iterable[PathLike] = ()
    """One file or several with results measured elsewhere, whose rows are added; see `edgekit.external_results`."""
    measure: bool = True
    """False adds those to the report that lies in `out` already."""

    def __post_init__(self) -> None:
        """Plain values are checked, as `edgekit.api.arguments.checked` does."""
        check_fields(self)


@dataclass(frozen=True)
class ExportSettings:
    """What `export` is told."""

    checkpoint: Folder | None = None
    """Hugging Face folder; the latest run's student when None."""
    _: KW_ONLY
    targets: Texts
    """One name or several."""
    precisions: Texts | None = None
    """One common name or several; what the run's recipe says, else fp32, when None."""
    out: PathLike | None = None
    """Folder of the one bundle, or of several, text or Path; in the run, or beside the current folder, when None."""
    sizes: Sizes | None = None
    """One image size or several where the family has a choice, (width, height) in pixels or a text such as 448x336; its
    own when None."""
    data: str | None = None
    """Questions for the parity run; the run's test questions when None."""
    samples: int | None = None
    """How many of them; 32, and more where the answers are short (`edgekit.report.tolerances.settling`), when None."""
    calibrate: int | None = None
    """How many questions a calibrated precision (int8-static) is shown; the recipe's, else 64, when None."""
    calibration_data: str | None = None
    """Those questions; the run's train questions when None."""
    with_genai: bool | None = None
    """Also write what onnxruntime-genai loads; as the recipe says, else not, when None."""
    options: Mapping[str, Setting] | None = None
    """Of the target's own, name -> text or number; `OPTIONS` of its module lists them."""
    replace: bool = True
    """Put a new bundle in the place of an old one."""

    def __post_init__(self) -> None:
        """Plain values are checked."""
        check_fields(self)


@dataclass(frozen=True)
class VerifySettings:
    """What `verify` is told."""

    bundle: Folder
    """Folder as text or Path, or a `Bundle`."""
    _: KW_ONLY
    reference: Folder | None = None
    """The student's checkpoint; found beside the bundle's run when None."""
    data: PathLike | None = None
    """Questions, a data spec; the run's test questions, else stock questions, when None."""
    samples: int | None = None
    """How many; 32, and more where the answers are short (`edgekit.report.tolerances.settling`), when None."""
    threads: int = 1
    """CPU threads of each side."""
    runtime: str | None = None
    """That runs the bundle, where several could; edgekit's own when None."""
    attribute: bool = False
    """Find out which part costs what; the target's fp32 export is made for it and thrown away."""

    def __post_init__(self) -> None:
        """Plain values are checked."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How an answer is made: what `run` and `chat` share."""

    generation: str = "model"
    """model: greedy with the model's own settings (generation_config.json: repetition_penalty and so on), the tokens of
    `transformers.generate(do_sample=False)`; greedy: without them."""
    max_new_tokens: int = 32
    """Longest answer."""
    temperature: float = 0.0
    """0 is greedy, whatever the model's settings say of sampling."""
    top_p: float = 1.0
    """Of sampling: candidates that make up this share of the probability."""
    top_k: int = 0
    """Of sampling: so many candidates; 0 for all."""
    repetition_penalty: float | None = None
    """In the place of the model's, also for greedy answers; the model's, or none, when None."""
    seed: int | None = None
    """Of sampling."""
    stops: Texts | None = None
    """Texts that end the answer; one or several."""
    threads: int = 1
    """CPU threads."""
    runtime: str | None = None
    """That runs the bundle, where several could; edgekit's own when None."""

    def __post_init__(self) -> None:
        """Plain values are checked."""
        check_fields(self)


@dataclass(frozen=True)
class RunSettings(AnswerSettings):
    """What `run` is told."""

    model: Folder
    """Bundle, Hugging Face folder, or `demo:student`."""
    prompt: str
    """The question."""
    images: ImageInputs = None
    """One image, or several in order: a path, an image file's bytes, a Pillow image or a uint8 array (H, W, 3) each.
    Turned upright by their EXIF tag, as transformers does when it loads a file."""
    _: KW_ONLY
    on_text: Callable[[str], None] | None = None
    """Told each piece of text as it comes."""


@dataclass(frozen=True)
class ChatSettings(AnswerSettings):
    """What `chat` is told; the whole conversation is the prompt that the model's settings see."""

    model: Folder
    """As of `run`."""
    _: KW_ONLY
    max_new_tokens: int = 256
    """Longest answer of a turn."""


@dataclass(frozen=True)
class ProbeSettings(Sweep):
    """What `probe` is told."""

    teacher: Folder
    """Hugging Face folder, hub name or `demo:teacher`."""
    _: KW_ONLY
    data: str | None = None
    """Data spec; the train data of the workspace's recipe when None, the demo's where there is none."""
    scoring: str | Mapping[str, str] | None = None
    """Metric, or data set -> metric; the recipe's when its data are asked, else exact, when None."""
    out: PathLike = "edgekit-probe"
    """Folder, text or Path, for `<teacher>.json` and, where matplotlib is installed, `<teacher>.svg`."""

    def __post_init__(self) -> None:
        """Plain values are checked."""
        check_fields(self)


@dataclass(frozen=True)
class PlanSettings(Assumed):
    """What `distill_plan` is told."""

    recipe: PathLike | None = None
    """As of `distill`."""
    _: KW_ONLY
    overrides: Overrides | None = None
    """As of `distill`."""
    workspace: PathLike | None = None
    """As of `distill`."""

    def __post_init__(self) -> None:
        """Plain values are checked."""
        check_fields(self)
