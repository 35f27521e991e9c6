"""Bars of parity, by precision; declared before anything is measured (Olive's habit, and the Core AI zoo's)."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import TypeVar

from edgekit.console import Bar, progress
from edgekit.errors import EdgekitError
from edgekit.precision import by_part, is_mixed

T = TypeVar("T")
BARS: dict[str, dict[str, float]] = {
    "fp32": {"greedy_identical": 1.0, "logits_max_abs": 1e-4},
    "fp16": {"top1_agreement": 0.99},
    "int8": {"top1_agreement": 0.99},
    "int8-static": {"top1_agreement": 0.99},
    # Steps are sixteen times int8's, so close calls turn round. Measured: all 606 tokens of 300 questions agree on the
    # demo's student, 0.84 to 0.86 on random weights, whose tokens are nearly all close calls.
    "int4": {"top1_agreement": 0.95},
    # llama.cpp's own types, named by it.
    "bf16": {"top1_agreement": 0.99},
    "q6_k": {"top1_agreement": 0.99},
    "q5_k_m": {"top1_agreement": 0.97},
    **{word: {"top1_agreement": 0.95} for word in ("q4_k_m", "iq4_nl")},
    **{f"{word}-imatrix": {"top1_agreement": 0.95} for word in ("q4_k_m", "int4", "iq4_nl")},
    # Palettes of 256, 64 and 16 values for the weights of linear layers. Measured in Core AI on a student of the demo's
    # recipe: all 300 tokens of 150 questions agree in each of the three.
    "pal8": {"top1_agreement": 0.99},
    "pal6": {"top1_agreement": 0.99},
    "pal4": {"top1_agreement": 0.95},
    **{f"{word}-calibrated": {"top1_agreement": bar} for word, bar in (("int4", 0.95), ("pal6", 0.99), ("pal4", 0.95))},
}
# Random weights make nearly every token a close call, so there the logits' distributions are compared instead of best
# tokens. Measured on tiny models of four families, mean over the prompts, in nats, the highest: fp16 2.8e-6, int8
# 1.3e-3, int4 0.22.
RANDOM_BARS: dict[str, dict[str, float]] = {
    "fp32": BARS["fp32"],
    "fp16": {"mean_kl": 1e-4},
    "int8": {"mean_kl": 2e-2},
    "int8-static": {"mean_kl": 5e-2},  # one scale for all inputs, outliers included, where int8 has one for each run
    "int4": {"mean_kl": 0.4},
    "bf16": {"mean_kl": 1e-3},
    "q6_k": {"mean_kl": 2e-2},
    "q5_k_m": {"mean_kl": 0.1},
    **{word: {"mean_kl": 0.4} for word in ("q4_k_m", "iq4_nl")},
    **{f"{word}-imatrix": {"mean_kl": 0.4} for word in ("q4_k_m", "int4", "iq4_nl")},
    "pal8": {"mean_kl": 2e-2},
    "pal6": {"mean_kl": 0.1},
    "pal4": {"mean_kl": 0.4},
    **{f"{word}-calibrated": {"mean_kl": bar} for word, bar in (("int4", 0.4), ("pal6", 0.1), ("pal4", 0.4))},
}
# Where a target's runtime cannot hold a bar of PyTorch's float32 by its own make. llama.cpp cuts patches by a float16
# convolution and reads GELU from a table of float16 values, also in a float32 model.
TARGET_BARS: dict[tuple[str, str], dict[str, float]] = {
    ("gguf", "fp32"): {"greedy_identical": 1.0, "logits_max_abs": 1e-2},
}
# Random weights bring best tokens nearer to each other than that, so there the distributions are held to it alone.
# Measured on four tiny families: mean KL at most 1.8e-7.
TARGET_RANDOM_BARS: dict[tuple[str, str], dict[str, float]] = {
    ("gguf", "fp32"): {"logits_max_abs": 1e-2, "mean_kl": 1e-6},
}
# Signal over error of each module, dB, on the reference's own inputs. Measured for vision and decoder in ONNX Runtime:
# fp32 119 to 124 on random weights of four families; fp16 73 and 85 on the demo's student, 67 and 53 on a random
# SmolVLM; int8 45 and 54, 41 and 28; int4 28 and 39 on the demo's student.
COMPONENT_SNR_DB = {
    "fp32": 80.0, "fp16": 40.0, "int8": 15.0, "int8-static": 15.0, "int4": 8.0, "bf16": 30.0, "q6_k": 15.0,
    "q5_k_m": 12.0, "q4_k_m": 8.0, "iq4_nl": 8.0, "pal8": 15.0, "pal6": 12.0, "pal4": 8.0,
    "int4-calibrated": 8.0, "pal6-calibrated": 12.0, "pal4-calibrated": 8.0,
}  # fmt: skip
TARGET_SNR_DB: dict[tuple[str, str], float] = {("gguf", "fp32"): 40.0}
COMPONENTS = ("vision", "embedding", "decoder")
# Whatever the precision: the runtime must see the picture and the words that PyTorch sees.
ALWAYS = {"pixel_max_abs": 1e-5, "prompt_ids_equal": 1.0, "parameters_equal": 1.0}
# Prompts of a comparison, unless the caller says how many. One token of 64 cannot tell 98 % from 99 %, so short answers
# need more of them: without a miss in 300 tokens the true share is above 99 % with 95 % confidence (the rule of three).
PROMPTS, MOST_PROMPTS, TOKENS = 32, 160, 300
UPPER = frozenset({"logits_max_abs", "pixel_max_abs", "mean_kl"})


def bars_of(precision: str, target: str = "") -> dict[str, float]:
    """The bars of a precision, by its common name; of a mixture the loosest of its parts'.

    Args:
        precision: Common name, or a mixture.
        target: Whose own bars go before, where it has some.

    Raises:
        EdgekitError: none are declared, so nothing could be judged.
    """
    if (target, precision) in TARGET_BARS:
        return TARGET_BARS[target, precision]
    words = sorted(set(by_part(precision).values())) if is_mixed(precision) else [precision]
    for word in words:
        if word not in BARS:
            raise EdgekitError(
                f"No bars of parity are declared for precision {word!r}.", fix=f"There are: {', '.join(BARS)}."
            )
    # Without a bar on single tokens every answer must be the same: nothing is stricter.
    return BARS[min(words, key=lambda word: BARS[word].get("top1_agreement", 1.0))]


def random_bars_of(precision: str, target: str = "") -> dict[str, float]:
    """The bars of a precision for a model with random weights.

    Args:
        precision: Common name.
        target: As for `bars_of`.
    Raises:
        EdgekitError: none are declared.
    """
    if (target, precision) in TARGET_RANDOM_BARS:
        return TARGET_RANDOM_BARS[target, precision]
    if precision not in RANDOM_BARS:
        raise EdgekitError(
            f"No bars for random weights are declared for precision {precision!r}.",
            fix=f"There are: {', '.join(RANDOM_BARS)}.",
        )
    return RANDOM_BARS[precision]


def component_bars(precision: str, target: str = "", parts: Mapping[str, str] | None = None) -> dict[str, float]:
    """The bars of each module: its output's signal over error, dB.

    Args:
        precision: Common name; of a mixture each module is held to its own part's.
        target: As for `bars_of`.
        parts: What a bundle says of vision, embedding and text itself, for a target whose word means something else.
    """
    given = {**by_part(precision), **(parts or {})}
    words = {name: given["text" if name == "decoder" else name] for name in COMPONENTS}
    own = {name: TARGET_SNR_DB.get((target, word), COMPONENT_SNR_DB.get(word)) for name, word in words.items()}
    return {f"{name}_snr_db": bar for name, bar in own.items() if bar is not None}


def judge(figures: Mapping[str, float | None], bars: Mapping[str, float]) -> dict[str, dict[str, float | bool | None]]:
    """Each bar with the figure it is for, and whether it holds; None, a figure that is not finite, holds no bar."""
    return {
        name: {"value": figures[name], "bar": bar, "held": _held(name, figures[name], bar)}
        for name, bar in bars.items()
    }


def settling(prompts: Iterable[T], tokens: Sized, label: str, *, count: int | None = None) -> Iterator[T]:
    """The prompts of a comparison, with progress.

    Without a count it is known after the first `PROMPTS`, from the length of the reference's answers alone, whatever
    the other side said: enough for `TOKENS` tokens, at most `MOST_PROMPTS`.

    Args:
        prompts: Lazy is fine.
        tokens: Grows by one for each token of the reference's answers.
        label: Of the progress.
        count: Exactly so many, where there are.
    """
    left = iter(prompts)
    with progress() as bar:
        done = yield from _shown(left, count or PROMPTS, bar, label)
        wanted = min(MOST_PROMPTS, math.ceil(TOKENS * done / max(len(tokens), 1))) - done
        if count is None and done == PROMPTS and wanted > 0:
            yield from _shown(left, wanted, bar, f"{label}, more for short answers")


def _shown(prompts: Iterator[T], count: int, bar: Bar, label: str) -> Generator[T, None, int]:
    task, number = bar.add_task(label, total=count), 0
    for number, prompt in enumerate(islice(prompts, count), 1):
        yield prompt
        bar.update(task, completed=number)
    return number


def _held(name: str, value: float | None, bar: float) -> bool:
    if value is None:
        return False
    return value <= bar if name in UPPER else value >= bar
